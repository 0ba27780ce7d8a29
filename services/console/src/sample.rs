//! One task looks at the bus for all browsers: what workers say of themselves, what consumers still have before them,
//! and the last few messages of each stream, by which its traffic is told apart by type and by source. Counters and
//! samples, never every event: the cost is the same at ten events a second and at ten thousand.
//!
//! A second task asks both servers every second whether they are there at all ([`servers`]): a server that is frozen
//! answers nothing, and what it said last is not how things are.

pub mod servers;
mod redis;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use oncue_admin::functions::Overview;
use oncue_admin::{AdminError, consumers, dead_letters, program, services};
use oncue_core::agreement::{self, LostStream};
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;
use tokio::time::{Instant, timeout};

pub use self::redis::{FunctionCounts, RedisLook};
pub use self::traffic::{TrafficMix, TrafficSource};
use crate::App;
use crate::history::MINUTE_MS;

/// Between two looks while somebody watches, and while nobody does: the hour of history goes on.
const WATCHED_INTERVAL: Duration = Duration::from_secs(1);
const UNWATCHED_INTERVAL: Duration = Duration::from_secs(5);
/// Workers answer within milliseconds; one that is later is missed once.
/// A look takes this long at least, so it is well below the interval.
const REPLY_GAP: Duration = Duration::from_millis(150);
/// Looks between two questions for manifests.
/// They change seldom: a new worker is asked at once.
const LOOKS_PER_MANIFESTS: u64 = 30;
/// Between two questions for what takes a request a function or a stream: dead letters, oldest events, counts in Redis, and
/// whether NATS still has what Redis remembers.
const DETAIL_INTERVAL: Duration = Duration::from_secs(3);
/// Longest time for a look, and for one at Redis: a server that is slower is as good as away.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
const REDIS_TIMEOUT: Duration = Duration::from_secs(1);
/// Programs asked at once for their manifests; each is a process.
const CONCURRENT_PROGRAMS: usize = 8;

/// Findings of one look.
#[derive(Debug, Default)]
pub struct Look {
    pub overview: Overview,
    /// Of running workers, where they were asked.
    pub manifests: Vec<Manifest>,
    pub mixes: Vec<TrafficMix>,
    /// Where it was looked for them.
    pub details: Option<Details>,
}

/// Findings that cost a request a function or a stream.
#[derive(Debug, Default)]
pub struct Details {
    /// Dead letters by function.
    pub letters: BTreeMap<String, u64>,
    /// When the stream took the oldest event that a function is not done with, Unix milliseconds.
    pub oldest: BTreeMap<String, u64>,
    /// `None` where Redis does not answer.
    pub redis: Option<RedisLook>,
    /// Streams that know less than Redis remembers of them; `None` where a server does not answer.
    pub lost: Option<Vec<LostStream>>,
}

/// A function `oncue.toml` names, with what its program says it is.
pub struct Declared {
    pub name: String,
    pub manifest: Option<Manifest>,
}

/// Looks until the process ends.
pub async fn run(app: Arc<App>) {
    // Programs are asked once: what is built changes only with a build, what runs is heard from the workers.
    app.snapshot.declare(declared(&app).await);
    let mut looks = 0;
    let mut detailed: Option<Instant> = None;
    let mut kept = event::now_ms() / MINUTE_MS;
    loop {
        let began = Instant::now();
        let due = detailed.is_none_or(|last| began - last >= DETAIL_INTERVAL);
        if due {
            detailed = Some(began);
        }
        match timeout(LOOK_TIMEOUT, look(&app, looks, due)).await {
            Ok(Ok(look)) => app.snapshot.apply(&look),
            Ok(Err(why)) => app.snapshot.blind(event::now_ms(), why.to_string()),
            Err(_) => {
                let why = format!("NATS did not answer within {} s", LOOK_TIMEOUT.as_secs());
                app.snapshot.blind(event::now_ms(), why);
            }
        }
        looks += 1;
        keep_minute(&app, &mut kept).await;
        app.live.publish(app.snapshot.news(app.live.watchers()));
        let interval = if app.live.watchers() > 0 {
            WATCHED_INTERVAL
        } else {
            UNWATCHED_INTERVAL
        };
        // From the beginning of the look: an interval between looks, whatever a look takes.
        tokio::select! {
            () = tokio::time::sleep_until(began + interval) => {}
            () = app.live.awaited() => {}
            () = app.stop.cancelled() => return,
        }
    }
}

/// Keeps the minute that has just ended, once. `kept` is the number of the minute under way. Redis that is away costs a minute
/// of history and nothing else.
async fn keep_minute(app: &App, kept: &mut u64) {
    let now = event::now_ms() / MINUTE_MS;
    if now == *kept {
        return;
    }
    *kept = now;
    let minutes = app.snapshot.minutes((now - 1) * MINUTE_MS);
    let mut samples = Vec::new();
    for (name, minute) in &minutes {
        if let Ok(json) = serde_json::to_string(minute) {
            samples.push((name, minute.at, json));
        }
    }
    let written = samples
        .iter()
        .map(|(name, at, json)| app.store.add_sample(name, *at, json));
    let written: Vec<_> = written.collect();
    let _ = timeout(REDIS_TIMEOUT, join_all(written)).await;
}

/// Asks the programs of the functions in `oncue.toml`, for those nobody runs.
async fn declared(app: &App) -> Vec<Declared> {
    let names: Vec<&String> = app.config.functions.keys().collect();
    let mut all = Vec::new();
    for names in names.chunks(CONCURRENT_PROGRAMS) {
        let asked = names
            .iter()
            .map(|name| program::manifest(&app.config, &app.bin, name));
        let asked = join_all(asked).await;
        for (name, asked) in names.iter().zip(asked) {
            let known =
                asked.inspect_err(|why| tracing::info!("{name} does not say what it is: {why}"));
            all.push(Declared {
                name: (*name).clone(),
                manifest: known.ok().filter(|manifest| manifest.name == **name),
            });
        }
    }
    all
}

async fn look(app: &App, looks: u64, detailed: bool) -> Result<Look, AdminError> {
    let bus = &app.bus;
    let overview = Overview::read(bus, REPLY_GAP).await?;
    let due = looks.is_multiple_of(LOOKS_PER_MANIFESTS);
    let manifests = if due || app.snapshot.has_strangers(&overview.workers) {
        services::manifests(&bus.service_instances("$SRV.INFO", REPLY_GAP).await?)
    } else {
        Vec::new()
    };
    // Read before this look is applied: the difference is what came in between.
    let before = app.snapshot.ends();
    let mixes = overview.streams.iter().map(|stream| {
        let before = before.get(&stream.config.name).copied();
        TrafficMix::read(bus, stream, before)
    });
    let mixes = join_all(mixes).await.into_iter().flatten().collect();
    let details = if detailed {
        Some(details(app, &overview).await?)
    } else {
        None
    };
    Ok(Look {
        overview,
        manifests,
        mixes,
        details,
    })
}

async fn details(app: &App, overview: &Overview) -> Result<Details, AdminError> {
    let consumers = overview.consumers.values();
    let oldest = consumers.map(async |consumer| {
        let oldest = consumers::oldest_pending(&app.bus, consumer).await?;
        Ok::<_, AdminError>(oldest.map(|at| (consumer.function.clone(), at)))
    });
    let names: Vec<&str> = overview.consumers.keys().map(String::as_str).collect();
    let (letters, oldest, redis, lost) = tokio::join!(
        dead_letters::counts(&app.bus),
        try_join_all(oldest),
        timeout(REDIS_TIMEOUT, RedisLook::read(&app.store, &names)),
        timeout(
            REDIS_TIMEOUT,
            agreement::all_lost_streams(&app.bus, &app.store)
        ),
    );
    Ok(Details {
        letters: letters?,
        oldest: oldest?.into_iter().flatten().collect(),
        redis: redis.ok().and_then(Result::ok),
        lost: lost.ok().and_then(Result::ok),
    })
}
