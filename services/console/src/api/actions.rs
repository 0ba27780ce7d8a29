//! Actions on dead letters: tried, given back to their function, given up. Each is on record.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, State};
use oncue_admin::AdminError;
use oncue_admin::dead_letters::{
    self, Bench, Letter, LetterError, Network, OutcomeCounts, Pace, Progress, Watch, grouped,
};
use oncue_core::model::dry_run::{DryRun, EmittedEvent};
use oncue_proto::{Catalog, Format};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::audit::{self, Who};
use crate::api::letters::WINDOW;
use crate::problem::{AWAY, CROWDED, GONE, MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// Letters tried at once; each is a process.
/// Somebody waits for the answer, and they run one after another.
const MAX_TRIED: usize = 20;
/// Letters dropped at once.
const MAX_DROPPED: usize = 1000;
/// Twice as fast as the command line's default; the request has no field for it.
const PACE: Pace = Pace {
    rate: 20.0,
    wait: Duration::from_mins(1),
};
/// Redrives that are remembered, and those that may be under way.
const MAX_REMEMBERED: u64 = 50;
const MAX_UNDER_WAY: usize = 4;
/// Source of the records of dropped letters, as CloudEvents have it.
const SOURCE: &str = "/oncue/console";

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

    fn change(&self, id: u64, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.all().get_mut(&id) {
            change(job);
        }
    }
}

#[derive(Deserialize)]
pub struct Chosen {
    numbers: Vec<u64>,
    #[serde(default)]
    why: String,
}

type Body = Result<Json<Chosen>, JsonRejection>;

fn body(body: Body) -> Result<Chosen, Problem> {
    let Json(chosen) = body.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    if chosen.numbers.is_empty() {
        return Err(Problem::new(
            MALFORMED,
            "name at least one letter in `numbers`",
        ));
    }
    Ok(chosen)
}

/// Letters somebody named, among all there are.
struct Selected {
    chosen: Vec<Letter>,
    all: Vec<Letter>,
}

/// Looks up the letters meant. One that is gone was handled by somebody else meanwhile: then nothing is done.
async fn letters(app: &App, numbers: &[u64]) -> Result<Selected, Problem> {
    // The window that the page lists: a letter that lies further back cannot be chosen there.
    let latest = dead_letters::latest(&app.bus, WINDOW).await;
    let all = latest.map_err(away)?.letters;
    let chosen: Vec<Letter> = all
        .iter()
        .filter(|letter| numbers.contains(&letter.number))
        .cloned()
        .collect();
    match numbers
        .iter()
        .find(|number| !chosen.iter().any(|letter| letter.number == **number))
    {
        Some(gone) => Err(Problem::new(
            GONE,
            format!("dead letter #{gone} is not there any more; nothing was done"),
        )),
        None => Ok(Selected { chosen, all }),
    }
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
    let chosen = body(asked)?;
    let tried = &chosen.numbers[..chosen.numbers.len().min(MAX_TRIED)];
    let selected = letters(&app, tried).await?;
    let bench = Bench {
        bus: &app.bus,
        store: &app.store,
        config: &app.config,
        bin: &app.bin,
        // Whoever has the console's token need not have a shell here.
        network: Network::HeldBack,
    };
    let mut answers = Vec::new();
    let mut applied = 0;
    for letter in &selected.chosen {
        let answer = dead_letters::attempt(letter, &bench).await;
        applied += usize::from(answer.as_ref().is_ok_and(DryRun::is_applied));
        answers.push(shown(letter.number, answer, &app.catalog));
    }
    audit::line(
        &who,
        "try",
        &named(tried),
        &format!("{applied} of {} would be applied", answers.len()),
    );
    Ok(Json(
        json!({ "answers": answers, "left": chosen.numbers.len() - tried.len() }),
    ))
}

fn shown(number: u64, answer: Result<DryRun, LetterError>, catalog: &Catalog) -> Value {
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
        .and_then(|entry| entry.to_json(Format::Protobuf, &emitted.payload.0));
    json!({ "type": emitted.ty, "key": emitted.key, "data": data.unwrap_or(Value::Null) })
}

/// Gives letters back; how it goes is asked under `/api/jobs/`. It goes on when nobody asks.
pub async fn redrive(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    asked: Body,
) -> Result<Json<Value>, Problem> {
    let chosen = body(asked)?;
    let selected = letters(&app, &chosen.numbers).await?;
    // Counted and entered under one lock, so that two requests at once cannot both be the last that fits.
    let id = {
        let mut jobs = app.jobs.all();
        if jobs.values().filter(|job| !job.ended).count() >= MAX_UNDER_WAY {
            return Err(Problem::new(
                CROWDED,
                format!("{MAX_UNDER_WAY} redrives are under way; wait for one to end"),
            ));
        }
        let id = app.jobs.next.fetch_add(1, Ordering::Relaxed) + 1;
        jobs.insert(
            id,
            Job {
                who: who.0.clone(),
                letters: selected.chosen.len(),
                ..Job::default()
            },
        );
        jobs.retain(|old, job| !job.ended || *old + MAX_REMEMBERED > id);
        id
    };
    // On record before it begins: a console that is killed has still said who asked for what.
    audit::line(&who, "redrive", &named(&chosen.numbers), "begun");
    let on = named(&chosen.numbers);
    let task = app.clone();
    // A task that shutdown waits for: the request may end, the redrive goes on.
    app.tasks.spawn(async move {
        let ended = give_back(&task, id, selected)
            .await
            .map_err(|e| e.to_string());
        task.jobs.change(id, |job| {
            job.remarks.extend(ended.as_ref().err().cloned());
            job.ended = true;
        });
        audit::line(
            &who,
            "redrive",
            &on,
            &ended.unwrap_or_else(|why| format!("broken off: {why}")),
        );
    });
    Ok(Json(json!({ "job": id })))
}

async fn give_back(app: &App, id: u64, selected: Selected) -> Result<String, AdminError> {
    let Selected { chosen, all } = selected;
    let mut report = |news: Progress<'_>| app.jobs.report(id, news);
    let chosen = dead_letters::without_outdated(&app.bus, chosen, &all, &mut report).await?;
    // Outcomes are new letters, so those that were there before need not be read again.
    let next = all.last().map_or(1, |letter| letter.number + 1);
    let mut watch = Watch::new(&app.bus, app.store.clone(), &app.config, next);
    let mut tallies = Vec::new();
    for group in grouped(&chosen) {
        let tally = dead_letters::redrive(&group, &PACE, &mut watch, &mut report).await?;
        app.jobs.change(id, Job::end_group);
        tallies.push(tally.to_string());
    }
    Ok(tallies.join("; "))
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

/// Gives letters up, for a reason that stays on record.
pub async fn give_up(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    asked: Body,
) -> Result<Json<Value>, Problem> {
    let chosen = body(asked)?;
    let why = chosen.why.trim();
    if why.is_empty() || chosen.numbers.len() > MAX_DROPPED {
        return Err(Problem::new(
            MALFORMED,
            format!("say why in `why`; at most {MAX_DROPPED} letters at once"),
        ));
    }
    // All are looked up before the first is dropped, so that a page which is out of date drops nothing.
    let letters = letters(&app, &chosen.numbers).await?.chosen;
    for (dropped, letter) in letters.iter().enumerate() {
        if let Err(e) = dead_letters::give_up(letter, why, &who.0, SOURCE, &app.bus).await {
            let outcome = format!("{dropped} dropped, then failed at #{}: {e}", letter.number);
            audit::line(&who, "drop", &named(&chosen.numbers), &outcome);
            return Err(Problem::new(
                AWAY,
                format!("{outcome}; if the stream dlq is full, raise its max_bytes"),
            ));
        }
    }
    audit::line(
        &who,
        "drop",
        &named(&chosen.numbers),
        &format!("{} dropped: {why}", letters.len()),
    );
    Ok(Json(json!({ "dropped": letters.len() })))
}
