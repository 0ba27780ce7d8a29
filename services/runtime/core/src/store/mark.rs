//! Seen-marks: where in Redis the mark of a handled event is, what its bytes say, and which outbox it points to.
//!
//! A mark is what makes a second delivery harmless: it is written in the step that applies the event, and every later
//! copy of the event finds it. `commit.lua` compares marks byte by byte, so their layout ([`SeenMark`]) and the
//! positions that the script names are held together by a unit test.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::{GRACE_MS, MarkState};
use oncue_proto::event::{self, Meta};

/// Event time that one bucket of seen-marks covers, milliseconds: few enough ids for Redis's compact encoding at
/// hundreds of events per second and function, many enough that a slow stream does not pay a key per id.
const BUCKET_MS: u64 = 120_000;

/// Identity of one (function, event): enough to find its seen-mark and its count of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Name of the function, part of every key. Shared: a worker clones one `Arc` for all of its marks.
    pub function: Arc<str>,
    /// Key of the event for this function: decides the partition.
    pub key: Arc<str>,
    /// [`event::partition`] of `key`.
    pub partition: u32,
    /// [`event::hash`] of the event's id.
    pub id: [u8; 16],
    /// Time of the event, Unix milliseconds: decides the bucket.
    pub time: u64,
    /// Whether `time` belongs to the event for ever; if not, its bucket is as wide as the horizon and two are looked
    /// up.
    pub timed: bool,
    /// Age at which an event of the stream is refused, milliseconds.
    pub horizon: u64,
    /// Time that the age fence measures, Unix milliseconds: `time`, or the moment of the redrive.
    pub fence: u64,
    /// Number of the redrive, 0 for none: a dead letter comes to life only for a later one.
    pub redrive: u32,
    /// Sequence of the event in its stream, 0 where that is not known. A Redis that loses this mark is restored from
    /// there.
    pub sequence: u64,
}

impl Mark {
    /// Mark of `function` for the event `meta`, keyed by `key`. `horizon` is that of the stream, in milliseconds; the
    /// sequence is not known yet. Allocates nothing for a `function` that is an `Arc` already.
    pub fn new(function: impl Into<Arc<str>>, key: &str, meta: &Meta, horizon: u64) -> Self {
        let id = event::hash(&[meta.id.as_bytes()]);
        let (redrive, fence) = meta
            .redrive
            .map_or((0, meta.time), |redrive| (redrive.number, redrive.at));
        Self {
            function: function.into(),
            partition: event::partition(key),
            key: key.into(),
            id,
            time: meta.time,
            timed: meta.timed,
            horizon,
            fence,
            redrive,
            sequence: 0,
        }
    }

    /// Whether a mark as Redis holds it leaves nothing to do: applied, or dead and not redriven since.
    pub fn is_settled_by(&self, found: &[u8]) -> bool {
        let found = SeenMark::decode(found);
        found.state == MarkState::Applied || self.redrive <= found.redrive
    }

    /// Redis keys of the buckets that may hold the mark, the one it is written to first. Of a timed event that is the
    /// only one; of an untimed event an earlier or a later copy may have written to a neighbour.
    pub fn seen_keys(&self) -> Vec<String> {
        let partition = self.partition;
        let function = &self.function;
        if self.timed {
            return vec![format!(
                "{{p{partition}}}:d:{function}:{}",
                self.time / BUCKET_MS
            )];
        }
        // A copy may have come a horizon earlier, or later and been handled before this one.
        let bucket = self.time / self.horizon.max(1);
        [bucket, bucket.saturating_sub(1), bucket + 1]
            .map(|b| format!("{{p{partition}}}:d:{function}:h{b}"))
            .to_vec()
    }

    /// Unix seconds at which the bucket may go: nothing in it can pass the age fence any more. `now` is in Unix
    /// milliseconds.
    pub fn expiry(&self, now: u64) -> u64 {
        // A later copy of an untimed event passes the fence for one horizon more.
        let copies = if self.timed { 0 } else { self.horizon };
        let width = self.bucket_width();
        let end = (self.time / width + 1) * width;
        (end.max(now).max(self.fence) + copies + self.horizon + GRACE_MS) / 1000
    }

    /// Whether two marks stand in the same buckets, expire with them, and hang on the same redrive.
    pub fn shares_bucket(&self, other: &Self) -> bool {
        let width = self.bucket_width();
        self.timed == other.timed
            && self.redrive == other.redrive
            && self.partition == other.partition
            && self.time / width == other.time / width
    }

    /// Milliseconds of event time that share a bucket.
    fn bucket_width(&self) -> u64 {
        if self.timed {
            BUCKET_MS
        } else {
            self.horizon.max(1)
        }
    }

    /// Last parts of the keys of all buckets in which a function's marks of events of these times (Unix ms) may be, the
    /// newest first. The same in every partition.
    pub fn buckets(times: RangeInclusive<u64>, horizon: u64) -> impl Iterator<Item = String> {
        let wide = horizon.max(1);
        let untimed = (times.start() / wide..=times.end() / wide)
            .rev()
            .map(|bucket| format!("h{bucket}"));
        untimed.chain(
            (times.start() / BUCKET_MS..=times.end() / BUCKET_MS)
                .rev()
                .map(|bucket| bucket.to_string()),
        )
    }

    /// Redis key of the count of its runs; each redrive counts anew.
    pub fn runs_key(&self) -> String {
        use base64::Engine as _;
        let id = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.id);
        let key = format!("{{p{}}}:r:{}:{id}", self.partition, self.function);
        if self.redrive == 0 {
            key
        } else {
            format!("{key}.{}", self.redrive)
        }
    }
}

/// Value of a seen-mark in Redis. Bytes, all integers big-endian:
///
/// | bytes | holds |
/// |---|---|
/// | 0 | `a` applied, `d` dead-lettered |
/// | 1..9 | hash of the payload, by which another event under the same id is told apart |
/// | 9..15 | sequence of the event in its stream; 0 for not known |
/// | 15..24 | of an applied event with outputs: partition and nonce of the [`OutboxName`]; else absent |
/// | 15.. | of a dead letter: number of the redrive it spent, in decimal; absent for 0 |
///
/// The positions in `commit.lua` (`MARK_*`) are these, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenMark {
    /// Outcome of the event.
    pub state: MarkState,
    /// Hash of the payload the event had.
    pub payload_hash: u64,
    /// Sequence in the stream, below 2^48, which no server has counted to yet; 0 for not known.
    pub sequence: u64,
    /// Redrive that a dead letter spent; 0 for none, and of an applied event.
    pub redrive: u32,
    /// Outbox with the outputs of an applied event; `None` where nothing followed from it, and of a dead letter.
    pub outbox: Option<OutboxName>,
}

impl SeenMark {
    /// Byte that holds the state.
    const STATE: usize = 0;
    const PAYLOAD_HASH: Range<usize> = 1..9;
    /// Six bytes are enough for a message each microsecond through nine years.
    const SEQUENCE: Range<usize> = 9..15;
    /// Of an applied event.
    const OUTBOX: Range<usize> = 15..24;
    /// Of a dead letter: to the end of the mark.
    const REDRIVE: usize = 15;
    /// State of an applied event.
    const APPLIED: u8 = b'a';
    /// State of a dead letter.
    const DEAD: u8 = b'd';

    /// Bytes as Redis holds them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::OUTBOX.end);
        bytes.push(match self.state {
            MarkState::Applied => Self::APPLIED,
            MarkState::Dead => Self::DEAD,
        });
        bytes.extend(self.payload_hash.to_be_bytes());
        let sequence = self.sequence.to_be_bytes();
        bytes.extend(&sequence[sequence.len() - Self::SEQUENCE.len()..]);
        match self.state {
            MarkState::Applied => bytes.extend(self.outbox.iter().flat_map(|name| name.bytes())),
            MarkState::Dead if self.redrive > 0 => {
                bytes.extend(itoa::Buffer::new().format(self.redrive).as_bytes());
            }
            MarkState::Dead => {}
        }
        bytes
    }

    /// Reads what is there: a part that is absent or torn is 0 or `None`, and a mark of an unknown kind counts as
    /// applied, since the event must then not be applied again.
    pub fn decode(bytes: &[u8]) -> Self {
        let state = match bytes.get(Self::STATE) {
            Some(&Self::DEAD) => MarkState::Dead,
            _ => MarkState::Applied,
        };
        let is_dead = state == MarkState::Dead;
        let redrive = bytes.get(Self::REDRIVE..).filter(|_| is_dead);
        let outbox = bytes.get(Self::OUTBOX).filter(|_| !is_dead);
        Self {
            state,
            payload_hash: integer(bytes.get(Self::PAYLOAD_HASH)),
            sequence: integer(bytes.get(Self::SEQUENCE)),
            redrive: redrive
                .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
                .unwrap_or(0),
            outbox: outbox.and_then(OutboxName::of_bytes),
        }
    }
}

/// Big-endian integer of at most eight bytes; 0 where they are absent.
fn integer(bytes: Option<&[u8]>) -> u64 {
    bytes
        .unwrap_or_default()
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where an event stands in its stream, as its mark tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPosition {
    /// Sequence in its stream, never 0.
    pub sequence: u64,
    /// Whether anything followed from it.
    pub has_outputs: bool,
}

impl StreamPosition {
    /// From a mark as Redis holds it; `None` where the worker that wrote it did not know.
    pub fn of_mark(mark: &[u8]) -> Option<Self> {
        let mark = SeenMark::decode(mark);
        (mark.sequence > 0).then_some(Self {
            sequence: mark.sequence,
            has_outputs: mark.outbox.is_some(),
        })
    }
}

/// Name of the outbox of one commit: a random number that nobody else has, in one of the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboxName {
    /// Partition of the first event with outputs; the others of the commit may be in others.
    partition: u8,
    /// Tells it apart from every other outbox of the partition.
    nonce: u64,
}

impl OutboxName {
    /// New name in a partition, which is below [`event::PARTITIONS`] (256).
    pub fn new(partition: u32) -> Self {
        Self {
            partition: partition as u8,
            nonce: fastrand::u64(..),
        }
    }

    /// As it stands in a [`SeenMark`]: the partition, then the nonce.
    fn bytes(self) -> [u8; 9] {
        let mut bytes = [self.partition; 9];
        bytes[1..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// Reads those nine bytes; `None` where they are fewer.
    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (partition, nonce) = bytes.split_first()?;
        Some(Self {
            partition: *partition,
            nonce: u64::from_be_bytes(nonce.try_into().ok()?),
        })
    }

    /// Redis key of the outbox, `{pN}:o:FUNCTION:NONCE`.
    pub fn key(self, function: &str) -> String {
        format!("{{p{}}}:o:{function}:{:016x}", self.partition, self.nonce)
    }

    /// Redis key of the index of its partition's outboxes.
    pub fn index(self) -> String {
        format!("{{p{}}}:u", self.partition)
    }
}

/// Partition tag of an outbox key, `{p17}`.
pub fn tag_of(outbox_key: &str) -> &str {
    outbox_key
        .split_once(':')
        .map_or(outbox_key, |(tag, _)| tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: OutboxName = OutboxName {
        partition: 17,
        nonce: 0x0102_0304_0506_0708,
    };

    const APPLIED: SeenMark = SeenMark {
        state: MarkState::Applied,
        payload_hash: 0x1112_1314_1516_1718,
        sequence: 0x2122_2324_2526,
        redrive: 0,
        outbox: Some(NAME),
    };

    const DEAD: SeenMark = SeenMark {
        state: MarkState::Dead,
        redrive: 4_000_000_000,
        outbox: None,
        ..APPLIED
    };

    #[test]
    fn bytes_of_a_mark_stay_what_they_are() {
        let head = b"\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x23\x24\x25\x26";
        let outbox = b"\x11\x01\x02\x03\x04\x05\x06\x07\x08";
        assert_eq!(APPLIED.encode(), [&b"a"[..], head, outbox].concat());
        assert_eq!(DEAD.encode(), [&b"d"[..], head, b"4000000000"].concat());
        let without = SeenMark {
            outbox: None,
            ..APPLIED
        };
        assert_eq!(without.encode(), [&b"a"[..], head].concat());
        let fresh = SeenMark { redrive: 0, ..DEAD };
        assert_eq!(fresh.encode(), [&b"d"[..], head].concat());
        for mark in [APPLIED, DEAD, without, fresh] {
            assert_eq!(SeenMark::decode(&mark.encode()), mark);
        }
    }

    #[test]
    fn a_torn_mark_is_read_as_far_as_it_goes() {
        let empty = SeenMark {
            state: MarkState::Applied,
            payload_hash: 0,
            sequence: 0,
            redrive: 0,
            outbox: None,
        };
        assert_eq!(SeenMark::decode(b""), empty);
        assert_eq!(SeenMark::decode(&APPLIED.encode()[..8]), empty);
        assert_eq!(StreamPosition::of_mark(&APPLIED.encode()[..14]), None);
        let torn = SeenMark {
            outbox: None,
            ..APPLIED
        };
        assert_eq!(SeenMark::decode(&APPLIED.encode()[..23]), torn);
        assert_eq!(SeenMark::decode(b"d").state, MarkState::Dead);
    }

    /// Value of a constant at the top of the script.
    fn constant(name: &str) -> &'static str {
        let script = include_str!("commit.lua");
        let line = format!("local {name} = ");
        let mut values = script.lines().filter_map(|text| text.strip_prefix(&line));
        let value = values.next().unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(values.next(), None, "{name} stands there twice");
        value
    }

    #[test]
    fn the_script_has_the_same_positions() {
        // Lua counts from 1, and names the last byte where Rust names the one behind it.
        let first = |name: &str| constant(name).parse::<usize>().expect("a position") - 1;
        assert_eq!(first("MARK_STATE"), SeenMark::STATE);
        let last = constant("MARK_HASH_LAST").parse().expect("a position");
        assert_eq!(first("MARK_HASH_FIRST")..last, SeenMark::PAYLOAD_HASH);
        assert_eq!(first("MARK_REDRIVE"), SeenMark::REDRIVE);
        let dead = format!("'{}'", char::from(SeenMark::DEAD));
        assert_eq!(constant("MARK_DEAD"), dead);
    }
}
