//! Changes of a function, compared with what is there: events that wait, rows that are written, and payloads in the
//! streams must still find a reader. What would be lost by a change is told before it is made, with the way around it.

pub mod owners;
pub mod set_aside;
pub mod waiting;

use std::collections::BTreeMap;
use std::fmt;

use self::owners::Ownership;
use self::waiting::Waiter;
use crate::{AdminError, consumers};
use oncue_core::bus::Bus;
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::model::history::History;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use oncue_proto::compat::{self, Break};
use oncue_proto::{Catalog, CatalogError};

/// Reason for which a function's new program may not take over yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Events of types that it does not act on any more, by subject.
    GivenUp(BTreeMap<String, u64>),
    /// Events of another domain, on which it acts so far and of which some may wait.
    Elsewhere { stream: String, waiting: u64 },
    /// Events wait, and the new program would look for their rows under another key.
    Key {
        from: Option<String>,
        to: Option<String>,
        waiting: u64,
    },
    /// Rows were written in a newer version than it knows.
    NewerRows {
        table: String,
        key: String,
        stored: u32,
        known: u32,
    },
    /// Table that is another function's.
    OthersRows {
        table: String,
        /// Pattern of the keys of its rows in Redis.
        keys: String,
        owner: String,
        standing: Ownership,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GivenUp(waiting) => {
                let counts = waiting.iter();
                let counts = counts.map(|(subject, count)| format!("{count} of {subject}"));
                let counts: Vec<String> = counts.collect();
                write!(
                    f,
                    "does not act on them any more, and nobody would handle the events that wait: {}",
                    counts.join(", ")
                )
            }
            Self::Elsewhere { stream, waiting } => write!(
                f,
                "acts on events of the domain {stream} so far, of which {waiting} wait, and nobody would handle them"
            ),
            Self::Key { from, to, waiting } => {
                write!(
                    f,
                    "its key was {}, and is {}: {waiting} events wait that belong to rows under the old one",
                    key_name(from.as_deref()),
                    key_name(to.as_deref())
                )
            }
            Self::NewerRows {
                table,
                key,
                stored,
                known,
            } => write!(
                f,
                "the row {table}/{key} has version {stored}, and this program knows up to {known}: events of such rows \
                 would wait for ever"
            ),
            Self::OthersRows {
                table,
                owner,
                standing,
                ..
            } => match standing {
                Ownership::Declared => write!(
                    f,
                    "writes rows of the table {table}, which are those of {owner}: a table has one owner"
                ),
                Ownership::Left => write!(
                    f,
                    "would act on every event again, on top of the rows of the table {table}: they are those of {owner}, which \
                     is gone from oncue.toml and not from the servers"
                ),
                Ownership::Former => write!(
                    f,
                    "would act on every event again, on top of the rows of the table {table}: {owner} has written them, whose \
                     they are no more"
                ),
            },
        }
    }
}

/// Name of a key, for people.
fn key_name(key: Option<&str>) -> &str {
    key.unwrap_or("its own")
}

impl Obstacle {
    /// Action that removes it.
    pub fn way_out(&self, function: &str) -> String {
        match self {
            Self::GivenUp(_) => format!(
                "let the old program run until nothing waits (`oncue ps`), or make them dead letters of {function}: \
                 `oncue apply --set-aside {function}`"
            ),
            Self::Elsewhere { .. } => format!(
                "stop it and `oncue remove {function}`, which sets aside what waits or says that nothing does, and leaves its rows; \
                 then apply again"
            ),
            Self::Key { .. } => "let the old program run until nothing waits (`oncue ps`)".to_owned(),
            Self::NewerRows { .. } => {
                "run the newer program, or give this one a version and an upgrade step that know such rows".to_owned()
            }
            Self::OthersRows {
                standing: Ownership::Declared,
                ..
            } => format!("give {function} a table of its own"),
            Self::OthersRows {
                keys,
                owner,
                standing,
                ..
            } => {
                let remove = match standing {
                    Ownership::Left => format!("`oncue remove {owner}`, "),
                    _ => String::new(),
                };
                format!(
                    "keep the name {owner}, if it is the same function; or give {function} a table of its own. Only if it is to act \
                     again, from empty rows, on what its stream still holds: {remove}delete the keys {keys} in Redis, apply again"
                )
            }
        }
    }
}

/// Consumer of a function on another stream than its program's: the new one would begin beside it, and it would keep what waits
/// for ever.
///
/// # Errors
/// A server does not answer.
pub async fn elsewhere(manifest: &Manifest, bus: &Bus) -> Result<Option<Obstacle>, AdminError> {
    for stream in consumers::event_streams(bus).await? {
        let stream = stream.config.name;
        if stream == manifest.stream {
            continue;
        }
        match bus.consumer_info(&stream, &manifest.name).await {
            Ok(consumer) => {
                let waiting = consumer.lag();
                return Ok(Some(Obstacle::Elsewhere { stream, waiting }));
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(AdminError::api(&stream, e)),
        }
    }
    Ok(None)
}

/// Looks for what stands in the way of a new program. `consumer` is that of the old one, `history` what has run so far.
///
/// # Errors
/// A server does not answer.
pub async fn obstacles(
    manifest: &Manifest,
    history: &History,
    consumer: &ConsumerInfo,
    waiter: Waiter<'_>,
    bus: &Bus,
    store: &Store,
) -> Result<Vec<Obstacle>, AdminError> {
    let mut found = Vec::new();
    if !consumer.is_idle() {
        let redrive = manifest.subjects(bus.app()).pop();
        let filters = consumer.config.filters().map(str::to_owned);
        let filters: Vec<String> = filters.filter(|f| Some(f) != redrive.as_ref()).collect();
        let given_up = waiting::given_up(&filters, manifest);
        let waiting = waiting::by_subject(waiter, &given_up, bus, store).await?;
        if !waiting.is_empty() {
            found.push(Obstacle::GivenUp(waiting));
        }
        let from = consumer.config.key().map(str::to_owned);
        if manifest.table.is_some() && from != manifest.key {
            let waiting = waiting::by_subject(waiter, &filters, bus, store).await?;
            let waiting = waiting.values().sum();
            if waiting > 0 {
                let to = manifest.key.clone();
                found.push(Obstacle::Key { from, to, waiting });
            }
        }
    }
    let known = manifest.row_version;
    let may_be_newer = history.newest_rows() > known;
    if let Some(table) = manifest.table.as_ref().filter(|_| may_be_newer) {
        let newer = store.newer_row(table, known).await?;
        found.extend(newer.map(|newer| Obstacle::NewerRows {
            table: table.clone(),
            key: newer.key,
            stored: newer.version,
            known,
        }));
    }
    Ok(found)
}

/// Changes of a program's contract that break events which other programs, or it before, have written. `stored` and
/// `program` are descriptor sets.
///
/// # Errors
/// A set cannot be read.
pub fn breaks<'s>(
    stored: impl IntoIterator<Item = &'s Vec<u8>>,
    program: &[u8],
) -> Result<Vec<Break>, CatalogError> {
    let new = Catalog::default().with(program)?;
    let mut found = Vec::new();
    for set in stored {
        let old = Catalog::default().with(set)?;
        found.extend(compat::breaks(&old, &new));
    }
    found.sort();
    found.dedup();
    Ok(found)
}
