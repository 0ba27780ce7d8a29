//! The identity of a handled event in Redis: where its seen-mark and its runs are, and what the mark says.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::GRACE_MS;
use oncue_proto::event::{self, Meta};

/// A seen-mark bucket holds the ids of this much event time: few enough for Redis's compact encoding at hundreds of
/// events per second and function, many enough that a slow stream does not pay a key per id.
const BUCKET_MS: u64 = 120_000;

/// Identity of one (function, event): enough to find its seen-mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub function: &'static str,
    /// Decides the partition; what the function is keyed by.
    pub key: Arc<str>,
    pub partition: u32,
    pub id: [u8; 16],
    pub time: u64,
    /// Whether `time` belongs to the event for ever; if not, its bucket is as wide as the horizon and two are looked up.
    pub timed: bool,
    pub horizon: u64,
    /// What the age fence hangs on: `time`, or the moment of the redrive.
    pub fence: u64,
    /// Number of the redrive, 0 for none: a dead letter comes to life only for a later one.
    pub redrive: u32,
    /// Where the event stands in its stream; 0 for who does not know. A Redis that loses this mark is restored from there.
    pub sequence: u64,
}

impl Mark {
    pub fn new(function: &'static str, key: &str, meta: &Meta, horizon: u64) -> Self {
        let id = event::hash(&[meta.id.as_bytes()]);
        let (redrive, fence) = meta
            .redrive
            .map_or((0, meta.time), |redrive| (redrive.number, redrive.at));
        Self {
            function,
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
        let redriven = found
            .get(15..)
            .and_then(|n| std::str::from_utf8(n).ok()?.parse().ok())
            .unwrap_or(0);
        found.first() != Some(&b'd') || self.redrive <= redriven
    }

    /// Where the mark is written, and for untimed events also where an earlier copy may have written it.
    pub fn seen_keys(&self) -> Vec<String> {
        let (partition, function) = (self.partition, self.function);
        if self.timed {
            return vec![format!(
                "{{p{partition}}}:d:{function}:{}",
                self.time / BUCKET_MS
            )];
        }
        // Written to the first; a copy may have come a horizon earlier, or later and been handled before this one.
        let bucket = self.time / self.horizon.max(1);
        [bucket, bucket.saturating_sub(1), bucket + 1]
            .map(|b| format!("{{p{partition}}}:d:{function}:h{b}"))
            .to_vec()
    }

    /// Unix seconds at which the bucket may go: nothing in it can pass the age fence any more.
    pub fn expiry(&self, now: u64) -> u64 {
        // A later copy of an untimed event passes the fence for one horizon more.
        let (width, copies) = if self.timed {
            (BUCKET_MS, 0)
        } else {
            (self.horizon.max(1), self.horizon)
        };
        let end = (self.time / width + 1) * width;
        (end.max(now).max(self.fence) + copies + self.horizon + GRACE_MS) / 1000
    }

    /// Whether two marks stand in the same buckets, expire with them, and hang on the same order.
    pub fn shares_bucket(&self, other: &Self) -> bool {
        let width = if self.timed {
            BUCKET_MS
        } else {
            self.horizon.max(1)
        };
        self.timed == other.timed
            && self.redrive == other.redrive
            && self.partition == other.partition
            && self.time / width == other.time / width
    }

    /// Where a function's marks of events of these times (Unix ms) may be, in one partition: the newest first.
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

    /// Where its runs are counted.
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

/// What an event's mark tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPosition {
    /// Where it stands in its stream.
    pub sequence: u64,
    /// Whether anything followed from it.
    pub has_outputs: bool,
}

impl StreamPosition {
    /// From a mark as Redis holds it; `None` where whoever wrote it did not know.
    pub fn of_mark(mark: &[u8]) -> Option<Self> {
        let sequence = mark
            .get(9..15)?
            .iter()
            .fold(0, |sequence, byte| sequence << 8 | u64::from(*byte));
        (sequence > 0).then_some(Self {
            sequence,
            has_outputs: OutboxName::of_mark(mark).is_some(),
        })
    }
}

/// Where the outputs of one commit are: a name nobody else has, in one of the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboxName {
    partition: u8,
    nonce: u64,
}

impl OutboxName {
    pub fn new(partition: u32) -> Self {
        Self {
            partition: partition as u8,
            nonce: fastrand::u64(..),
        }
    }

    /// As it stands in a seen-mark, behind what every mark has.
    pub fn bytes(self) -> [u8; 9] {
        let mut bytes = [self.partition; 9];
        bytes[1..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// Of a mark as Redis holds it; `None` for an event that nothing followed from.
    pub fn of_mark(mark: &[u8]) -> Option<Self> {
        let (partition, nonce) = mark.get(15..24)?.split_first()?;
        Some(Self {
            partition: *partition,
            nonce: u64::from_be_bytes(nonce.try_into().ok()?),
        })
    }

    pub fn key(self, function: &str) -> String {
        format!("{{p{}}}:o:{function}:{:016x}", self.partition, self.nonce)
    }

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
