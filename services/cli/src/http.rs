//! HTTP client for one GET: enough to ask a health page or the NATS monitor. A client library would be larger than
//! this whole command.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of an answer that are read; the pages asked for are a hundred times smaller.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Status and body of `http://{address}{path}`, within `timeout` from connecting to the last byte.
pub async fn get(address: &str, path: &str, timeout: Duration) -> Result<(u16, String), String> {
    match tokio::time::timeout(timeout, exchange(address, path)).await {
        Ok(Ok(answer)) => parse(&String::from_utf8_lossy(&answer))
            .ok_or_else(|| format!("{address} does not speak HTTP")),
        Ok(Err(e)) => Err(format!("{address}: {e}")),
        Err(_) => Err(format!("{address}: no answer within {timeout:?}")),
    }
}

/// Bytes of the answer. HTTP/1.0, so that it comes whole, without chunks, and ends with the connection.
async fn exchange(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await?;
    Ok(answer)
}

/// Status and body; `None` for what is no HTTP. Headers are not looked at: every page asked for is text.
fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn answers_are_read() {
        assert_eq!(
            parse("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}"),
            Some((200, "{}".into()))
        );
        assert_eq!(parse("HTTP/1.0 503\r\n\r\n"), Some((503, String::new())));
        assert_eq!(parse("-ERR unknown command\r\n\r\n"), None);
    }
}
