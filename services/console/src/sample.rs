//! One task looks at the bus for all browsers: what workers say of themselves, what consumers still have before them,
//! and the last few messages of each stream, by which its traffic is told apart by type and by source. Counters and
//! samples, never every event: the cost is the same at ten events a second and at ten thousand.

mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use oncue_admin::functions::Overview;
use oncue_admin::{AdminError, dead_letters, program, services};
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;

pub use self::traffic::{TrafficMix, TrafficSource};
use crate::App;

/// Between two looks while somebody watches, and while nobody does: the hour of history goes on.
const WATCHED_INTERVAL: Duration = Duration::from_secs(1);
const UNWATCHED_INTERVAL: Duration = Duration::from_secs(5);
/// Workers answer within milliseconds; one that is later is missed once.
/// A look takes this long at least, so it is well below the interval.
const REPLY_GAP: Duration = Duration::from_millis(150);
/// Looks between two questions for manifests, and for the number of dead letters.
/// Both change seldom: a new worker is asked at once, and letters are counted by the server.
const LOOKS_PER_MANIFESTS: u64 = 30;
const LOOKS_PER_LETTERS: u64 = 3;
/// Programs asked at once for their manifests; each is a process.
const CONCURRENT_PROGRAMS: usize = 8;

/// Findings of one look.
#[derive(Debug, Default)]
pub struct Look {
    pub overview: Overview,
    /// Of running workers, where they were asked.
    pub manifests: Vec<Manifest>,
    pub mixes: Vec<TrafficMix>,
    /// Dead letters by function, where it was looked.
    pub letters: Option<BTreeMap<String, u64>>,
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
    loop {
        let began = tokio::time::Instant::now();
        match look(&app, looks).await {
            Ok(look) => app.snapshot.apply(&look),
            Err(why) => app.snapshot.blind(event::now_ms(), why.to_string()),
        }
        looks += 1;
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

async fn look(app: &App, looks: u64) -> Result<Look, AdminError> {
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
    let letters = if looks.is_multiple_of(LOOKS_PER_LETTERS) {
        Some(dead_letters::counts(bus).await?)
    } else {
        None
    };
    Ok(Look {
        overview,
        manifests,
        mixes,
        letters,
    })
}
