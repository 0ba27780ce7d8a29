//! Fills a stream with a backlog, as fast as a stream takes it: lines on a socket, every one of them acked.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use oncue_proto::Format;
use oncue_proto::event::{self, Meta, format_time};

/// A click as the backlog holds it.
#[derive(Debug, Clone, Copy)]
pub struct Clicks {
    pub events: u64,
    pub keys: u64,
    /// Bytes of the JSON payload, at least those it takes.
    pub payload: usize,
    /// The headers the gateway writes, or the id alone as any client would.
    pub headers: Headers,
    /// Number of the first: a stream takes none twice.
    pub first: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    Whole,
    IdOnly,
}

/// Published and not yet acked.
const WINDOW: u64 = 3000;
const BURST: u64 = 500;

impl Clicks {
    fn write(&self, number: u64, now: u64, out: &mut Vec<u8>) {
        let (ty, id, key) = (
            "web.page.viewed",
            id(number),
            format!("/p{}", number % self.keys),
        );
        let mut payload = format!(
            r#"{{"page":"{key}","visitor":"v{number}","at":"{}","referrer":""#,
            format_time(now)
        );
        let pad = self.payload.saturating_sub(payload.len() + 2);
        payload.extend(std::iter::repeat_n('x', pad));
        payload.push_str("\"}");
        let mut head = String::from("NATS/1.0\r\n");
        let subject = match self.headers {
            Headers::IdOnly => {
                let _ = write!(head, "Nats-Msg-Id: {id}\r\n");
                ty.to_owned()
            }
            Headers::Whole => {
                for (name, value) in event::headers(&meta(ty, &id, now), &key, Format::Json) {
                    let _ = write!(head, "{name}: {value}\r\n");
                }
                event::subject(ty, &key)
            }
        };
        head.push_str("\r\n");
        let (head_len, total) = (head.len(), head.len() + payload.len());
        let _ = write!(
            out,
            "HPUB {subject} _FILL {head_len} {total}\r\n{head}{payload}\r\n"
        );
    }
}

/// Id of the event of this number.
pub fn id(number: u64) -> String {
    format!("0192-click-{number:012}")
}

fn meta(ty: &str, id: &str, now: u64) -> Meta {
    Meta {
        id: id.to_owned(),
        source: "/bench".into(),
        ty: ty.to_owned(),
        time: now,
        timed: true,
        flow: id.to_owned(),
        cause: String::new(),
        hops: 0,
        traceparent: None,
        tracestate: None,
        baggage: None,
        redrive: None,
        tracked: false,
    }
}

/// Publishes all of them and returns when the last is acked.
pub fn fill(nats_port: u16, clicks: Clicks) {
    let mut socket = TcpStream::connect(("127.0.0.1", nats_port)).expect("NATS");
    socket.set_nodelay(true).expect("a socket");
    let connect = b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB _FILL 1\r\n";
    socket.write_all(connect).expect("NATS takes it");
    let (now, mut sent, mut acked) = (event::now_ms(), 0, 0);
    let (mut burst, mut buffer, mut rest) = (Vec::new(), vec![0; 1 << 16], Vec::new());
    while acked < clicks.events {
        let end = (sent + BURST).min(clicks.events);
        if sent < end && sent - acked < WINDOW.min(1 + (64 << 20) / clicks.payload.max(1) as u64) {
            burst.clear();
            (sent..end).for_each(|number| clicks.write(clicks.first + number, now, &mut burst));
            socket.write_all(&burst).expect("NATS takes it");
            sent = end;
            continue;
        }
        let n = socket.read(&mut buffer).expect("NATS answers");
        assert!(n > 0, "NATS closed the connection");
        rest.extend_from_slice(&buffer[..n]);
        acked += take_acks(&mut rest, &mut socket);
    }
}

/// Counts the whole lines among what was read and leaves the rest.
fn take_acks(read: &mut Vec<u8>, socket: &mut TcpStream) -> u64 {
    let (mut acks, mut from) = (0, 0);
    while let Some(end) = read[from..]
        .iter()
        .position(|b| *b == b'\n')
        .map(|n| from + n)
    {
        let line = String::from_utf8_lossy(&read[from..end]);
        assert!(
            !line.contains("\"error\"") && !line.starts_with("-ERR"),
            "the backlog is refused: {line}"
        );
        if line.starts_with("PING") {
            socket.write_all(b"PONG\r\n").expect("NATS takes it");
        }
        acks += u64::from(line.starts_with("{\"stream\""));
        from = end + 1;
    }
    read.drain(..from);
    acks
}
