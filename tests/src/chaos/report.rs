//! What a row has to say for itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// How a row is to be run.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Decides faults, load and jitter.
    pub seed: u64,
    /// Seconds of load under fault; the rest takes as long as it takes.
    pub seconds: u64,
    /// More cuts, larger crowds: for those who have minutes.
    pub long: bool,
    /// Events in a second for rows that have no rate of their own; 0 for few.
    pub rate: u64,
    /// Power cuts of a row; by default what the time allows.
    pub cuts: Option<u64>,
    /// What is going on, for those who watch.
    pub live: Arc<Live>,
    /// Environment of the workers on top.
    pub env: Vec<(String, String)>,
    /// Folder of the worker programs, if not ours.
    pub programs: Option<std::path::PathBuf>,
}

/// What has happened so far, over all rows.
#[derive(Debug, Default)]
pub struct Live {
    /// Acknowledged events.
    pub events: AtomicU64,
    /// Injected faults.
    pub faults: AtomicU64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    #[serde(skip)]
    pub live: Arc<Live>,
    /// Acknowledged events.
    pub operations: u64,
    /// Faults that were injected and did happen: a line that was cut is one, however many bytes it cost.
    pub injected: u64,
    /// How often each kind of fault was felt, and what came of it.
    pub faults: BTreeMap<String, u64>,
    /// Events in the hands of those whom each kind of kill or freeze befell, when it did.
    pub in_hand: BTreeMap<String, u64>,
    /// Deliveries beyond the first of each message.
    pub redeliveries: u64,
    /// Of these, those that no worker had been given before.
    pub unsent: u64,
    /// Deliveries that workers gave back with a word.
    pub naks: u64,
    /// Messages beyond the first under one id.
    pub copies: u64,
    pub ok: u64,
    pub lost: u64,
    pub doubled: u64,
    pub dead: u64,
    pub unexpected: u64,
    /// Reasons of dead letters.
    pub reasons: BTreeMap<String, u64>,
    /// Why the row failed; a row without any has passed.
    pub failures: Vec<String>,
    pub notes: Vec<String>,
    /// Why the row could not run here.
    pub skipped: Option<String>,
    pub seconds: u64,
}

impl Report {
    pub fn skipped(why: impl Into<String>) -> Self {
        Self {
            skipped: Some(why.into()),
            ..Self::default()
        }
    }

    pub fn failed(why: impl Into<String>) -> Self {
        Self {
            failures: vec![why.into()],
            ..Self::default()
        }
    }

    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// One fault, felt so many times.
    pub fn fault(&mut self, kind: &str, times: u64) {
        self.inject(u64::from(times > 0));
        self.effect(kind, times);
    }

    /// So many faults of one kind.
    pub fn each(&mut self, kind: &str, times: u64) {
        self.inject(times);
        self.effect(kind, times);
    }

    /// What came of a fault.
    pub fn effect(&mut self, kind: &str, times: u64) {
        *self.faults.entry(kind.to_owned()).or_default() += times;
    }

    fn inject(&mut self, faults: u64) {
        self.injected += faults;
        self.live.faults.fetch_add(faults, Ordering::Relaxed);
    }

    /// A fault that befell those who had so many events in hand; none at all would be a fault that harms nobody.
    pub fn struck(&mut self, kind: &str, in_hand: usize) {
        self.must(
            in_hand > 0,
            format!("`{kind}` found nothing in hand: it harmed nobody"),
        );
        self.fault(kind, u64::from(in_hand > 0));
        *self.in_hand.entry(kind.to_owned()).or_default() += in_hand as u64;
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Notes a failure unless `holds`.
    pub fn must(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.failures.push(what.into());
        }
    }

    /// Every scheduled kind must really have happened.
    pub fn must_have_fired(&mut self, kinds: &[&str]) {
        for kind in kinds {
            let fired = self.faults.get(*kind).copied().unwrap_or_default();
            self.must(fired > 0, format!("fault `{kind}` never happened"));
        }
    }

    /// Another round of the same row.
    pub fn add(&mut self, other: Self) {
        for (kind, times) in &other.faults {
            self.effect(kind, *times);
        }
        for (kind, events) in other.in_hand {
            *self.in_hand.entry(kind).or_default() += events;
        }
        for (reason, times) in other.reasons {
            *self.reasons.entry(reason).or_default() += times;
        }
        let pairs = [
            (&mut self.operations, other.operations),
            (&mut self.injected, other.injected),
            (&mut self.redeliveries, other.redeliveries),
            (&mut self.unsent, other.unsent),
            (&mut self.naks, other.naks),
            (&mut self.copies, other.copies),
            (&mut self.ok, other.ok),
            (&mut self.lost, other.lost),
            (&mut self.doubled, other.doubled),
            (&mut self.dead, other.dead),
            (&mut self.unexpected, other.unexpected),
            (&mut self.seconds, other.seconds),
        ];
        for (mine, more) in pairs {
            *mine += more;
        }
        self.failures.extend(other.failures);
        self.notes = other.notes;
        self.skipped = other.skipped;
    }
}
