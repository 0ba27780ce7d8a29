//! One task looks at the bus for all browsers: what workers say of themselves, what consumers still have before them, and
//! the last few messages of each stream, by which its traffic is told apart by type and by who sent it. Counters and
//! samples, never every event: the cost is the same at ten events a second and at ten thousand.

mod answers;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use oncue_admin::program;
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;

pub use self::answers::{Counts, Histogram, Running};
pub use self::streams::{Consumer, Mix, Stream};

use crate::App;
use crate::live;

/// Between two looks while somebody watches, and while nobody does: the hour of history goes on.
const WATCHED: Duration = Duration::from_secs(1);
const UNWATCHED: Duration = Duration::from_secs(5);
/// Workers answer within milliseconds; whoever is later is missed once.
const QUIET: Duration = Duration::from_millis(150);
/// Looks between two questions for manifests, and for the number of dead letters.
const MANIFESTS: u64 = 30;
const LETTERS: u64 = 3;

/// What one look found.
#[derive(Debug, Default)]
pub struct Sample {
    /// Unix milliseconds.
    pub at: u64,
    pub running: Vec<Running>,
    /// Functions that nobody runs because nothing is to be done.
    pub asleep: BTreeSet<String>,
    pub manifests: Vec<Manifest>,
    pub consumers: Vec<Consumer>,
    pub streams: Vec<Stream>,
    pub mixes: Vec<Mix>,
    /// Dead letters by function, where it was looked.
    pub letters: Option<BTreeMap<String, u64>>,
}

/// Looks until the process ends.
pub async fn run(app: Arc<App>) {
    app.board.declare(&declared(&app).await);
    let mut looks = 0;
    loop {
        let began = tokio::time::Instant::now();
        match take(&app, looks).await {
            Ok(sample) => app.board.apply(&sample),
            Err(why) => app.board.blind(event::now_ms(), why),
        }
        looks += 1;
        live::publish(&app);
        let pause = if app.live.watchers() > 0 {
            WATCHED
        } else {
            UNWATCHED
        };
        tokio::select! {
            () = tokio::time::sleep_until(began + pause) => {}
            () = app.live.awaited() => {}
            () = app.stop.cancelled() => return,
        }
    }
}

/// What the programs of the functions in `oncue.toml` say they are, for those nobody runs.
async fn declared(app: &App) -> Vec<(String, Option<Manifest>)> {
    let names: Vec<&String> = app.config.functions.keys().collect();
    let mut all = Vec::new();
    // A few at a time: each is a process.
    for names in names.chunks(8) {
        let asked = join_all(names.iter().map(|name| program::manifest(&app.bin, name))).await;
        for (name, asked) in names.iter().zip(asked) {
            let known =
                asked.inspect_err(|why| tracing::info!("{name} does not say what it is: {why}"));
            all.push((
                (*name).clone(),
                known.ok().filter(|manifest| manifest.name == **name),
            ));
        }
    }
    all
}

async fn take(app: &App, looks: u64) -> Result<Sample, String> {
    let bus = &app.bus;
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let (stats, streams) = tokio::join!(bus.ask_all("$SRV.STATS", QUIET), streams::list(bus));
    let (stats, streams) = (
        stats.map_err(|e| words(&e))?,
        streams.map_err(|e| words(&e))?,
    );
    // Rates are told from what was counted now, not from when the rest was asked.
    let at = event::now_ms();
    let running = answers::running(&stats);
    let manifests = if looks.is_multiple_of(MANIFESTS) || app.board.has_strangers(&running) {
        answers::manifests(
            &bus.ask_all("$SRV.INFO", QUIET)
                .await
                .map_err(|e| words(&e))?,
        )
    } else {
        Vec::new()
    };
    let before = app.board.ends();
    let (consumers, mixes) = tokio::join!(
        join_all(streams.iter().map(|stream| streams::consumers(bus, stream))),
        join_all(streams.iter().map(|stream| streams::mix(
            bus,
            stream,
            before.get(&stream.name).copied()
        ))),
    );
    let consumers: Result<Vec<Vec<Consumer>>, String> = consumers.into_iter().collect();
    let letters = if looks.is_multiple_of(LETTERS) {
        Some(streams::letters(bus).await?)
    } else {
        None
    };
    Ok(Sample {
        at,
        asleep: answers::asleep(&stats),
        running,
        manifests,
        consumers: consumers?.into_iter().flatten().collect(),
        mixes: mixes.into_iter().flatten().collect(),
        streams,
        letters,
    })
}
