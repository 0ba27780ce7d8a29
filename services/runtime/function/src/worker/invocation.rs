//! One delivery in the hands of a worker.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oncue_proto::Format;
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use pbjson_types::Timestamp;

use crate::function::AnyEvent;
use crate::worker::outputs::Output;
use crate::worker::spans::Trace;
use oncue_core::bus::pull::Delivery;
use oncue_core::store::Mark;
use oncue_proto::event::{self, Incoming, Meta, Origin, Unreadable};

/// On the heap, since it changes hands often.
pub(crate) type Boxed = Box<Job>;

/// An event on its way from the pull to the ack.
pub(crate) struct Job {
    /// Tells deliveries apart within the process.
    pub number: u64,
    pub delivery: Delivery,
    pub meta: Arc<Meta>,
    pub format: Format,
    pub payload: Bytes,
    /// The decoded event, until a handler takes it.
    pub event: Option<AnyEvent>,
    /// Who it is to the store, and what the function is keyed by.
    pub mark: Mark,
    /// On probation: delivered before, and whoever had it then may have died of it.
    pub alone: bool,
    /// Runs of the handler, this one included, as far as is known.
    pub runs: u32,
    pub outputs: Vec<Output>,
    /// The same as they are stored.
    pub outbox: Bytes,
    /// Its flow has a ledger.
    pub tracked: bool,
    pub trace: Trace,
}

/// Why an event is dead-lettered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Not an event, or not one of its type; the class comes from whoever found out.
    Unreadable(&'static str),
    Rejected,
    Attempts,
    Loop,
    TooOld,
    Clock,
    IdReuse,
    Invalid,
    /// A function that must not run twice on an event was interrupted in its only run.
    OutcomeUnknown,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable(class) => class,
            Self::Rejected => "rejected",
            Self::Attempts => "attempts",
            Self::Loop => "loop",
            Self::TooOld => "too_old",
            Self::Clock => "clock",
            Self::IdReuse => "id_reuse",
            Self::Invalid => "invalid",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }
}

impl Job {
    /// Reads a delivery. A message that is no event still becomes a job with an identity, so that its dead letter is
    /// written once.
    pub fn read(
        number: u64,
        delivery: Delivery,
        stream_created: u64,
        function: &'static str,
        horizon: u64,
    ) -> (Boxed, Option<Unreadable>) {
        let info = &delivery.info;
        let origin = Origin {
            stream: &info.stream,
            stream_created,
            sequence: info.sequence,
            published: info.published,
            subject: delivery.subject(),
        };
        let (incoming, unreadable) =
            match event::read(delivery.headers(), delivery.payload().clone(), &origin) {
                Ok(incoming) => (incoming, None),
                Err(unreadable) => {
                    let payload = delivery.payload().clone();
                    let meta = Meta::of_unreadable(delivery.headers(), &origin);
                    (
                        Incoming {
                            meta,
                            format: Format::Protobuf,
                            payload,
                        },
                        Some(unreadable),
                    )
                }
            };
        let Incoming {
            meta,
            format,
            payload,
        } = incoming;
        let trace = Trace::start(&meta, function, info.attempt, payload.len());
        let mark = Mark {
            sequence: info.sequence,
            ..Mark::new(function, "", &meta, horizon)
        };
        let meta = Arc::new(meta);
        let job = Self {
            number,
            delivery,
            meta,
            format,
            payload,
            event: None,
            mark,
            alone: false,
            runs: 1,
            outputs: Vec::new(),
            outbox: Bytes::new(),
            tracked: false,
            trace,
        };
        (Box::new(job), unreadable)
    }

    /// What the function is keyed by.
    pub fn key(&self) -> &str {
        &self.mark.key
    }

    pub fn set_key(&mut self, key: &str) {
        (self.mark.key, self.mark.partition) = (key.into(), event::partition(key));
    }

    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Only a root event can be told from another of its id. One that was caused has its id from its cause, and may
    /// rightly say something else when it is made anew from an older state.
    pub fn payload_hash(&self) -> u64 {
        if !self.meta.cause.is_empty() {
            return 0;
        }
        let hash = event::hash(&[&self.payload]);
        u64::from_be_bytes(hash[..8].try_into().unwrap_or_default())
    }

    /// The event with everything somebody needs to understand and to redrive it.
    pub fn dead_letter(
        &self,
        function: &str,
        reason: Reason,
        message: String,
        site: String,
    ) -> DeadLetter {
        let at = |ms: u64| {
            Some(Timestamp {
                seconds: ms as i64 / 1000,
                nanos: (ms % 1000) as i32 * 1_000_000,
            })
        };
        let headers = self.delivery.headers().map(|(name, value)| Header {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        let info = &self.delivery.info;
        DeadLetter {
            function: function.to_owned(),
            reason: reason.as_str().to_owned(),
            message,
            attempts: self.runs,
            at: at(event::now_ms()),
            event_id: self.meta.id.clone(),
            event_type: self.meta.ty.clone(),
            flow_id: self.meta.flow.clone(),
            stream: info.stream.to_string(),
            sequence: info.sequence,
            envelope: Some(Envelope {
                subject: self.delivery.subject().to_owned(),
                headers: headers.collect(),
                payload: self.delivery.payload().clone(),
            }),
            key: self.key().to_owned(),
            site,
            redrives: self.meta.redrive.map_or(0, |redrive| redrive.number),
            time: at(self.meta.time),
            timed: self.meta.timed,
            accepted_at: at(info.published),
        }
    }
}

/// Tells whether the process was frozen lately: what it then finds in its sockets was sent long ago, and may be another
/// worker's by now.
pub(crate) struct Pulse {
    wait: Duration,
    /// The last beat, and until when deliveries count as old.
    state: Mutex<(Instant, Instant)>,
}

impl Pulse {
    pub fn new(ack_wait: Duration) -> Self {
        let now = Instant::now();
        Self {
            wait: ack_wait,
            state: Mutex::new((now, now)),
        }
    }

    /// To be called several times in each ack wait.
    pub fn beat(&self) {
        self.look(true);
    }

    /// When the server sent what is read now: just now, or too long ago to say anything but that it is done.
    pub fn heard(&self) -> Instant {
        let now = Instant::now();
        if self.look(false) {
            now.checked_sub(self.wait).unwrap_or(now)
        } else {
            now
        }
    }

    fn look(&self, beat: bool) -> bool {
        let (now, mut state) = (Instant::now(), self.state.lock());
        if now - state.0 > self.wait / 2 {
            state.1 = now + self.wait / 2;
        }
        if beat {
            state.0 = now;
        }
        now < state.1
    }
}
