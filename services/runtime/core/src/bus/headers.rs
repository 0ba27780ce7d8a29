//! Headers of a message to be sent, written once in the form in which they go over the wire. The client takes headers as
//! a hash map of lists of strings, which for those of events was a fifth of a worker's time (deploy/LIMITS.md).

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error;

/// Where nats-server's own message tracing is to go, and what keeps it off a message [NATS ADR-41].
const BROKER_TRACE: &str = "Nats-Trace-Dest";
const BROKER_TRACES_NOT: &str = "trace disabled\r\n";
const QUIET: usize = BROKER_TRACE.len() + ": ".len() + BROKER_TRACES_NOT.len();

/// Bytes of an empty header block: its version, and the empty line at its end.
const FRAME: usize = "NATS/1.0\r\n\r\n".len();

/// Headers in the order in which they were added; a name may stand there twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// `name: value`, CR and LF for each.
    lines: String,
    /// Where in them the name and the value of each end.
    ends: Vec<(usize, usize)>,
    /// What no header may hold; said when the message is to be sent.
    refused: Option<String>,
    /// Whether a sampled `traceparent` would make the server trace the message.
    traced: bool,
}

impl Headers {
    pub fn with_capacity(headers: usize, bytes: usize) -> Self {
        Self {
            lines: String::with_capacity(bytes),
            ends: Vec::with_capacity(headers),
            ..Self::default()
        }
    }

    pub fn push(&mut self, name: &str, value: &str) {
        // Counted to the end, which the compiler does many bytes at a time.
        let odd = name
            .bytes()
            .filter(|b| !b.is_ascii_graphic() || *b == b':')
            .count();
        let breaks = value.bytes().filter(|b| matches!(b, b'\r' | b'\n')).count();
        if name.is_empty() || odd > 0 {
            self.refused = Some(format!("name {name:?}"));
        } else if breaks > 0 {
            self.refused = Some(format!("value of {name}"));
        } else {
            match name {
                "traceparent" => {
                    self.traced |= is_sampled(value) && !self.lines.contains(BROKER_TRACE)
                }
                BROKER_TRACE => self.traced = false,
                _ => {}
            }
            self.lines.extend([name, ": ", value]);
            self.ends
                .push((self.lines.len() - value.len() - 2, self.lines.len()));
            self.lines.push_str("\r\n");
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, value)| value + 2));
        starts.zip(&self.ends).map(|(start, (name, value))| {
            (&self.lines[start..*name], &self.lines[name + 2..*value])
        })
    }

    /// What no header may hold, if they hold any such thing.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Bytes of the block on the wire. What is committed must never turn out too large to publish, so this has room for
    /// the header that may be added on the way.
    pub fn size(&self) -> usize {
        FRAME + self.lines.len() + if self.traced { QUIET } else { 0 }
    }

    /// The same for the client. A sampled `traceparent` makes the server look the message over for its own tracing,
    /// which costs it 3 us of 20 even where that is not set up, so it is told not to, unless `quiet` is false; and told
    /// first, since it reads no further then.
    ///
    /// The client writes a name, a colon, and a value as it is. So what it gets is the first name, and as its value all
    /// that follows, which it looks at only where a value is made from text, and not where one is read.
    pub fn sent(&self, quiet: bool) -> Result<HeaderMap, String> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let mut map = HeaderMap::new();
        let (Some((first, _)), Some((_, end))) = (self.ends.first(), self.ends.last()) else {
            return Ok(map);
        };
        let (name, lines): (HeaderName, String) = if quiet && self.traced {
            (
                HeaderName::from_static(BROKER_TRACE),
                [BROKER_TRACES_NOT, &self.lines[..*end]].concat(),
            )
        } else {
            let name = self.lines[..*first].parse().map_err(|e| format!("{e}"))?;
            (name, self.lines[first + ": ".len()..*end].to_owned())
        };
        let lines = HeaderValue::deserialize(lines.into_deserializer())
            .map_err(|e: Error| e.to_string())?;
        map.insert(name, lines);
        Ok(map)
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(all: I) -> Self {
        let mut headers = Self::default();
        all.into_iter()
            .for_each(|(name, value)| headers.push(name.as_ref(), value.as_ref()));
        headers
    }
}

/// Whether a `traceparent` is sampled.
fn is_sampled(traceparent: &str) -> bool {
    let flags = traceparent
        .rsplit('-')
        .next()
        .and_then(|flags| u8::from_str_radix(flags, 16).ok());
    flags.is_some_and(|flags| flags & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The block as the client writes it.
    fn block(headers: &Headers, quiet: bool) -> String {
        let map = headers.sent(quiet).expect("headers");
        let lines = map
            .iter()
            .flat_map(|(name, all)| all.iter().map(move |value| format!("{name}: {value}\r\n")));
        lines.fold("NATS/1.0\r\n".to_owned(), |block, line| block + &line) + "\r\n"
    }

    fn traceparent(flags: &str) -> String {
        format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")
    }

    #[test]
    fn headers_go_out_in_their_order_and_as_often_as_they_stand_there() {
        let all = [
            ("ce-id", "a"),
            ("x", ""),
            ("x", "b: c"),
            ("Nats-Msg-Id", " d "),
        ];
        let headers: Headers = all.into_iter().collect();
        assert_eq!(headers.iter().collect::<Vec<_>>(), all);
        let expected = "NATS/1.0\r\nce-id: a\r\nx: \r\nx: b: c\r\nNats-Msg-Id:  d \r\n\r\n";
        assert_eq!(
            (headers.size(), block(&headers, true).as_str()),
            (expected.len(), expected)
        );
        assert_eq!(block(&Headers::default(), true), "NATS/1.0\r\n\r\n");
    }

    #[test]
    fn the_broker_is_told_not_to_trace_what_is_sampled_and_that_counts() {
        let told = |headers: &[(&str, &str)], quiet| {
            let headers: Headers = headers.iter().copied().collect();
            let (size, block) = (headers.size(), block(&headers, quiet));
            assert!(!quiet || size == block.len(), "{block}");
            block
                .lines()
                .filter_map(|line| line.strip_prefix("Nats-Trace-Dest: "))
                .map(str::to_owned)
                .collect()
        };
        let (sampled, other) = (traceparent("01"), traceparent("00"));
        let told: [Vec<String>; 6] = [
            told(&[("traceparent", &sampled)], true),
            told(
                &[("traceparent", &sampled), ("Nats-Trace-Dest", "here")],
                true,
            ),
            told(
                &[("Nats-Trace-Dest", "here"), ("traceparent", &sampled)],
                true,
            ),
            told(&[("traceparent", &sampled)], false),
            told(&[("traceparent", &other)], true),
            told(&[], true),
        ];
        assert_eq!(
            told,
            [
                vec!["trace disabled"],
                vec!["here"],
                vec!["here"],
                vec![],
                vec![],
                vec![]
            ]
        );
    }

    #[test]
    fn what_would_break_a_header_is_refused() {
        for (name, value, why) in [
            ("x", "a\r\nb: c", "value of x"),
            ("x", "a\nb", "value of x"),
            ("a b", "", "name \"a b\""),
            ("a:b", "", "name \"a:b\""),
            ("", "", "name \"\""),
        ] {
            let headers: Headers = [("ce-id", "1"), (name, value)].into_iter().collect();
            assert_eq!(headers.sent(true), Err(why.to_owned()));
        }
    }
}
