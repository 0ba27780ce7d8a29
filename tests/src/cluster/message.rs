//! Messages of a stream, as the server's API shows them: every byte of their headers, read by no code of ours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
        Self {
            subject: message["subject"].as_str().unwrap_or_default().to_owned(),
            headers: String::from_utf8_lossy(&bytes(&message["hdrs"])).into_owned(),
            payload: bytes(&message["data"]),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What is not there is empty.
fn bytes(part: &Value) -> Vec<u8> {
    let text = part.as_str().unwrap_or_default();
    STANDARD.decode(text).expect("base64")
}
