//! Upkeep of what an app has on the servers: work that needs rights which no function should have, done by `oncue up`, or by
//! `oncue tend` where somebody else runs the processes. A [`round`](Upkeep::round) every ten seconds or so does all of it.
//!
//! | what | why not by a function |
//! |---|---|
//! | purges each stream of the app of what is older than its replay window and done with by every consumer | whoever may purge a stream may empty it |
//! | gives space back early where a stream is nearly full | the same |
//! | watches that nobody else takes messages out before their time, and that no stream goes back | it is a record of all functions |
//! | puts the function library back into a Redis that has lost it | whoever may load code may do everything |
//!
//! JetStream's own `max_age` would drop messages that a consumer has not acked yet. Here age and acks count together.
//!
//! Any number of processes may do it at a time. While none does, streams fill up and refuse, and lose nothing; `oncue doctor`
//! says that nobody is there.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use oncue_core::agreement::{self, LostStream};
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{self, Bus};
use oncue_core::config::Config;
use oncue_core::store::{Removed, Store};

use crate::{AdminError, consumers};

/// Pause between two rounds.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at what is older than the replay window.
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
/// Time for which a round counts as somebody being there.
const PRESENCE: Duration = Duration::from_mins(2);

/// The app's servers, and when they were tended last.
pub struct Upkeep {
    bus: Bus,
    store: Store,
    config: Config,
    purged: Option<Instant>,
    /// Complaints of the round before, each of which is said once for as long as it lasts.
    complaints: BTreeSet<String>,
}

/// Something that was done, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Messages that every function was done with are gone after their replay window.
    Purged { stream: String, messages: u64 },
    /// Messages that every function was done with are gone before their time.
    PurgedEarly { stream: String, messages: u64 },
    /// Somebody has removed messages that a function was not done with.
    Removed(Removed),
    /// A stream is not as Redis knew it.
    Lost(LostStream),
    /// The library had gone and is loaded again.
    Loaded { library: String },
    /// One part of the work failed, for this reason.
    Failed { what: String, why: String },
}

impl Note {
    /// Whether somebody should look.
    pub fn is_bad(&self) -> bool {
        !matches!(self, Self::Purged { .. })
    }

    /// Whether the next round would find it again.
    fn lasts(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Failed { .. })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Purged { stream, messages } => write!(
                f,
                "stream {stream}: purged {messages} messages that are done and older than the replay window"
            ),
            Self::PurgedEarly { stream, messages } => write!(
                f,
                "stream {stream} is nearly full: purged {messages} messages that every function is done with before their \
                 time; should Redis lose state now, `oncue recover redis` cannot restore that part"
            ),
            Self::Removed(removed) => write!(
                f,
                "{}: {removed}; `oncue audit` names them",
                removed.function
            ),
            Self::Lost(lost) => lost.fmt(f),
            Self::Loaded { library } => {
                write!(
                    f,
                    "Redis had lost the function library {library}: loaded again"
                )
            }
            Self::Failed { what, why } => write!(f, "{what}: {why}"),
        }
    }
}

impl Upkeep {
    pub fn new(bus: &Bus, store: &Store, config: &Config) -> Self {
        Self {
            bus: bus.clone(),
            store: store.clone(),
            config: config.clone(),
            purged: None,
            complaints: BTreeSet::new(),
        }
    }

    /// Does all that is due. What fails is in the notes, and is tried again in the next round; what fails again for the same
    /// reason is not said again.
    pub async fn round(&mut self) -> Vec<Note> {
        let mut notes = self.tend().await;
        let complaints = notes.iter().filter(|note| note.lasts());
        let complaints: BTreeSet<String> = complaints.map(ToString::to_string).collect();
        notes.retain(|note| !(note.lasts() && self.complaints.contains(&note.to_string())));
        self.complaints = complaints;
        notes
    }

    async fn tend(&mut self) -> Vec<Note> {
        let mut notes = Vec::new();
        if let Err(e) = self.tend_redis(&mut notes).await {
            notes.push(failed("Redis", e));
            return notes;
        }
        let streams = match consumers::event_streams(&self.bus).await {
            Ok(streams) => streams,
            Err(e) => {
                notes.push(failed("streams", e));
                return notes;
            }
        };
        let is_purge_due = self
            .purged
            .is_none_or(|purged| purged.elapsed() >= PURGE_INTERVAL);
        for stream in streams {
            if let Err(e) = self.tend_stream(&stream, is_purge_due, &mut notes).await {
                notes.push(failed(&format!("stream {}", stream.config.name), e));
            }
        }
        if is_purge_due {
            self.purged = Some(Instant::now());
        }
        notes
    }

    async fn tend_redis(&self, notes: &mut Vec<Note>) -> Result<(), AdminError> {
        // An emptied Redis is not laid out again, or what it has lost would look as if it had never been.
        if self.store.is_laid_out().await? && !self.store.is_loaded().await? {
            self.store.load().await?;
            let library = self.store.library_name();
            notes.push(Note::Loaded { library });
        }
        Ok(self.store.note_presence(PRESENCE).await?)
    }

    async fn tend_stream(
        &self,
        stream: &StreamInfo,
        is_purge_due: bool,
        notes: &mut Vec<Note>,
    ) -> Result<(), AdminError> {
        let name = &stream.config.name;
        let names = std::slice::from_ref(name);
        let lost = agreement::check_streams(&self.bus, &self.store, names).await?;
        notes.extend(lost.map(Note::Lost));
        // Schedules wait for their time, dead letters for an operator: neither is done when it is old.
        let is_own = stream.config.is_owned_by(self.bus.app());
        if !is_own || [TIMER, DLQ].contains(&name.as_str()) {
            return Ok(());
        }
        for function in consumers::of_stream(&self.bus, name).await? {
            let function = &function.function;
            let found = agreement::watch_removed(&self.bus, &self.store, name, function).await?;
            notes.extend(found.map(Note::Removed));
        }
        let config = self.config.stream(name);
        if is_purge_due {
            let below = bus::purgeable(&self.bus, name, config.replay_window.0)
                .await
                .map_err(|e| AdminError::api(name, e))?;
            if let Some(messages) = self.purge(name, below).await? {
                let stream = name.clone();
                notes.push(Note::Purged { stream, messages });
            }
        }
        let below = bus::purgeable_early(&self.bus, name, config.reserve())
            .await
            .map_err(|e| AdminError::api(name, e))?;
        if let Some(messages) = self.purge(name, below).await? {
            let stream = name.clone();
            notes.push(Note::PurgedEarly { stream, messages });
        }
        Ok(())
    }

    /// Purges, once it is on record how far all functions are: what goes now was needed by none.
    async fn purge(&self, stream: &str, below: Option<u64>) -> Result<Option<u64>, AdminError> {
        let Some(below) = below else { return Ok(None) };
        agreement::watch_all_removed(&self.bus, &self.store, stream).await?;
        let purged = bus::purge(&self.bus, stream, below)
            .await
            .map_err(|e| AdminError::api(stream, e))?;
        Ok(Some(purged).filter(|purged| *purged > 0))
    }
}

fn failed(what: &str, why: impl fmt::Display) -> Note {
    Note::Failed {
        what: what.to_owned(),
        why: why.to_string(),
    }
}
