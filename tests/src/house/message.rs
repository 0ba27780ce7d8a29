//! What a stream holds, as the server's API shows it.

use serde_json::Value;

/// A message as a stream holds it.
#[derive(Debug, Clone)]
pub struct Stored {
    pub subject: String,
    pub headers: String,
    pub payload: Vec<u8>,
}

impl Stored {
    pub(super) fn read(message: &Value) -> Self {
        let part = |name: &str| base64(message[name].as_str().unwrap_or_default());
        Self {
            subject: message["subject"].as_str().unwrap_or_default().to_owned(),
            headers: String::from_utf8_lossy(&part("hdrs")).into_owned(),
            payload: part("data"),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Standard alphabet; a test needs no crate for it.
pub fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for value in text
        .bytes()
        .filter_map(|b| ALPHABET.iter().position(|a| *a == b))
    {
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}
