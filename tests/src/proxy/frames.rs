//! Just enough of the two protocols to know where a frame ends and what it is.

use std::ops::Range;

/// Length of the first whole RESP value, or nothing while it is still coming.
pub fn resp_len(bytes: &[u8]) -> Option<usize> {
    let line = line_len(bytes)?;
    let number = || {
        std::str::from_utf8(&bytes[1..line - 2])
            .ok()?
            .parse::<i64>()
            .ok()
    };
    match bytes[0] {
        b'$' | b'=' | b'!' => match usize::try_from(number()?) {
            Ok(length) => Some(line + length + 2).filter(|end| *end <= bytes.len()),
            Err(_) => Some(line),
        },
        b'*' | b'~' | b'>' | b'%' => {
            let values = number()?.max(0) * if bytes[0] == b'%' { 2 } else { 1 };
            (0..values).try_fold(line, |at, _| Some(at + resp_len(&bytes[at..])?))
        }
        _ => Some(line),
    }
}

/// The command a request names.
pub fn resp_command(request: &[u8]) -> &[u8] {
    let name = || {
        let at = line_len(request)?;
        let from = at + line_len(&request[at..])?;
        Some(&request[from..from + line_len(&request[from..])? - 2])
    };
    name().unwrap_or_default()
}

fn line_len(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .map(|at| at + 2)
}

/// One NATS protocol message.
#[derive(Debug, PartialEq, Eq)]
pub struct NatsFrame {
    pub len: usize,
    /// Subject and reply of what carries a payload, else empty.
    pub subject: String,
    pub reply: String,
    /// Payload without headers.
    pub payload: Range<usize>,
}

/// The first whole NATS protocol message, or nothing while it is still coming.
pub fn nats_frame(bytes: &[u8]) -> Option<NatsFrame> {
    let line = line_len(bytes)?;
    let text = String::from_utf8_lossy(&bytes[..line - 2]);
    let mut words = text.split_ascii_whitespace();
    let verb = words.next().unwrap_or_default().to_ascii_uppercase();
    let mut words: Vec<&str> = words.collect();
    let plain = NatsFrame {
        len: line,
        subject: String::new(),
        reply: String::new(),
        payload: 0..0,
    };
    // MSG subject sid [reply] size, HMSG subject sid [reply] headers size, PUB subject [reply] size, HPUB likewise.
    if !matches!(verb.as_str(), "MSG" | "HMSG" | "PUB" | "HPUB") || words.len() < 2 {
        return Some(plain);
    }
    if verb.ends_with("MSG") {
        words.remove(1);
    }
    let size: usize = words.pop()?.parse().ok()?;
    let headers: usize = if verb.starts_with('H') {
        words.pop()?.parse().ok()?
    } else {
        0
    };
    let len = line + size + 2;
    let reply = words.get(1).copied().unwrap_or_default().to_owned();
    let frame = NatsFrame {
        len,
        subject: words.first()?.to_string(),
        reply,
        payload: line + headers..line + size,
    };
    (len <= bytes.len()).then_some(frame)
}

/// Whether a payload is what a stream answers to a publish it has taken.
pub fn is_publish_ack(frame: &NatsFrame, payload: &[u8]) -> bool {
    let holds = |part: &[u8]| payload.windows(part.len()).any(|window| window == part);
    frame.reply.is_empty() && holds(b"\"stream\":") && holds(b"\"seq\":") && !holds(b"\"type\":")
}

/// Whether that is the ack of an atomic batch.
pub fn is_batch_ack(frame: &NatsFrame, payload: &[u8]) -> bool {
    is_publish_ack(frame, payload) && payload.windows(8).any(|window| window == b"\"batch\":")
}

/// Whether a whole message is the second of an atomic batch of three or more.
pub fn is_second_of_batch(frame: &NatsFrame, message: &[u8]) -> bool {
    let headers = String::from_utf8_lossy(&message[..frame.payload.start]);
    headers.contains("Nats-Batch-Sequence: 2\r\n") && !headers.contains("Nats-Batch-Commit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resp_values_end_where_they_end() {
        for whole in [
            "+OK\r\n",
            ":7\r\n",
            "$-1\r\n",
            "$3\r\na\r\n\r\n",
            "*2\r\n$1\r\na\r\n*1\r\n:5\r\n",
            "%1\r\n+a\r\n+b\r\n",
        ] {
            let whole = whole.as_bytes();
            assert_eq!(resp_len(&[whole, b"+next\r\n"].concat()), Some(whole.len()));
            assert!((0..whole.len()).all(|cut| resp_len(&whole[..cut]).is_none()));
        }
        assert_eq!(resp_command(b"*2\r\n$5\r\nFCALL\r\n$1\r\nx\r\n"), b"FCALL");
    }

    #[test]
    fn nats_messages_end_where_they_end() {
        let ack = b"MSG _INBOX.a.1 3 26\r\n{\"stream\":\"web\", \"seq\":12}\r\n";
        let frame = nats_frame(ack).expect("whole");
        assert_eq!(
            (frame.len, frame.subject.as_str(), frame.reply.as_str()),
            (ack.len(), "_INBOX.a.1", "")
        );
        assert!(is_publish_ack(&frame, &ack[frame.payload.clone()]));
        assert!((0..ack.len()).all(|cut| nats_frame(&ack[..cut]).is_none()));
        let publish = b"HPUB web.x in.box 12 14\r\nNATS/1.0\r\n\r\nhi\r\n";
        let frame = nats_frame(publish).expect("whole");
        assert_eq!(
            (frame.subject.as_str(), frame.reply.as_str()),
            ("web.x", "in.box")
        );
        assert_eq!(&publish[frame.payload], b"hi");
        assert_eq!(nats_frame(b"PING\r\n").expect("whole").len, 6);
    }

    #[test]
    fn batches_are_told_apart() {
        let ack =
            b"MSG _INBOX.a.1 3 41\r\n{\"stream\":\"web\",\"seq\":9,\"batch\":\"x\",\"a\":3}\r\n";
        let frame = nats_frame(ack).expect("whole");
        assert!(is_batch_ack(&frame, &ack[frame.payload.clone()]));
        assert!(!is_batch_ack(&frame, br#"{"stream":"web","seq":9}"#));
        for (headers, second) in [
            ("Nats-Batch-Sequence: 2\r\n", true),
            ("Nats-Batch-Sequence: 21\r\n", false),
            ("Nats-Batch-Sequence: 2\r\nNats-Batch-Commit: 1\r\n", false),
        ] {
            let headers = format!("NATS/1.0\r\n{headers}\r\n");
            let message = format!(
                "HPUB web.x {} {}\r\n{headers}hi\r\n",
                headers.len(),
                headers.len() + 2
            );
            let frame = nats_frame(message.as_bytes()).expect("whole");
            assert_eq!(
                is_second_of_batch(&frame, message.as_bytes()),
                second,
                "{message}"
            );
        }
    }
}
