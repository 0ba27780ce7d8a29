//! One GET, enough to ask a health page or the NATS monitor; a client library would be larger than this whole command.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: u64 = 1 << 20;

/// Status and body. HTTP/1.0, so that the answer comes whole and ends with the connection.
pub async fn get(address: &str, path: &str, patience: Duration) -> Result<(u16, String), String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(
                format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await?;
        let mut answer = Vec::new();
        stream.take(LIMIT).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(answer)) => parse(&String::from_utf8_lossy(&answer))
            .ok_or_else(|| format!("{address} does not speak HTTP")),
        Ok(Err(e)) => Err(format!("{address}: {e}")),
        Err(_) => Err(format!("{address}: no answer within {patience:?}")),
    }
}

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
