//! `--check`: whether this program can read what is there. Nothing runs and nothing is written.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{Bus, BusError, Slice, StoredMessage};
use oncue_core::config::Config;
use oncue_core::model::check::{Check, SAMPLES, Sample};
use oncue_core::model::letter;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Fields, KeyedRow, Store};
use oncue_proto::event::Meta;
use oncue_proto::oncue::v1::DeadLetter;
use prost::Message as _;

use super::InspectError;
use crate::files::FileStore;
use crate::foreign::{ForeignCall, ForeignEvent, ForeignFiles, ForeignRun, Keyed, RunPurpose};
use crate::function::Erased;
use crate::state::{author_fields, stored_version};

/// Reasons of letters whose events this function could read when it set them aside.
const READABLE: [&str; 8] = [
    "rejected",
    "attempts",
    "loop",
    "too_old",
    "clock",
    "invalid",
    "outcome_unknown",
    "set_aside",
];

/// Time another process has to read one row or event.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries the program on samples: rows of its table, events that wait, delayed events, dead letters.
///
/// The newest rows and letters are as likely as the oldest; of the events those that come next are tried.
///
/// # Errors
///
/// NATS or Redis does not answer. A stream or consumer that is not there has nothing to try.
pub(crate) async fn check(
    function: &Erased,
    manifest: &Manifest,
    config: &Config,
) -> Result<Check, InspectError> {
    let (bus, store) = super::connect(manifest, config).await?;
    let mut behind = std::env::args().skip_while(|argument| argument != "--check");
    let samples = match behind.nth(1) {
        Some(text) => text
            .parse()
            .map_err(|_| format!("--check {text}: a number of samples"))?,
        None => SAMPLES,
    };
    let checker = Checker {
        function,
        manifest,
        bus: &bus,
        samples,
    };
    Ok(Check {
        function: manifest.name.clone(),
        rows: checker.rows(&store).await?,
        waiting: checker.waiting().await?,
        delayed: checker.delayed().await?,
        letters: checker.letters().await?,
    })
}

struct Checker<'c> {
    function: &'c Erased,
    manifest: &'c Manifest,
    bus: &'c Bus,
    /// Things to try of each kind.
    samples: u64,
}

impl Checker<'_> {
    async fn rows(&self, store: &Store) -> Result<Sample, InspectError> {
        let mut sample = Sample::default();
        let Some(table) = &self.manifest.table else {
            return Ok(sample);
        };
        let mut cursor = 0;
        loop {
            let page = store.rows(table, cursor).await?;
            for KeyedRow { key, row } in page.rows {
                let opened = match &self.function.foreign {
                    Some(call) => self.open_elsewhere(call, &key, &row.fields).await,
                    None => guarded(|| {
                        let row = (self.function.open)(&row.fields).map_err(|e| e.to_string())?;
                        row.changes().map(|_| ())
                    }),
                };
                sample.add(|| format!("{table}/{key}"), opened);
            }
            cursor = page.next;
            if cursor == 0 || sample.tried >= self.samples {
                return Ok(sample);
            }
        }
    }

    /// Has another process open a row.
    async fn open_elsewhere(
        &self,
        call: &ForeignCall,
        key: &str,
        fields: &Fields,
    ) -> Result<(), String> {
        let row_version = stored_version(fields, self.function.row_version);
        let run = ForeignRun {
            key: key.into(),
            row_version: row_version.map_err(|e| e.to_string())?,
            fields: author_fields(fields),
            events: Vec::new(),
            purpose: RunPurpose::Check,
            timeout: CHECK_TIMEOUT,
            files: self.no_files(),
        };
        let answered = call(run).await;
        answered.map(|_| ()).map_err(|lost| lost.text().to_owned())
    }

    /// Files for who only reads rows and events.
    fn no_files(&self) -> ForeignFiles {
        ForeignFiles::new(FileStore::Absent, self.function.declared())
    }

    /// Has another process read an event whose key is known.
    async fn read_elsewhere(
        &self,
        call: &ForeignCall,
        meta: Meta,
        keyed: Keyed,
    ) -> Result<(), String> {
        let run = ForeignRun {
            key: keyed.key.into(),
            row_version: self.function.row_version,
            fields: Fields::new(),
            events: vec![ForeignEvent {
                meta: meta.into(),
                payload: keyed.payload,
                attempt: 1,
                ids: None,
            }],
            purpose: RunPurpose::Check,
            timeout: CHECK_TIMEOUT,
            files: self.no_files(),
        };
        let answered = call(run).await.and_then(|answer| answer.of_events(1));
        let answer = answered.map_err(|lost| lost.text().to_owned())?;
        let outcomes = answer.events.into_iter();
        let mut failures = outcomes.filter_map(|outcome| outcome.result.err());
        failures.next().map_or(Ok(()), |failure| Err(failure.text))
    }

    async fn waiting(&self) -> Result<Sample, InspectError> {
        let mut sample = Sample::default();
        let stream = &self.manifest.stream;
        let Ok(created) = self.bus.stream_created(stream).await else {
            return Ok(sample);
        };
        let floor = match self.bus.consumer_info(stream, &self.manifest.name).await {
            Ok(consumer) if consumer.is_idle() => return Ok(sample),
            Ok(consumer) => consumer.ack_floor.stream_seq,
            Err(e) if e.is_not_found() => 0,
            Err(e) => return Err(e.into()),
        };
        for subject in &self.manifest.filters {
            let messages = self.read(stream, subject, floor + 1).await?;
            for message in messages {
                sample.add(
                    || format!("{stream}/{}", message.sequence),
                    self.event(&message, stream, created).await,
                );
            }
        }
        Ok(sample)
    }

    async fn delayed(&self) -> Result<Sample, InspectError> {
        let mut sample = Sample::default();
        let Ok(created) = self.bus.stream_created(TIMER).await else {
            return Ok(sample);
        };
        let subject = self.bus.app().all_delayed();
        for message in self.read(TIMER, &subject, 1).await? {
            let ty = message.header("ce-type").unwrap_or_default().to_owned();
            if !self.manifest.triggers.contains(&ty) {
                continue;
            }
            sample.add(
                || format!("{TIMER}/{}", message.sequence),
                self.event(&message, TIMER, created).await,
            );
        }
        Ok(sample)
    }

    async fn letters(&self) -> Result<Sample, InspectError> {
        let mut sample = Sample::default();
        if self.bus.stream_created(DLQ).await.is_err() {
            return Ok(sample);
        }
        let subject = self.bus.app().letters(&self.manifest.name);
        for message in self.read(DLQ, &subject, 1).await? {
            let Ok(letter) = DeadLetter::decode(message.payload) else {
                continue;
            };
            let stored = letter::message_of(&letter);
            // What was too large to be set aside whole is in its stream.
            if stored.payload.is_empty() || !READABLE.contains(&letter.reason.as_str()) {
                continue;
            }
            sample.add(
                || letter.event_id.clone(),
                self.event(&stored, &letter.stream, 0).await,
            );
        }
        Ok(sample)
    }

    /// Messages of a subject, as many as are to be tried.
    async fn read(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
    ) -> Result<Vec<StoredMessage>, BusError> {
        let mut all = Vec::new();
        let mut from = from;
        while (all.len() as u64) < self.samples {
            let slice = Slice {
                from,
                since: None,
                subject,
                messages: 256,
                bytes: 0,
            };
            let page = self.bus.read_slice(stream, &slice).await?;
            let Some(last) = page.last() else { break };
            from = last.sequence + 1;
            all.extend(page);
        }
        all.truncate(self.samples as usize);
        Ok(all)
    }

    /// Reads an event as the worker would, up to its key.
    async fn event(
        &self,
        message: &StoredMessage,
        stream: &str,
        created: u64,
    ) -> Result<(), String> {
        let incoming = message.read(stream, created)?;
        let ty = &incoming.meta.ty;
        if !self.manifest.triggers.contains(ty) {
            return Err(format!("this program does not act on {ty}"));
        }
        let mut elsewhere = None;
        guarded(|| {
            let decoded = (self.function.decode)(ty, incoming.format, &incoming.payload);
            let decoded = decoded.map_err(|e| e.0)?;
            (self.function.key)(&decoded);
            elsewhere = decoded.downcast::<Keyed>().ok();
            Ok(())
        })?;
        match (&self.function.foreign, elsewhere) {
            (Some(call), Some(keyed)) => self.read_elsewhere(call, incoming.meta, *keyed).await,
            _ => Ok(()),
        }
    }
}

/// Runs the author's code; a panic is a failure like any other.
fn guarded(code: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    std::panic::catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| {
        Err(format!(
            "panicked: {}",
            crate::worker::effects::panic_text(panic.as_ref())
        ))
    })
}
