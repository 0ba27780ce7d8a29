//! A receiver of webhooks that answers what each test wants.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::until;

/// Key of the tests.
pub const KEY: [u8; 24] = *b"0123456789abcdefghijklmn";

/// Secret as it is configured.
pub fn secret(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

/// Answer of a receiver.
#[derive(Clone)]
pub enum Reply {
    /// Status line, headers and body.
    Say(String),
    /// The same, but not at once.
    SayAfter(Duration, String),
    /// Nothing, with the connection left open.
    Silence,
}

/// Answer with this status and body.
pub fn say(status: &str, body: &str) -> Reply {
    Reply::Say(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Request that came.
#[derive(Clone, Debug)]
pub struct Received {
    pub head: String,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found
            .unwrap_or_else(|| panic!("no {name} in {}", self.head))
            .1
    }
}

/// Notes every request; the first gets the first reply, and so on, the last of them from then on.
pub struct Receiver {
    pub port: u16,
    connections: Arc<Mutex<usize>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    pub async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (connections, received) = (
            Arc::<Mutex<usize>>::default(),
            Arc::<Mutex<Vec<Received>>>::default(),
        );
        let receiver = Self {
            port,
            connections: connections.clone(),
            received: received.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock() += 1;
                tokio::spawn(serve(stream, received.clone(), replies.clone()));
            }
        });
        receiver
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock()
    }

    pub async fn wait_for(&self, requests: usize) -> Vec<Received> {
        until(&format!("{requests} requests"), async || {
            Some(self.received()).filter(|received| received.len() >= requests)
        })
        .await
    }
}

async fn serve(
    mut stream: TcpStream,
    received: Arc<Mutex<Vec<Received>>>,
    replies: Vec<Reply>,
) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.ok()?;
        head.push(byte[0]);
    }
    let mut request = Received {
        head: String::from_utf8(head).expect("UTF-8"),
        body: String::new(),
    };
    let mut body = vec![0; request.header("content-length").parse().expect("a length")];
    stream.read_exact(&mut body).await.ok()?;
    request.body = String::from_utf8(body).expect("UTF-8");
    let at = {
        let mut received = received.lock();
        received.push(request);
        received.len() - 1
    };
    let text = match replies[at.min(replies.len() - 1)].clone() {
        Reply::Say(text) => text,
        Reply::SayAfter(wait, text) => {
            tokio::time::sleep(wait).await;
            text
        }
        Reply::Silence => std::future::pending().await,
    };
    stream.write_all(text.as_bytes()).await.ok()
}

/// Written out after [RFC 2104], so that no code is shared with those who sign.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> {
        (0..64)
            .map(|at| key.get(at).copied().unwrap_or(0) ^ with)
            .collect()
    };
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(text)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

/// Panics unless these keys, and no others, have signed it.
pub fn assert_signed(request: &Received, keys: &[&[u8]]) {
    let (id, timestamp) = (
        request.header("webhook-id"),
        request.header("webhook-timestamp"),
    );
    let content = format!("{id}.{timestamp}.{}", request.body);
    let expected: Vec<String> = keys
        .iter()
        .map(|key| format!("v1,{}", STANDARD.encode(hmac(key, &content))))
        .collect();
    assert_eq!(request.header("webhook-signature"), expected.join(" "));
}
