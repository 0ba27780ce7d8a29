//! Headers of a message to be sent, written once in the form in which they go over the wire, `name: value\r\n` each.
//! The client takes headers as a hash map of lists of strings, which for those of events was a fifth of a worker's
//! time (deploy/LIMITS.md); how a written block gets past that map is [`HeaderBlock`], a hack with a name.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error;

/// Header by which a message asks nats-server for tracing of its own [NATS ADR-41].
const BROKER_TRACE: &str = "Nats-Trace-Dest";
/// Value of [`BROKER_TRACE`] that keeps the server's tracing off a message, and the end of its line.
const BROKER_TRACE_OFF: &str = "trace disabled\r\n";
/// Bytes of that line.
const BROKER_TRACE_LINE: usize = BROKER_TRACE.len() + ": ".len() + BROKER_TRACE_OFF.len();

/// Bytes of an empty header block: its version, and the empty line at its end.
const EMPTY_BLOCK: usize = "NATS/1.0\r\n\r\n".len();

/// Headers in the order in which they were added; a name may stand there twice. A header that NATS cannot carry is not
/// added: it makes sending fail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// `name: value`, CR and LF for each.
    lines: String,
    /// Ends of each header in `lines`.
    ends: Vec<HeaderEnds>,
    /// First reason for which a header was not added.
    refused: Option<String>,
    /// Whether a sampled `traceparent` would make the server trace the message.
    traced: bool,
}

/// Offsets of one header in the lines of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeaderEnds {
    /// End of the name, where the colon is.
    name: usize,
    /// End of the value, where CR and LF are.
    value: usize,
}

impl Headers {
    /// No headers, with room for so many, and for so many bytes of names and values with four more for each.
    pub fn with_capacity(headers: usize, bytes: usize) -> Self {
        Self {
            lines: String::with_capacity(bytes),
            ends: Vec::with_capacity(headers),
            ..Self::default()
        }
    }

    /// Adds a header. A name of anything but printable ASCII without `:`, and a value with a line break, are
    /// [refused](Self::refused).
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
                    self.traced |= is_sampled(value) && !self.lines.contains(BROKER_TRACE);
                }
                BROKER_TRACE => self.traced = false,
                _ => {}
            }
            self.lines.extend([name, ": ", value]);
            self.ends.push(HeaderEnds {
                name: self.lines.len() - value.len() - ": ".len(),
                value: self.lines.len(),
            });
            self.lines.push_str("\r\n");
        }
    }

    /// Names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|ends| ends.value + 2));
        starts.zip(&self.ends).map(|(start, ends)| {
            let name = &self.lines[start..ends.name];
            (name, &self.lines[ends.name + ": ".len()..ends.value])
        })
    }

    /// Reason for which a header was not added, for people; `None` while all were.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Bytes of the block on the wire. A committed message must never turn out too large to publish, so this has room
    /// for the header that may be added on the way.
    pub fn size(&self) -> usize {
        let broker_trace = if self.traced { BROKER_TRACE_LINE } else { 0 };
        EMPTY_BLOCK + self.lines.len() + broker_trace
    }

    /// Headers as the client takes them. Fails with the reason where one was refused.
    ///
    /// A sampled `traceparent` makes the server look the message over for its own tracing, which costs it 3 us of 20
    /// even where that is not set up, so it is told not to, unless `broker_spans` may be made; and told first, since
    /// it reads no further then.
    pub(super) fn to_header_map(&self, broker_spans: bool) -> Result<HeaderMap, String> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let Some(first) = self.ends.first() else {
            return Ok(HeaderMap::new());
        };
        let end = self.lines.len() - "\r\n".len();
        let block = if self.traced && !broker_spans {
            HeaderBlock {
                first_name: HeaderName::from_static(BROKER_TRACE),
                rest: [BROKER_TRACE_OFF, &self.lines[..end]].concat(),
            }
        } else {
            let name = self.lines[..first.name].parse();
            HeaderBlock {
                first_name: name.map_err(|e| format!("{e}"))?,
                rest: self.lines[first.name + ": ".len()..end].to_owned(),
            }
        };
        block.into_header_map().map_err(|e| e.to_string())
    }
}

/// A whole block of headers that passes for one header: a hack around the client's header map.
///
/// * How: the client writes a header as its name, a colon, and its value as it is. So this is the first name, and as
///   its value all that follows, line breaks included.
/// * Past which check: the client refuses line breaks in a value that is made from text (`HeaderValue::from_str`), and
///   looks at nothing in a value that is deserialized. [`Headers::push`] has made that check for each header.
/// * Why: one string and a map of one entry in place of a map of a dozen entries, each a list of strings. The client
///   has no way to hand over a written block; with one, this type would go.
/// * If it stopped working: should the client check deserialized values, sending fails with `cannot be sent as NATS
///   headers`; should it write values in another way, the first unit test below fails, and so does every system test
///   against a real server, since events without their headers are not what was sent.
struct HeaderBlock {
    /// Name that the client writes.
    first_name: HeaderName,
    /// Value of the first header, then the lines of the others; without CR and LF at the end.
    rest: String,
}

impl HeaderBlock {
    /// Map of one header, which the client writes as the whole block.
    fn into_header_map(self) -> Result<HeaderMap, Error> {
        let unchecked = HeaderValue::deserialize(self.rest.into_deserializer())?;
        let mut map = HeaderMap::new();
        map.insert(self.first_name, unchecked);
        Ok(map)
    }
}

/// Headers from names and values, in order; for messages that are rare, since no room is reserved.
impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(all: I) -> Self {
        let mut headers = Self::default();
        all.into_iter()
            .for_each(|(name, value)| headers.push(name.as_ref(), value.as_ref()));
        headers
    }
}

/// Whether a `traceparent` is sampled: bit 0 of its last field [W3C Trace Context section 3.2.2.5].
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
    fn block(headers: &Headers, broker_spans: bool) -> String {
        let map = headers.to_header_map(broker_spans).expect("headers");
        let lines = map
            .iter()
            .flat_map(|(name, all)| all.iter().map(move |value| format!("{name}: {value}\r\n")));
        lines.fold("NATS/1.0\r\n".to_owned(), |block, line| block + &line) + "\r\n"
    }

    fn traceparent(flags: &str) -> String {
        format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")
    }

    /// Values by which the server is told about its own tracing. The size counts them.
    fn told(headers: &[(&str, &str)], broker_spans: bool) -> Vec<String> {
        let headers: Headers = headers.iter().copied().collect();
        let block = block(&headers, broker_spans);
        assert!(broker_spans || headers.size() == block.len(), "{block}");
        let lines = block.lines();
        lines
            .filter_map(|line| line.strip_prefix("Nats-Trace-Dest: "))
            .map(str::to_owned)
            .collect()
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
            (headers.size(), block(&headers, false).as_str()),
            (expected.len(), expected)
        );
        assert_eq!(block(&Headers::default(), false), "NATS/1.0\r\n\r\n");
    }

    #[test]
    fn the_broker_is_told_not_to_trace_what_is_sampled_and_that_counts() {
        let sampled = traceparent("01");
        let other = traceparent("00");
        let told: [Vec<String>; 6] = [
            told(&[("traceparent", &sampled)], false),
            told(
                &[("traceparent", &sampled), ("Nats-Trace-Dest", "here")],
                false,
            ),
            told(
                &[("Nats-Trace-Dest", "here"), ("traceparent", &sampled)],
                false,
            ),
            told(&[("traceparent", &sampled)], true),
            told(&[("traceparent", &other)], false),
            told(&[], false),
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
            assert_eq!(headers.to_header_map(false), Err(why.to_owned()));
        }
    }
}
