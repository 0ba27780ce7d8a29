//! The identity of a handled event in Redis: where its seen-mark, its outbox and its runs are.

use super::GRACE_MS;
use crate::event::{self, Meta};

/// A seen-mark bucket holds the ids of this much event time: few enough for Redis's compact encoding at hundreds of
/// events per second and function, many enough that a slow stream does not pay a key per id.
const BUCKET_MS: u64 = 120_000;
/// Identity of one (function, event): enough to find its seen-mark and its outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub function: &'static str,
    /// Decides the partition; what the function is keyed by.
    pub key: String,
    pub id: [u8; 16],
    pub time: u64,
    /// Whether `time` belongs to the event for ever; if not, its bucket is as wide as the horizon and two are looked up.
    pub timed: bool,
    pub horizon: u64,
    /// What the age fence hangs on: `time`, or the moment of the redrive.
    pub fence: u64,
    /// Number of the redrive, 0 for none: a dead letter comes to life only for a later one.
    pub redrive: u32,
}

impl Mark {
    pub fn new(function: &'static str, key: &str, meta: &Meta, horizon: u64) -> Self {
        let id = event::hash(&[meta.id.as_bytes()]);
        let (redrive, fence) = meta.redrive.map_or((0, meta.time), |redrive| (redrive.number, redrive.at));
        Self { function, key: key.to_owned(), id, time: meta.time, timed: meta.timed, horizon, fence, redrive }
    }

    /// Whether a mark as Redis holds it leaves nothing to do: applied, or dead and not redriven since.
    pub(super) fn is_settled_by(&self, found: &[u8]) -> bool {
        let redriven = found.get(9..).and_then(|n| std::str::from_utf8(n).ok()?.parse().ok()).unwrap_or(0);
        found.first() != Some(&b'd') || self.redrive <= redriven
    }

    pub(super) fn tag(&self) -> String {
        format!("{{p{}}}", event::partition(&self.key))
    }

    /// Where the mark is written, and for untimed events also where an earlier copy may have written it.
    pub(super) fn seen_keys(&self) -> Vec<String> {
        let (tag, function) = (self.tag(), self.function);
        if self.timed {
            return vec![format!("{tag}:d:{function}:{}", self.time / BUCKET_MS)];
        }
        // Written to the first; a copy may have come a horizon earlier, or later and been handled before this one.
        let bucket = self.time / self.horizon.max(1);
        [bucket, bucket.saturating_sub(1), bucket + 1].map(|b| format!("{tag}:d:{function}:h{b}")).to_vec()
    }

    /// Unix seconds at which the bucket may go: nothing in it can pass the age fence any more.
    pub(super) fn expiry(&self, now: u64) -> u64 {
        // A later copy of an untimed event passes the fence for one horizon more.
        let (width, copies) = if self.timed { (BUCKET_MS, 0) } else { (self.horizon.max(1), self.horizon) };
        let end = (self.time / width + 1) * width;
        (end.max(now).max(self.fence) + copies + self.horizon + GRACE_MS) / 1000
    }

    pub(super) fn outbox_key(&self) -> String {
        self.key_of_event("o")
    }

    pub(super) fn runs_key(&self) -> String {
        match self.redrive {
            0 => self.key_of_event("r"),
            number => format!("{}.{number}", self.key_of_event("r")),
        }
    }

    fn key_of_event(&self, kind: &str) -> String {
        use base64::Engine as _;
        let id = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.id);
        format!("{}:{kind}:{}:{id}", self.tag(), self.function)
    }

    pub(super) fn unpublished_key(&self) -> String {
        format!("{}:u", self.tag())
    }
}

/// Name under which an event's outbox is marked as published.
pub fn outbox_key(mark: &Mark) -> String {
    mark.outbox_key()
}

/// Partition tag of an outbox key, `{p17}`.
pub(super) fn tag_of(outbox_key: &str) -> &str {
    outbox_key.split_once(':').map_or(outbox_key, |(tag, _)| tag)
}
