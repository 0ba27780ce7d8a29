//! An app without types of Rust, for `oncue-host --testing`: functions whose handlers are elsewhere, events as they are encoded.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use oncue_core::bus::layout::{TIMER, scheduled};
use oncue_core::bus::{Headers, Outbound};
use oncue_core::store::StateValue;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::TimerFired;
use oncue_proto::{Event as _, Format};
use prost::Message as _;

use super::super::world::{Journal, label};
use super::App;
use crate::foreign::Foreign;
use crate::function::Erased;
use crate::state::{author_fields, stored_version};

/// Steps of a journal that are shown.
const MAX_STEPS_SHOWN: usize = 500;

#[doc(hidden)]
impl App {
    /// Adds a function whose handler is elsewhere. From now on each job waits for what its handler waits for, so that luck
    /// alone says in which order things happen.
    ///
    /// # Errors
    /// Its description asks for the impossible, or there is one of its name.
    pub fn add_foreign(&mut self, foreign: Foreign) -> Result<(), String> {
        self.is_patient = true;
        self.add(Erased::foreign(foreign)?)
    }

    /// Publishes an event, as a client would, and returns its id.
    pub fn publish_encoded(&mut self, ty: &str, key: &str, payload: Bytes) -> String {
        self.published += 1;
        let id = format!("event-{}", self.published);
        let meta = Meta::root(id.clone(), "/test".to_owned(), ty, self.world.now());
        let message = Outbound {
            subject: event::subject(ty, key),
            headers: event::headers(&meta, key, Format::Protobuf)
                .into_iter()
                .collect(),
            payload,
        };
        self.world
            .note(|| format!("a client publishes {}", label(ty, key, &id)));
        self.world.publish(message, &self.members);
        id
    }

    /// Fires an event again and again, first when the interval has passed.
    pub fn every_encoded(&mut self, interval: Duration, ty: &str, key: &str, payload: Bytes) {
        let headers: Headers = [
            ("ce-specversion", "1.0"),
            ("ce-type", ty),
            ("ce-source", "/schedule"),
            ("ce-datacontenttype", Format::Protobuf.media_type()),
        ]
        .into_iter()
        .collect();
        let message = Outbound {
            subject: String::new(),
            headers,
            payload,
        };
        self.schedules += 1;
        let subject = format!("{TIMER}.schedule.app.{}", self.schedules);
        let rule = format!("@every {}s", interval.as_secs());
        let message = scheduled(subject, &rule, ty, key, message);
        self.world.publish(message, &self.members);
    }

    /// Fires a function that takes no event again and again.
    ///
    /// # Errors
    /// There is no such function.
    pub fn every_timer(&mut self, interval: Duration, function: &str) -> Result<(), String> {
        let mut members = self.members.iter();
        let found = members.find(|member| member.name() == function);
        if !found.is_some_and(|member| member.effects.function.per_function) {
            return Err(format!(
                "this app has no function without an event that is called {function}"
            ));
        }
        let fired = TimerFired {
            function: function.to_owned(),
        };
        let payload = fired.encode_to_vec().into();
        self.every_encoded(interval, TimerFired::TYPE, fired.key(), payload);
        Ok(())
    }

    /// Refuses a table that no function of the app has.
    ///
    /// # Errors
    /// There is none; the sentence names those that there are.
    pub fn check_table(&self, table: &str) -> Result<(), String> {
        let functions = self.members.iter().map(|member| &member.effects.function);
        let mut tables: Vec<&str> = Vec::new();
        for function in functions {
            tables.extend(Some(function.table).filter(|table| !table.is_empty()));
            match function.changes {
                Some(changes) => tables.extend(changes),
                // It may change any.
                None => return Ok(()),
            }
        }
        if tables.contains(&table) {
            return Ok(());
        }
        Err(format!(
            "no function of this app has a table {table}; there are {}",
            tables.join(", ")
        ))
    }

    /// Unix milliseconds in the app.
    pub fn now(&self) -> u64 {
        self.world.now()
    }

    /// Fields of a row as its author knows them, and their version; `None` where none was written.
    pub fn fields(&self, table: &str, key: &str) -> Option<(u32, BTreeMap<String, String>)> {
        let StateValue::Row(row) = self.world.store.show(table, key)? else {
            return None;
        };
        let version = stored_version(&row.fields, u32::MAX).unwrap_or(1);
        let fields = author_fields(&row.fields).into_iter();
        let texts =
            fields.map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
        Some((version, texts.collect()))
    }

    /// Payloads of events of one type, the oldest first.
    pub fn payloads(&self, ty: &str) -> Vec<Bytes> {
        let messages = self.messages().into_iter();
        let of_type = messages.filter(|message| super::header(message, "ce-type") == Some(ty));
        of_type.map(|message| message.payload).collect()
    }

    /// Stores a file with its metadata, as an upload does.
    pub fn put_described_file(
        &mut self,
        name: &str,
        metadata: &BTreeMap<String, String>,
        content: Bytes,
    ) {
        let metadata: Vec<(&str, &str)> = metadata
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.world.files.put(name, &metadata, content);
    }

    /// Writes down from now on what the app does.
    pub fn keep_journal(&mut self) {
        self.world.lock().journal = Some(Journal::default());
    }

    /// Steps so far, the last ones of many.
    pub fn journal(&self) -> Vec<String> {
        let inner = self.world.lock();
        let lines = inner
            .journal
            .as_ref()
            .map_or(&[][..], |journal| &journal.lines);
        let hidden = lines.len().saturating_sub(MAX_STEPS_SHOWN);
        let before = (hidden > 0).then(|| format!("  ({hidden} steps before)"));
        before
            .into_iter()
            .chain(lines[hidden..].iter().cloned())
            .collect()
    }
}
