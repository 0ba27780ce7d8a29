//! Listener for `/metrics` of workers. By hand, since it answers one question: a server of `hyper` would bring a
//! crate more and as many lines.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{render, wanted};
use crate::metrics::Source;

/// Largest request head, in bytes.
/// A longer one is answered from what has been read.
const MAX_HEAD: usize = 8 << 10;
/// Longest time for one scrape.
/// From the accepted connection to the end of the answer; a scraper waits that long for the one
/// before, at most.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers `GET /metrics` on `ONCUE_METRICS_LISTEN`, if that is set. An address that cannot be listened on is logged,
/// and no reason to stop.
///
/// Runs until the process ends. HTTP/1.1, one request a connection; nothing on it asks for
/// credentials, so the address is best one that only the scraper can reach.
pub async fn serve(source: Source) {
    let Some(address) = crate::listen() else {
        return;
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(e) => return tracing::warn!(address, error = %e, "no /metrics: cannot listen"),
    };
    if let Ok(at) = listener.local_addr() {
        tracing::info!("metrics on http://{at}/metrics");
    }
    loop {
        match listener.accept().await {
            // One after another: scrapers come alone, and one that dawdles is cut off.
            Ok((mut stream, _)) => {
                drop(timeout(SCRAPE_TIMEOUT, answer(&mut stream, &source)).await);
            }
            // Mostly file descriptors have run out, and those in use come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Reads one request head and answers it: 200 for `GET /metrics`, 404 for all else. Bodies are not
/// read. Header and path are compared in lower case.
///
/// # Errors
/// The connection breaks; the scraper tries again.
async fn answer(stream: &mut TcpStream, source: &Source) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let mut lines = head.lines();
    let path = lines
        .next()
        .unwrap_or_default()
        .strip_prefix("get ")
        .and_then(|rest| rest.split([' ', '?']).next());
    let (open, kind) = wanted(lines.find_map(|line| line.strip_prefix("accept:")));
    let (status, body) = match path {
        Some("/metrics") => ("200 OK", render(&source(), open)),
        _ => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
