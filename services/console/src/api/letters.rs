//! `GET /api/letters`: dead letters in groups of one cause; `.../group/{group}`: a page of one; `.../{number}`: a letter,
//! whole; `.../{number}/edit` sends its event again with another payload.

mod differ;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, Query, State};
use oncue_admin::dead_letters::{
    self, CauseCount, Edit, Letter, LetterError, LetterIndex, LetterOrder, LetterQuery,
    LetterSummary, message_of, ms,
};
use oncue_core::bus::layout::DLQ;
use oncue_proto::Entry;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::api::audit::{self, SOURCE, Who};
use crate::api::decode::StreamOrigin;
use crate::live::notices::of_letters;
use crate::problem::{GONE, MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// Letters looked at by a search, from the end of the stream.
pub const WINDOW: u64 = 5000;
/// Time for a look: a stream that nobody has read yet takes several.
const LOOK_BUDGET: Duration = Duration::from_secs(3);
/// Letters of a page, unless it says otherwise, and at most.
const PAGE: usize = 50;
const MAX_LISTED: usize = 200;
/// Payloads that are compared.
const SAMPLE: usize = 40;
/// Characters of a payload that is text that are shown.
const MAX_TEXT: usize = 16 << 10;
/// Bytes of a payload nobody can read that are shown, in hexadecimal.
const MAX_HEX: usize = 512;

/// Index of the letters, shared by all browsers.
#[derive(Default)]
pub struct Letters(Mutex<LetterIndex>);

impl Letters {
    /// The index, as the stream is now. The first look reads all letters; those after it read what is new.
    pub async fn look(&self, app: &App) -> Result<MutexGuard<'_, LetterIndex>, Problem> {
        let mut index = self.0.lock().await;
        let read = index.refresh(&app.bus, LOOK_BUDGET).await;
        read.map_err(away)?;
        Ok(index)
    }
}

/// Which groups somebody wants to see; by default all.
#[derive(Deserialize)]
pub struct Wanted {
    #[serde(default)]
    function: String,
    /// Part of any text of the group, without regard to case.
    #[serde(default)]
    q: String,
}

pub async fn list(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, Problem> {
    let index = app.letters.look(&app).await?;
    let text = wanted.q.to_lowercase();
    let groups = index.causes().into_iter().filter(|group| {
        let cause = &group.cause;
        let texts = [
            &cause.function,
            &cause.reason,
            &cause.site,
            &cause.message,
            &group.name,
        ];
        let is_found = texts.iter().any(|one| one.to_lowercase().contains(&text));
        is_found && (wanted.function.is_empty() || wanted.function == cause.function)
    });
    // Without Redis letters are read all the same.
    let owners = dead_letters::owners(&app.store).await.unwrap_or_default();
    let silent = app.notices.silent();
    let groups = groups.map(|one| {
        let mut shown = group(&one, &index);
        shown["owner"] = json!(owners.get(&one.name));
        let silent = silent.get(&of_letters(&one.name));
        shown["snoozed_until"] = silent.copied().unwrap_or(0).into();
        shown
    });
    let groups: Vec<Value> = groups.collect();
    Ok(Json(json!({
        "groups": groups,
        "letters": index.len(),
        "before": index.before(),
        "unread": index.unread(),
        "last": index.last(),
    })))
}

fn group(group: &CauseCount, index: &LetterIndex) -> Value {
    let cause = &group.cause;
    let mut shown = json!({
        "group": group.name,
        "function": cause.function,
        "reason": cause.reason,
        "site": cause.site,
        "message": cause.message,
        "count": group.count,
        "first": group.first,
        "last": group.last,
    });
    // A client that acts on letters by number gets those of a small group; a large one is named by its group.
    if group.count <= MAX_LISTED as u64 {
        let query = LetterQuery {
            group: &group.name,
            text: "",
            through: u64::MAX,
        };
        shown["numbers"] = json!(index.numbers(&query));
    }
    shown
}

/// Taking of a group, or letting it go.
#[derive(Deserialize)]
pub struct Taking {
    /// Words for the others.
    #[serde(default)]
    note: String,
    /// Leave it to whoever takes it.
    #[serde(default)]
    release: bool,
}

/// `POST /api/letters/group/{group}/owner`: whoever asks sees to the letters of a cause from now on, or does not any more.
pub async fn own(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(group): Path<String>,
    asked: Result<Json<Taking>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(asked) = asked.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    if asked.release {
        let had = dead_letters::release(&group, &app.store).await;
        had.map_err(away)?;
        audit::line(&who, "release", &group, "done");
        return Ok(Json(json!({ "owner": null })));
    }
    let note = asked.note.trim();
    if note.len() > audit::MAX_REASON {
        let how = format!("a note has at most {} bytes", audit::MAX_REASON);
        return Err(Problem::new(MALFORMED, how));
    }
    let known: BTreeSet<String> = {
        let index = app.letters.look(&app).await?;
        let causes = index.causes().into_iter();
        causes.map(|cause| cause.name.clone()).collect()
    };
    if !known.contains(&group) {
        let why = format!("there is no group {group:?} any more");
        return Err(Problem::new(GONE, why));
    }
    let before = dead_letters::take(
        &group,
        &who.0,
        note,
        |group| known.contains(group),
        &app.store,
    )
    .await;
    let before = before.map_err(away)?;
    let outcome = match &before {
        Some(before) if before.who != who.0 => format!("from {}", before.who),
        _ => "done".to_owned(),
    };
    audit::line(&who, "take", &group, &outcome);
    Ok(Json(json!({ "owner": { "who": who.0, "note": note } })))
}

/// Which page of a group somebody wants to see.
#[derive(Deserialize)]
pub struct Page {
    #[serde(default)]
    q: String,
    #[serde(default)]
    offset: usize,
    /// Letters of a page; 50 unless named, at most 200.
    limit: Option<usize>,
    /// `age`, `key`, `attempts` or `redrives`; the largest first, unless `ascending`.
    #[serde(default)]
    sort: String,
    #[serde(default)]
    ascending: bool,
}

/// A page of the letters of one group.
pub async fn page(
    State(app): State<Arc<App>>,
    Path(group): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let order = match page.sort.as_str() {
        "" | "age" => LetterOrder::Age,
        "key" => LetterOrder::Key,
        "attempts" => LetterOrder::Attempts,
        "redrives" => LetterOrder::Redrives,
        other => {
            let why =
                format!("letters are sorted by age, key, attempts or redrives, not by {other:?}");
            return Err(Problem::new(MALFORMED, why));
        }
    };
    let index = app.letters.look(&app).await?;
    let query = LetterQuery {
        group: &group,
        text: page.q.trim(),
        through: u64::MAX,
    };
    let mut numbers = index.numbers(&query);
    let count = numbers.len();
    index.sort(&mut numbers, order, page.ascending);
    let listed = numbers
        .into_iter()
        .skip(page.offset)
        .take(page.limit.unwrap_or(PAGE).clamp(1, MAX_LISTED));
    let letters: Vec<Value> = listed
        .filter_map(|number| Some(summary(number, index.get(number)?)))
        .collect();
    Ok(Json(
        json!({ "letters": letters, "count": count, "offset": page.offset, "last": index.last() }),
    ))
}

fn summary(number: u64, letter: &LetterSummary) -> Value {
    json!({
        "number": number,
        "at": letter.at,
        "event": letter.event,
        "type": letter.event_type,
        "key": letter.key,
        "flow": letter.flow,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "message": letter.message,
    })
}

/// Comparison of the payloads of a group: what they have in common and where they differ, told from a sample spread over all of it.
pub async fn differences(
    State(app): State<Arc<App>>,
    Path(group): Path<String>,
) -> Result<Json<Value>, Problem> {
    let numbers = {
        let index = app.letters.look(&app).await?;
        let query = LetterQuery {
            group: &group,
            text: "",
            through: u64::MAX,
        };
        index.numbers(&query)
    };
    let step = numbers.len().div_ceil(SAMPLE).max(1);
    let mut payloads = Vec::new();
    for number in numbers.iter().step_by(step) {
        let found = app.bus.read_message(DLQ, *number).await.map_err(away)?;
        let letter = found.and_then(|message| Letter::read(app.bus.app(), &message));
        if let Some(letter) = letter {
            let data = whole(&app, &letter).await["data"].take();
            if !data.is_null() {
                payloads.push(data);
            }
        }
    }
    Ok(Json(differ::tell(&payloads)))
}

fn short(letter: &Letter) -> Value {
    let inner = &letter.content;
    json!({
        "number": letter.number,
        "at": letter.at(),
        "event": inner.event_id,
        "type": inner.event_type,
        "key": inner.key,
        "flow": inner.flow_id,
        "attempts": inner.attempts,
        "redrives": inner.redrives,
        "message": inner.message,
    })
}

pub async fn one(
    State(app): State<Arc<App>>,
    Path(number): Path<String>,
) -> Result<Json<Value>, Problem> {
    let letter = read(&app, &number).await?;
    Ok(Json(whole(&app, &letter).await))
}

/// The letter of a number that somebody has sent.
async fn read(app: &App, number: &str) -> Result<Letter, Problem> {
    let number: u64 = number.parse().map_err(|_| {
        Problem::new(
            MALFORMED,
            format!("{number:?} is not the number of a letter"),
        )
    })?;
    let found = app.bus.read_message(DLQ, number).await.map_err(away)?;
    let letter = found
        .as_ref()
        .and_then(|message| Letter::read(app.bus.app(), message));
    letter.ok_or_else(|| {
        Problem::new(
            NOT_FOUND,
            format!("there is no dead letter #{number} any more"),
        )
    })
}

/// Correction of the event of a letter.
#[derive(Deserialize)]
pub struct Correction {
    data: Value,
    #[serde(default)]
    why: String,
}

/// `POST /api/letters/{number}/edit`: sends the event again with another payload, and gives the letter up on record.
pub async fn edit(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(number): Path<String>,
    asked: Result<Json<Correction>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(asked) = asked.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    let why = audit::reason(&asked.why)?;
    let letter = read(&app, &number).await?;
    let catalog = app.catalog.now();
    let entry = catalog
        .get(&letter.content.event_type)
        .map_err(|e| Problem::new(MALFORMED, e.to_string()))?;
    let edit = Edit {
        payload: &asked.data.to_string(),
        why,
        who: &who.0,
        source: SOURCE,
    };
    let bounds = &app.config.bounds;
    let sent = dead_letters::resend(&letter, &edit, entry, bounds, &app.bus, &app.store).await;
    let outcome = match &sent {
        Ok(id) => format!("sent again as {id}: {why}"),
        Err(e) => e.to_string(),
    };
    audit::line(&who, "edit", &format!("#{number}"), &outcome);
    match sent {
        Ok(id) => Ok(Json(json!({ "id": id, "flow": letter.content.flow_id }))),
        Err(LetterError::Edit(why)) => Err(Problem::new(MALFORMED, why)),
        Err(
            e @ (LetterError::Output { .. }
            | LetterError::Gone(_)
            | LetterError::Applied(_)
            | LetterError::UnderWay(_)
            | LetterError::PayloadGone { .. }),
        ) => Err(Problem::new(GONE, e.to_string())),
        Err(e) => Err(away(e)),
    }
}

async fn whole(app: &App, letter: &Letter) -> Value {
    let inner = &letter.content;
    let mut shown = short(letter);
    let envelope = letter.envelope();
    let headers: Vec<(&str, &str)> = envelope
        .headers
        .iter()
        .map(|h| (h.name.as_str(), h.value.as_str()))
        .collect();
    for (name, value) in [
        ("group", json!(letter.group)),
        ("function", json!(inner.function)),
        ("reason", json!(inner.reason)),
        ("site", json!(inner.site)),
        ("stream", json!(inner.stream)),
        ("sequence", json!(inner.sequence)),
        ("time", json!(ms(inner.time.as_ref()))),
        ("timed", json!(inner.timed)),
        ("accepted", json!(ms(inner.accepted_at.as_ref()))),
        ("trace", json!(letter.trace_id())),
        ("subject", json!(envelope.subject)),
        ("headers", json!(headers)),
    ] {
        shown[name] = value;
    }
    match dead_letters::complete(&app.bus, inner).await {
        Err(why) => shown["undecoded"] = why.to_string().into(),
        Ok(complete) => {
            let found = message_of(&complete);
            let origin = StreamOrigin {
                stream: &inner.stream,
                created: 0,
            };
            let catalog = app.catalog.now();
            let event = origin.show(&found, &catalog);
            for name in ["data", "undecoded", "error"] {
                if !event[name].is_null() {
                    shown[name] = event[name].clone();
                }
            }
            let is_sensitive = catalog
                .get(&inner.event_type)
                .is_ok_and(Entry::is_sensitive);
            if shown["data"].is_null() && !is_sensitive {
                match text(&found.payload) {
                    Some(text) => shown["text"] = text.into(),
                    None => shown["hex"] = hex(&found.payload).into(),
                }
            }
            shown["bytes"] = found.payload.len().into();
        }
    }
    shown
}

/// Beginning of a payload that is text; `None` for any other, and for one with control characters.
fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut odd = text
        .chars()
        .filter(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    (!text.is_empty() && odd.next().is_none()).then(|| text.chars().take(MAX_TEXT).collect())
}

/// Sixteen bytes a line.
fn hex(bytes: &[u8]) -> String {
    let lines = bytes[..bytes.len().min(MAX_HEX)].chunks(16);
    let lines = lines.map(|line| {
        line.iter()
            .map(|byte| format!("{byte:02x} "))
            .collect::<String>()
    });
    lines.collect::<Vec<_>>().join("\n")
}
