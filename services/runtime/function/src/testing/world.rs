//! World of an app under test: store, streams, consumers and time, shared by the jobs that work in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::sync::Arc;

use oncue_core::app::AppName;
use oncue_core::bus::Outbound;
use oncue_core::bus::pull::{Delivery, DeliveryInfo};
use oncue_core::config::{Bounds, StreamConfig};
use oncue_core::model::history::{Cue, History};
use oncue_proto::event::IdSecret;
use oncue_proto::oncue::v1::DeadLetter;
use parking_lot::{Mutex, MutexGuard};

use super::choices::Choices;
use super::map_store::MapStore;
use super::streams::{Streams, header};
use crate::files::FilesInMemory;
use crate::function::Erased;
use crate::worker::effects::Effects;
use crate::worker::outputs::OutputMaker;
use crate::worker::reader::{Intake, Source, Target};

/// Time at which every test begins, Unix milliseconds: the first moment of 2026.
const BEGIN: u64 = 1_767_225_600_000;
/// Bytes of a message that a server takes by default.
const MAX_PAYLOAD: usize = 1 << 20;

/// Function of the app, with what the worker makes of it.
pub(super) struct Member {
    pub effects: Effects,
    pub intake: Intake,
}

/// World that jobs work in.
pub(super) struct World {
    pub store: MapStore,
    pub files: FilesInMemory,
    inner: Mutex<WorldState>,
}

/// State of the world that has no store of its own.
pub(super) struct WorldState {
    /// Unix milliseconds.
    pub now: u64,
    pub streams: Streams,
    /// One for each function, in the order in which they were added.
    pub consumers: Vec<Consumer>,
    /// Dead letters, by function and id of the event.
    pub letters: BTreeMap<(String, String), DeadLetter>,
    /// Rows and values of blind operations that were written: table and key.
    pub places: BTreeSet<(String, String)>,
    /// Luck of the run.
    pub choices: Choices,
    /// Faults so far, and what else luck has brought.
    pub tally: Tally,
    /// Deliveries so far.
    pub deliveries: u64,
    /// Runs that luck has cost each event, by its id: copies of it count together.
    pub spoiled: BTreeMap<String, u32>,
    /// Steps for people, if they are wanted.
    pub journal: Option<Journal>,
}

/// Steps of a run, a line each.
#[derive(Default)]
pub(super) struct Journal {
    pub lines: Vec<String>,
    /// Whether what happens now was the choice of luck.
    pub by_luck: bool,
}

/// Events of one function, as its consumer holds them.
#[derive(Default)]
pub(super) struct Consumer {
    /// Places in the log of what was not delivered yet.
    pub fresh: VecDeque<usize>,
    /// Events to be delivered again.
    pub again: Vec<Waiting>,
    /// Deliveries without an ack, by their number.
    pub in_hand: BTreeMap<u64, Hand>,
}

/// Event that is to be delivered.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    /// Place in the log.
    pub place: usize,
    /// Number of the delivery to come.
    pub attempt: u32,
    /// Whether a worker gave it back by itself, so that it has killed nobody.
    pub is_vouched: bool,
}

/// Delivery in the hands of a worker.
#[derive(Clone, Copy)]
pub(super) struct Hand {
    pub place: usize,
    pub attempt: u32,
    /// Worker of the function, from 0.
    pub worker: usize,
}

impl Member {
    /// Function with its limits as the code says them.
    pub fn new(function: Erased) -> Result<Self, String> {
        let manifest = function.manifest()?;
        let source = Source {
            created: BEGIN,
            horizon: StreamConfig::default().horizon.0.as_millis() as u64,
            restoring: None,
            cue: Cue::new(&manifest, &AppName::default(), BEGIN, History::default()),
        };
        let target = Target {
            function: function.name,
            table: function.table,
            at_most_once: function.at_most_once,
        };
        let outputs = OutputMaker {
            function: function.name,
            app: AppName::default(),
            secret: IdSecret::new([0; IdSecret::LEN]),
            max_payload: MAX_PAYLOAD,
            bounds: Bounds::default(),
        };
        let mut limits = function.limits.clone();
        if function.at_most_once {
            limits.attempts = 1; // as a worker has it
        }
        Ok(Self {
            effects: Effects {
                limits,
                function: Arc::new(function),
                outputs,
            },
            intake: Intake::new(source, target),
        })
    }

    /// Name of the function.
    pub fn name(&self) -> &'static str {
        self.effects.function.name
    }
}

/// Faults and turns that luck brought, in all runs together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs, the plain ones not counted.
    pub runs: usize,
    /// Workers that died with events in hand.
    pub crashes: usize,
    /// Events that were delivered again while a worker had them, or after an ack that got lost.
    pub redeliveries: usize,
    /// Messages that were published again under their id.
    pub copies: usize,
    /// Commits that another worker was ahead of.
    pub conflicts: usize,
    /// Steps at which one key overtook another.
    pub switches: usize,
}

impl World {
    /// An empty world of this luck.
    pub fn new(choices: Choices) -> Self {
        let store = MapStore::default();
        store.set_now(BEGIN);
        Self {
            store,
            files: FilesInMemory::default(),
            inner: Mutex::new(WorldState {
                now: BEGIN,
                streams: Streams::default(),
                consumers: Vec::new(),
                letters: BTreeMap::new(),
                places: BTreeSet::new(),
                choices,
                tally: Tally::default(),
                deliveries: 0,
                spoiled: BTreeMap::new(),
                journal: None,
            }),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, WorldState> {
        self.inner.lock()
    }

    /// Unix milliseconds.
    pub fn now(&self) -> u64 {
        self.lock().now
    }

    /// Lets time pass, for the store as well.
    pub fn set_now(&self, now: u64) {
        self.lock().now = now;
        self.store.set_now(now);
    }

    /// Writes a step down, if somebody will read it.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(journal) = &mut self.lock().journal {
            let mark = if journal.by_luck { '*' } else { ' ' };
            journal.lines.push(format!("{mark} {}", line()));
        }
    }

    /// Publishes a message; consumers that act on it have it then. Returns whether it was new.
    pub fn publish(&self, message: Outbound, members: &[Arc<Member>]) -> bool {
        let mut inner = self.lock();
        let now = inner.now;
        let Some(place) = inner.streams.publish(message, now) else {
            return false;
        };
        inner.hand_on(place, members);
        true
    }
}

impl WorldState {
    /// Gives a message of the log to the consumers that act on it.
    pub fn hand_on(&mut self, place: usize, members: &[Arc<Member>]) {
        let subject = &self.streams.log()[place].message.subject;
        for (consumer, member) in self.consumers.iter_mut().zip(members) {
            if member.intake.source.cue.covers_today(subject) {
                consumer.fresh.push_back(place);
            }
        }
    }

    /// Id under which the message at this place was published.
    pub fn id_at(&self, place: usize) -> &str {
        header(&self.streams.log()[place].message, "ce-id").unwrap_or_default()
    }

    /// Whether luck may cost the event at this place one more run, of so many.
    pub fn may_spoil(&self, place: usize, most: u32) -> bool {
        let before = self.spoiled.get(self.id_at(place)).copied();
        before.unwrap_or_default() < most
    }

    /// Luck costs the event at this place a run.
    pub fn spoil(&mut self, place: usize) {
        let id = self.id_at(place).to_owned();
        *self.spoiled.entry(id).or_default() += 1;
    }

    /// A delivery of what waits, to a worker of the function.
    pub fn deliver(&self, waiting: Waiting) -> Delivery {
        let stored = &self.streams.log()[waiting.place];
        let info = DeliveryInfo {
            stream: stored.stream.as_str().into(),
            sequence: stored.sequence,
            attempt: waiting.attempt,
            published: stored.published,
        };
        Delivery::without_server(&stored.message, info)
    }
}

impl Consumer {
    /// Ends a delivery: it is done.
    pub fn ack(&mut self, number: u64) {
        self.in_hand.remove(&number);
    }

    /// Ends a delivery: the event comes again.
    pub fn give_back(&mut self, number: u64, is_vouched: bool) {
        if let Some(hand) = self.in_hand.remove(&number) {
            self.again.push(Waiting {
                place: hand.place,
                attempt: hand.attempt + 1,
                is_vouched,
            });
        }
    }
}

/// Name of an event in a journal: what it is, about what, and the beginning of its id.
pub(super) fn label(ty: &str, key: &str, id: impl Display) -> String {
    let id: String = id.to_string().chars().take(12).collect();
    if key.is_empty() {
        format!("{ty} ({id})")
    } else {
        format!("{ty} {key} ({id})")
    }
}
