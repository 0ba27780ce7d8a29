//! An HTTP client simple enough to misbehave on purpose: it writes the bytes it is given and reads to the end.

pub mod live;
pub mod receiver;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for an answer, its body included: a test that hangs is a test that fails.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Header of a JSON body.
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// An answer as it came, chunked where the server did not know its length.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Body of an answer that must be 200.
    #[track_caller]
    pub fn ok_json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    pub fn is_problem(&self) -> bool {
        self.header("content-type") == Some("application/problem+json")
    }

    /// Checks that this is a problem document (RFC 9457) of this status and class, and returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.is_problem(), "{}", self.head);
        let problem = self.json();
        let class = format!("urn:oncue:problem:{code}");
        assert_eq!(problem["type"], class, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        let title = problem["title"].as_str().unwrap_or_default();
        assert!(!title.is_empty(), "{problem}");
        problem["detail"].as_str().unwrap_or_default().to_owned()
    }
}

/// One request on a connection of its own. `host` and `content-length` are added where they are not given.
pub async fn request(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Answer {
    let body = body.as_ref();
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        let _ = write!(head, "host: {at}\r\n");
    }
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT") {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    let message = [head.as_bytes(), b"\r\n", body].concat();
    raw(at, &message).await.expect("an answer")
}

/// Writes these very bytes and reads to the end; `None` where no answer came.
pub async fn raw(at: SocketAddr, message: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(at).await.expect("a connection");
    let (mut reader, mut writer) = stream.split();
    // A refusal may come before the whole body is written.
    let (_, answer) = tokio::join!(writer.write_all(message), answer(&mut reader));
    answer
}

async fn answer(reader: &mut (impl AsyncRead + Unpin)) -> Option<Answer> {
    let mut all = Vec::new();
    let read = timeout(ANSWER_TIMEOUT, reader.read_to_end(&mut all)).await;
    read.expect("the connection stays open").ok()?;
    let end = all.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(all[..end].to_vec()).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head,
        body: all[end + 4..].to_vec(),
    })
}
