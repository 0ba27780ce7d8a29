//! Seen-marks: where they stand, what they say, and which outbox they point to.
//!
//! A mark is what makes a second delivery harmless: it is written in the step that applies the event, and every later
//! copy of the event finds it. Where it stands depends on the id of the event and on nothing else, so that a copy with
//! another time, another key or by another way finds it too.
//!
//! The marks of a function are one hash in Redis, of buckets that hold a dozen each: so a mark takes less than 30 bytes
//! at a rate of some an hour as of ten thousand a second. `commit.lua` finds, splits and empties the buckets; their
//! layout is written there.
//!
//! `commit.lua` also compares marks byte by byte, so their layout ([`SeenMark`]) and the positions that the script names
//! are held together by a unit test.

use std::ops::Range;
use std::sync::Arc;

use super::MarkState;
use oncue_proto::event::{self, Meta};

/// Bytes of the hash of an id by which its mark is found.
const MARK_ID: usize = 9;

/// Identity of one (function, event): enough to find its seen-mark and its count of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Name of the function, part of every key. Shared: a worker clones one `Arc` for all of its marks.
    pub function: Arc<str>,
    /// Key of the event for this function.
    pub key: Arc<str>,
    /// [`event::partition`] of `key`: where its row, its outbox and its count of runs are.
    pub partition: u32,
    /// [`event::hash`] of the event's id.
    pub id: [u8; 16],
    /// Age at which an event of the stream is refused, milliseconds.
    pub horizon: u64,
    /// Time that the age fence measures, Unix milliseconds: that of the event, or the moment of the redrive.
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
        let (redrive, fence) = meta
            .redrive
            .map_or((0, meta.time), |redrive| (redrive.number, redrive.at));
        Self {
            partition: event::partition(key),
            key: key.into(),
            horizon,
            fence,
            redrive,
            ..Self::of_id(&function.into(), &meta.id)
        }
    }

    /// Mark of the event of this id, enough to look it up.
    pub fn of_id(function: &Arc<str>, id: &str) -> Self {
        Self {
            function: function.clone(),
            partition: 0,
            key: function.clone(),
            id: event::hash(&[id.as_bytes()]),
            horizon: 0,
            fence: 0,
            redrive: 0,
            sequence: 0,
        }
    }

    /// Whether a mark as Redis holds it leaves nothing to do: applied, or dead and not redriven since.
    pub fn is_settled_by(&self, found: &[u8]) -> bool {
        let found = SeenMark::decode(found);
        found.state == MarkState::Applied || self.redrive <= found.redrive
    }

    /// First bytes of the hash of the event's id, by which its mark is found.
    pub fn short_id(&self) -> &[u8] {
        &self.id[..MARK_ID]
    }
}

/// Value of a seen-mark in Redis. Bytes, all integers big-endian:
///
/// | bytes | holds |
/// |---|---|
/// | 0 | `a` applied, `o` applied with outputs, `d` dead-lettered |
/// | 1..4 | first bytes of the hash of the payload, by which another event under the same id is told apart |
/// | 4..7 | of `o`: [`OutboxTag`] |
/// | 4..8 | of `d`: number of the redrive it spent |
/// | rest | sequence of the event in its stream, without leading zeros; nothing for not known |
///
/// The positions in `commit.lua` (`MARK_*`) are these, counted from 1. Short on purpose: there is one for each event
/// and function of the last days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenMark {
    /// Outcome of the event.
    pub state: MarkState,
    /// 24 bits of the hash of the payload the event had.
    pub payload_hash: u32,
    /// Sequence in the stream; 0 for not known.
    pub sequence: u64,
    /// Redrive that a dead letter spent; 0 for none, and of an applied event.
    pub redrive: u32,
    /// Outbox with the outputs of an applied event; `None` where nothing followed from it, and of a dead letter.
    pub outbox: Option<OutboxTag>,
}

impl SeenMark {
    /// Byte that holds the state.
    const STATE: usize = 0;
    const PAYLOAD_HASH: Range<usize> = 1..4;
    /// Of an applied event with outputs.
    const OUTBOX: Range<usize> = 4..7;
    /// Of a dead letter.
    const REDRIVE: Range<usize> = 4..8;
    /// State of an applied event without outputs.
    const APPLIED: u8 = b'a';
    /// State of an applied event with outputs.
    const WITH_OUTPUTS: u8 = b'o';
    /// State of a dead letter.
    const DEAD: u8 = b'd';

    /// Bytes as Redis holds them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        self.encode_into(&mut bytes);
        bytes
    }

    /// Appends those bytes.
    pub fn encode_into(&self, bytes: &mut Vec<u8>) {
        bytes.push(match (self.state, self.outbox) {
            (MarkState::Dead, _) => Self::DEAD,
            (MarkState::Applied, None) => Self::APPLIED,
            (MarkState::Applied, Some(_)) => Self::WITH_OUTPUTS,
        });
        bytes.extend(&self.payload_hash.to_be_bytes()[1..]);
        match self.state {
            MarkState::Dead => bytes.extend(self.redrive.to_be_bytes()),
            MarkState::Applied => {
                bytes.extend(self.outbox.iter().flat_map(|outbox| outbox.bytes()));
            }
        }
        let sequence = self.sequence.to_be_bytes();
        bytes.extend(sequence.iter().skip_while(|byte| **byte == 0));
    }

    /// Reads what is there: a part that is absent or torn is 0 or `None`, and a mark of an unknown kind counts as
    /// applied, since the event must then not be applied again.
    pub fn decode(bytes: &[u8]) -> Self {
        let kind = bytes.get(Self::STATE).copied().unwrap_or(Self::APPLIED);
        let is_dead = kind == Self::DEAD;
        let redrive = bytes.get(Self::REDRIVE).filter(|_| is_dead);
        let outbox = bytes
            .get(Self::OUTBOX)
            .filter(|_| kind == Self::WITH_OUTPUTS);
        let sequence = match kind {
            Self::DEAD => Self::REDRIVE.end,
            Self::WITH_OUTPUTS => Self::OUTBOX.end,
            _ => Self::PAYLOAD_HASH.end,
        };
        Self {
            state: if is_dead {
                MarkState::Dead
            } else {
                MarkState::Applied
            },
            payload_hash: integer(bytes.get(Self::PAYLOAD_HASH)) as u32,
            sequence: integer(bytes.get(sequence..)),
            redrive: integer(redrive) as u32,
            outbox: outbox.and_then(OutboxTag::of_bytes),
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

    /// Tag by which a [`SeenMark`] points to it.
    pub fn tag(self) -> OutboxTag {
        OutboxTag {
            partition: self.partition,
            nonce: (self.nonce >> 48) as u16,
        }
    }

    /// Partition of the outbox.
    pub fn partition(self) -> u32 {
        u32::from(self.partition)
    }

    /// Number that tells it apart from every other outbox of the partition.
    pub fn nonce(self) -> u64 {
        self.nonce
    }
}

/// Part of the name of an outbox: little enough to stand in every mark, and enough to find it among the few outboxes of
/// its partition that are not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboxTag {
    /// Partition of the outbox.
    partition: u8,
    /// First 16 bits of its nonce.
    nonce: u16,
}

impl OutboxTag {
    fn bytes(self) -> [u8; 3] {
        let [high, low] = self.nonce.to_be_bytes();
        [self.partition, high, low]
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let &[partition, high, low] = bytes else {
            return None;
        };
        Some(Self {
            partition,
            nonce: u16::from_be_bytes([high, low]),
        })
    }

    /// Partition of the outbox.
    pub fn partition(self) -> u32 {
        u32::from(self.partition)
    }

    /// First bits of its number.
    pub fn nonce(self) -> u16 {
        self.nonce
    }
}

/// Hash by which the reuse of an event's id is found out; 0 says nothing. Only a root event can be told from another of its id:
/// one with a cause has its id from that, and may rightly say something else when it is made anew from an older state.
pub fn payload_hash(cause: &str, payload: &[u8]) -> u32 {
    if !cause.is_empty() {
        return 0;
    }
    let hash = event::hash(&[payload]);
    u32::from_be_bytes(hash[..4].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: OutboxName = OutboxName {
        partition: 17,
        nonce: 0x0102_0304_0506_0708,
    };

    fn applied() -> SeenMark {
        SeenMark {
            state: MarkState::Applied,
            payload_hash: 0x11_1213,
            sequence: 0x2122_2324_2526,
            redrive: 0,
            outbox: Some(NAME.tag()),
        }
    }

    fn dead() -> SeenMark {
        SeenMark {
            state: MarkState::Dead,
            redrive: 4_000_000_000,
            outbox: None,
            ..applied()
        }
    }

    #[test]
    fn bytes_of_a_mark_stay_what_they_are() {
        let without = SeenMark {
            outbox: None,
            ..applied()
        };
        let fresh = SeenMark {
            redrive: 0,
            sequence: 0x100,
            ..dead()
        };
        let unknown = SeenMark {
            sequence: 0,
            ..without
        };
        for (mark, bytes) in [
            (applied(), "6f 111213 110102 212223242526"),
            (dead(), "64 111213 ee6b2800 212223242526"),
            (without, "61 111213 212223242526"),
            (fresh, "64 111213 00000000 0100"),
            (unknown, "61 111213"),
        ] {
            let hex: String = mark.encode().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, bytes.replace(' ', ""));
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
        assert_eq!(SeenMark::decode(&applied().encode()[..3]), empty);
        assert_eq!(StreamPosition::of_mark(&applied().encode()[..7]), None);
        assert_eq!(SeenMark::decode(b"d").state, MarkState::Dead);
        assert_eq!(SeenMark::decode(b"?").state, MarkState::Applied);
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
        assert_eq!(first("MARK_REDRIVE"), SeenMark::REDRIVE.start);
        let dead = format!("'{}'", char::from(SeenMark::DEAD));
        assert_eq!(constant("MARK_DEAD"), dead);
        assert_eq!(constant("ID").parse(), Ok(MARK_ID));
    }
}
