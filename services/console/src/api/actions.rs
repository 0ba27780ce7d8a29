//! Actions on dead letters: tried, given back to their function, given up. Each is on record.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, State};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oncue_admin::AdminError;
use oncue_admin::dead_letters::{
    self, Letter, LetterError, LetterQuery, OutcomeCounts, Pace, Progress, Tally, Watch, grouped,
};
use oncue_core::bus::layout::DLQ;
use oncue_core::model::dry_run::{DryRun, EmittedEvent};
use oncue_proto::{Catalog, Format};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::audit::{self, SOURCE, Who};
use crate::problem::{AWAY, CROWDED, GONE, MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// Letters tried at once; each is a process.
/// Somebody waits for the answer, and they run one after another.
const MAX_TRIED: usize = 20;
/// Letters that are read, redriven or dropped together: what a job holds in memory.
const CHUNK: usize = 500;
/// Letters a second; twice as fast as the command line's default.
const RATE: f64 = 20.0;
/// Letters a second once a whole chunk went well.
const FAST_RATE: f64 = 400.0;
/// Longest wait for the outcomes of a chunk.
const WAIT: Duration = Duration::from_mins(1);
/// Letters read at the same time.
const CONCURRENT_READS: usize = 32;
/// Letters dropped at the same time; each takes two round trips.
const CONCURRENT_DROPS: usize = 32;
/// Redrives that are remembered, and those that may be under way.
const MAX_REMEMBERED: u64 = 50;
const MAX_UNDER_WAY: usize = 4;

/// Redrives under way, and the last ones that ended.
#[derive(Default)]
pub struct Jobs {
    /// Number of the last job; numbers begin anew with the process, and with them the memory of jobs.
    next: AtomicU64,
    all: Mutex<BTreeMap<u64, Job>>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Job {
    who: String,
    letters: usize,
    sent: u64,
    done: u64,
    failed: u64,
    remarks: Vec<String>,
    ended: bool,
    /// Of the groups that are finished.
    #[serde(skip)]
    before: OutcomeCounts,
}

impl Job {
    /// Takes in how far the group under way is.
    fn count(&mut self, group: OutcomeCounts) {
        let all = self.before.plus(group);
        self.sent = all.sent;
        self.done = all.done;
        self.failed = all.failed;
    }

    /// The next group's numbers come on top.
    fn end_group(&mut self) {
        self.before = OutcomeCounts {
            sent: self.sent,
            done: self.done,
            failed: self.failed,
            pending: 0,
        };
    }
}

impl Jobs {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Job>> {
        self.all.lock()
    }

    /// Enters news of a redrive.
    fn report(&self, id: u64, news: Progress<'_>) {
        self.change(id, |job| match news {
            Progress::Remark(text) => job.remarks.push(text),
            Progress::Sent(_, sent) => job.count(OutcomeCounts::of(sent)),
        });
    }

    /// Enters how far a restart is.
    pub fn step(&self, id: u64, done: u64, remark: String) {
        self.change(id, |job| {
            job.done += done;
            job.remarks.push(remark);
        });
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.all().get_mut(&id) {
            change(job);
        }
    }
}

/// Letters by their numbers, or a whole group.
#[derive(Deserialize)]
pub struct Chosen {
    #[serde(default)]
    numbers: Vec<u64>,
    #[serde(default)]
    group: String,
    /// Of a group, only letters with this text, as the page that was looked at was filtered.
    #[serde(default)]
    q: String,
    /// Of a group, only letters up to this number: those that came since are not meant.
    through: Option<u64>,
    #[serde(default)]
    why: String,
}

type Body = Result<Json<Chosen>, JsonRejection>;

fn body(body: Body) -> Result<Chosen, Problem> {
    let Json(chosen) = body.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    if chosen.numbers.is_empty() == chosen.group.is_empty() {
        return Err(Problem::new(
            MALFORMED,
            "name at least one letter in `numbers`, or one group in `group`",
        ));
    }
    Ok(chosen)
}

/// Letters somebody chose, among all there are.
struct Selected {
    /// Oldest first.
    numbers: Vec<u64>,
    /// Of those, letters whose redrive has ended in a later one.
    outdated: BTreeMap<u64, u64>,
    /// The last letter there is.
    last: u64,
}

/// Looks up the letters meant. One that is gone was handled by somebody else meanwhile: then nothing is done.
async fn select(app: &App, chosen: &Chosen) -> Result<Selected, Problem> {
    let index = app.letters.look(app).await?;
    if index.unread() > 0 {
        let why = format!(
            "{} messages of the stream dlq are still being read; try again in a moment",
            index.unread()
        );
        return Err(Problem::new(CROWDED, why));
    }
    let mut numbers = chosen.numbers.clone();
    if chosen.group.is_empty() {
        numbers.sort_unstable();
        numbers.dedup();
    } else {
        numbers = index.numbers(&LetterQuery {
            group: &chosen.group,
            text: chosen.q.trim(),
            through: chosen.through.unwrap_or(u64::MAX),
        });
    }
    if let Some(gone) = numbers.iter().find(|number| index.get(**number).is_none()) {
        let why = format!("dead letter #{gone} is not there any more; nothing was done");
        return Err(Problem::new(GONE, why));
    }
    if numbers.is_empty() {
        let why = format!("no letter of group {} is there any more", chosen.group);
        return Err(Problem::new(GONE, why));
    }
    Ok(Selected {
        outdated: index.outdated(&numbers),
        last: index.last(),
        numbers,
    })
}

/// Reads letters from the stream; those that are gone meanwhile are left out.
async fn read(app: &App, numbers: &[u64]) -> Result<Vec<Letter>, AdminError> {
    let read = numbers.iter();
    let read: Vec<_> = read
        .map(|number| app.bus.read_message(DLQ, *number))
        .collect();
    let found: Vec<_> = stream::iter(read)
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    let messages = found.into_iter().flatten();
    Ok(messages
        .filter_map(|message| Letter::read(app.bus.app(), &message))
        .collect())
}

fn named(numbers: &[u64]) -> String {
    let listed: Vec<String> = numbers
        .iter()
        .take(50)
        .map(|number| format!("#{number}"))
        .collect();
    let more = numbers.len().saturating_sub(listed.len());
    if more > 0 {
        format!("{} and {more} more", listed.join(" "))
    } else {
        listed.join(" ")
    }
}

/// Tries letters: says what the function would do with each of them now, and commits nothing.
pub async fn attempt(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    asked: Body,
) -> Result<Json<Value>, Problem> {
    let selected = select(&app, &body(asked)?).await?;
    let tried = &selected.numbers[..selected.numbers.len().min(MAX_TRIED)];
    let mut answers = Vec::new();
    let mut applied = 0;
    for letter in read(&app, tried).await.map_err(away)? {
        let answer = dead_letters::attempt(&letter, &app.bench()).await;
        applied += usize::from(answer.as_ref().is_ok_and(DryRun::is_applied));
        answers.push(shown(letter.number, answer, &app.catalog.now()));
    }
    audit::line(
        &who,
        "try",
        &named(tried),
        &format!("{applied} of {} would be applied", answers.len()),
    );
    Ok(Json(
        json!({ "answers": answers, "left": selected.numbers.len() - tried.len() }),
    ))
}

pub fn shown(number: u64, answer: Result<DryRun, LetterError>, catalog: &Catalog) -> Value {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            return json!({ "number": number, "outcome": "untried", "message": why.to_string() });
        }
    };
    let mut shown = json!(answer);
    shown["number"] = number.into();
    let emits = answer.emits.iter().map(|emitted| decoded(emitted, catalog));
    shown["emits"] = emits.collect();
    shown
}

fn decoded(emitted: &EmittedEvent, catalog: &Catalog) -> Value {
    let data = catalog
        .get(&emitted.ty)
        .and_then(|entry| entry.to_view(Format::Protobuf, &emitted.payload.0));
    json!({ "type": emitted.ty, "key": emitted.key, "data": data.unwrap_or(Value::Null) })
}

/// Gives letters back; how it goes is asked under `/api/jobs/`. It goes on when nobody asks.
pub async fn redrive(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    asked: Body,
) -> Result<Json<Value>, Problem> {
    let selected = select(&app, &body(asked)?).await?;
    let id = begin(&app, &who, selected.numbers.len())?;
    let on = named(&selected.numbers);
    // On record before it begins: a console that is killed has still said who asked for what.
    audit::line(&who, "redrive", &on, "begun");
    let task = app.clone();
    // A task that shutdown waits for: the request may end, the redrive goes on.
    app.tasks.spawn(async move {
        let ended = give_back(&task, id, selected)
            .await
            .map_err(|e| e.to_string());
        end(&task, id, &who, ["redrive", &on], ended);
    });
    Ok(Json(json!({ "job": id })))
}

/// Enters a job about so many letters, or processes; refuses one too many.
pub fn begin(app: &App, who: &Who, letters: usize) -> Result<u64, Problem> {
    // Counted and entered under one lock, so that two requests at once cannot both be the last that fits.
    let mut jobs = app.jobs.all();
    if jobs.values().filter(|job| !job.ended).count() >= MAX_UNDER_WAY {
        let why = format!("{MAX_UNDER_WAY} jobs are under way; wait for one to end");
        return Err(Problem::new(CROWDED, why));
    }
    let id = app.jobs.next.fetch_add(1, Ordering::Relaxed) + 1;
    let job = Job {
        who: who.0.clone(),
        letters,
        ..Job::default()
    };
    jobs.insert(id, job);
    jobs.retain(|old, job| !job.ended || *old + MAX_REMEMBERED > id);
    Ok(id)
}

/// Enters the end of a job, and puts it on record; `deed` is what was done, and on what.
pub fn end(app: &App, id: u64, who: &Who, deed: [&str; 2], ended: Result<String, String>) {
    app.jobs.change(id, |job| {
        job.remarks.extend(ended.as_ref().err().cloned());
        job.ended = true;
    });
    let [what, on] = deed;
    let outcome = ended.unwrap_or_else(|why| format!("broken off: {why}"));
    audit::line(who, what, on, &outcome);
}

/// Chunk after chunk, so that a job of any size holds little; it ends with the first chunk that does not go well.
async fn give_back(app: &App, id: u64, selected: Selected) -> Result<String, AdminError> {
    let mut report = |news: Progress<'_>| app.jobs.report(id, news);
    for (number, later) in &selected.outdated {
        let remark = format!("#{number} was redriven before and became #{later}: taken away");
        report(Progress::Remark(remark));
        let deleted = app.bus.delete_message(DLQ, *number).await;
        deleted.map_err(|e| AdminError::api(format!("letter #{number}"), e))?;
    }
    let mut numbers = selected.numbers;
    numbers.retain(|number| !selected.outdated.contains_key(number));
    // Outcomes are new letters, so those that were there before need not be read again.
    let mut watch = Watch::new(&app.bus, app.store.clone(), &app.config, selected.last + 1);
    let mut pace = Pace {
        rate: RATE,
        wait: WAIT,
    };
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for chunk in numbers.chunks(CHUNK) {
        let letters = read(app, chunk).await?;
        let mut went_well = true;
        for group in grouped(&letters) {
            if tallies
                .get(group.name)
                .is_some_and(|before| before.left > 0)
            {
                continue;
            }
            let tally = dead_letters::redrive(&group, &pace, &mut watch, &mut report).await?;
            app.jobs.change(id, Job::end_group);
            went_well &= tally.left == 0 && tally.failed == 0 && tally.pending == 0;
            let all = tallies.entry(group.name.to_owned()).or_default();
            all.add(tally);
        }
        if went_well {
            pace.rate = FAST_RATE;
        }
        if !tallies.is_empty() && tallies.values().all(|tally| tally.left > 0) {
            break;
        }
    }
    let tallies = tallies.values().map(ToString::to_string);
    Ok(tallies.collect::<Vec<_>>().join("; "))
}

pub async fn job(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let job = id
        .parse()
        .ok()
        .and_then(|id: u64| app.jobs.all().get(&id).cloned());
    let job = job.ok_or_else(|| {
        Problem::new(
            NOT_FOUND,
            format!("there is no job {id}, or it ended long ago"),
        )
    })?;
    Ok(Json(json!(job)))
}

/// Gives letters up, for a reason that stays on record. Many are a job, whose end is asked under `/api/jobs/`.
pub async fn give_up(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    asked: Body,
) -> Result<Json<Value>, Problem> {
    let chosen = body(asked)?;
    let why = audit::reason(&chosen.why)?.to_owned();
    // All are looked up before the first is dropped, so that a page which is out of date drops nothing.
    let numbers = select(&app, &chosen).await?.numbers;
    let on = named(&numbers);
    let count = numbers.len();
    if count <= CHUNK {
        return match drop_all(&app, &numbers, &why, &who, None).await {
            Ok(()) => {
                audit::line(&who, "drop", &on, &format!("{count} dropped: {why}"));
                Ok(Json(json!({ "dropped": count })))
            }
            Err(outcome) => {
                audit::line(&who, "drop", &on, &outcome);
                Err(Problem::new(AWAY, outcome))
            }
        };
    }
    let id = begin(&app, &who, count)?;
    audit::line(&who, "drop", &on, &format!("begun: {why}"));
    let task = app.clone();
    app.tasks.spawn(async move {
        let ended = drop_all(&task, &numbers, &why, &who, Some(id)).await;
        let ended = ended.map(|()| format!("{count} dropped: {why}"));
        end(&task, id, &who, ["drop", &on], ended);
    });
    Ok(Json(json!({ "job": id })))
}

/// Drops letters, and tells the job how many;  the error says the same of one that broke off.
async fn drop_all(
    app: &App,
    numbers: &[u64],
    why: &str,
    who: &Who,
    job: Option<u64>,
) -> Result<(), String> {
    let mut dropped: u64 = 0;
    let mut passed: Vec<String> = Vec::new();
    for chunk in numbers.chunks(CHUNK) {
        let letters = read(app, chunk).await.map_err(|e| e.to_string())?;
        let deeds: Vec<_> = letters
            .iter()
            .map(|letter| drop_one(app, letter, why, who))
            .collect();
        let mut deeds = stream::iter(deeds).buffered(CONCURRENT_DROPS);
        while let Some(deed) = deeds.next().await {
            match deed {
                Ok(()) => dropped += 1,
                Err(Undropped::Passed(why)) => passed.push(why),
                Err(Undropped::Broken(why)) => {
                    return Err(format!(
                        "{dropped} dropped, then failed at {why}; if the stream dlq is full, raise its max_bytes"
                    ));
                }
            }
        }
        if let Some(id) = job {
            app.jobs.change(id, |job| {
                job.sent = dropped;
                job.done = dropped;
            });
        }
    }
    match passed.first() {
        None => Ok(()),
        Some(first) => Err(format!("{dropped} dropped, {} not: {first}", passed.len())),
    }
}

/// A letter that was not dropped, and why.
enum Undropped {
    /// Somebody else has seen to it, or is at it: the others are not held up.
    Passed(String),
    Broken(String),
}

async fn drop_one(app: &App, letter: &Letter, why: &str, who: &Who) -> Result<(), Undropped> {
    let deed = dead_letters::give_up(letter, why, &who.0, SOURCE, &app.bus, &app.store).await;
    deed.map_err(|e| match e {
        LetterError::Gone(_) | LetterError::Applied(_) | LetterError::UnderWay(_) => {
            Undropped::Passed(e.to_string())
        }
        other => Undropped::Broken(format!("#{}: {other}", letter.number)),
    })
}
