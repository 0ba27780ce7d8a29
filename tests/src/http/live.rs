//! What a console pushes to the pages that are open.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ANSWER_TIMEOUT;

/// Waits for an event of this name in which something is so.
pub async fn watch_until(at: SocketAddr, event: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut stream = TcpStream::connect(at).await.expect("a connection");
    let head = format!("GET /api/live HTTP/1.1\r\nhost: {at}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("asked");
    let begin = format!("event: {event}\ndata: ");
    let mut all = String::new();
    let mut piece = vec![0; 64 << 10];
    let watched = timeout(ANSWER_TIMEOUT, async {
        loop {
            let read = stream.read(&mut piece).await.expect("a piece");
            assert!(read > 0, "the stream ended: {all}");
            all.push_str(&String::from_utf8_lossy(&piece[..read]));
            while let Some(end) = all.find("\n\n") {
                let frame: String = all.drain(..end + 2).collect();
                let data = frame.trim_end().split_once(&begin).map(|(_, data)| data);
                let data = data.map(|data| serde_json::from_str::<Value>(data).expect("JSON"));
                if let Some(data) = data.filter(|data| is_so(data)) {
                    return data;
                }
            }
        }
    });
    watched.await.expect("the console never said so")
}
