//! The console: a page to leave open on a wall. It shows which function acts on what, how much passes, what failed
//! and what became of a flow; who may, redrives dead letters from it. It holds nothing but an hour of samples:
//! everything else is read from the streams, from Redis and from the workers themselves.
//!
//! In reading order: [`server`] (connections, shutdown), [`routes`] (which path is what), [`guard`] (who may what,
//! and how problems are written), [`access`] (logging in), [`sessions`] (logging out), [`sample`] (one task that looks at the bus for all
//! browsers), [`snapshot`] (the moment it makes of that), [`live`] (how browsers hear of it, and everybody else by notices), then a file for each
//! thing a person can ask for.

pub mod access;
pub mod server;

mod api;
mod guard;
mod history;
mod live;
mod metrics;
mod page;
mod problem;
mod routes;
mod sample;
mod snapshot;

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oncue_admin::dead_letters::{Bench, Network};
use oncue_admin::flows::Sources;
use oncue_admin::program::logs::FOLDER_VARIABLE;
use oncue_core::bus::Bus;
use oncue_core::config::Config;
use oncue_core::contract::LiveCatalog;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use oncue_http::tls::Tls;
use oncue_proto::Catalog;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use access::Access;
use api::actions::Jobs;
use api::letters::Letters;
use live::Live;
use live::notices::{self, Notices};
use problem::Problem;
use snapshot::Snapshot;

/// Bounds of one console, whoever its clients are.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    /// Connections open at once; others wait in the queue of the socket. Default 512.
    pub connections: usize,
    /// Connections of one address. Default 256: a proxy in front of many browsers is one.
    pub per_address: usize,
    /// From the first byte of a request to the end of its headers. Default 15 s.
    pub head: Duration,
    /// Waiting for a client to take anything of its answer. Default 60 s.
    pub write: Duration,
    /// Browsers that are told of updates at once. Default 128.
    pub watchers: usize,
    /// Time for requests and redrives in flight to end after the stop. Default 10 s.
    pub drain: Duration,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            connections: 512,
            per_address: 256,
            head: Duration::from_secs(15),
            write: Duration::from_mins(1),
            watchers: 128,
            drain: Duration::from_secs(10),
        }
    }
}

/// Everything a request needs, shared by all of them.
pub struct App {
    config: Config,
    catalog: LiveCatalog,
    /// Folder of the functions' programs, which say what they are and try dead letters.
    bin: PathBuf,
    bus: Bus,
    store: Store,
    access: Access,
    tls: Option<Arc<Tls>>,
    snapshot: Snapshot,
    live: Live,
    jobs: Jobs,
    letters: Letters,
    notices: Notices,
    drift: api::drift::CachedDrift,
    doctor: api::doctor::CachedDoctor,
    guards: Guards,
    /// Folder of the log files, where `oncue up` keeps some.
    logs: Option<PathBuf>,
    /// Streams of updates end when it is cancelled; they would go on for ever.
    stop: CancellationToken,
    /// Redrives, which go on when the page that asked for them is closed.
    tasks: TaskTracker,
}

impl App {
    /// Connects to NATS and Redis and begins to look. The error is a line for the person at the terminal.
    pub async fn start(
        config: Config,
        catalog: Catalog,
        bin: PathBuf,
        access: Access,
        guards: Guards,
    ) -> Result<Arc<Self>, String> {
        let bus = Bus::connect(&config.nats, "oncue-console")
            .await
            .map(|bus| bus.of_app(&config.app))
            .map_err(|e| e.to_string())?;
        // Nothing is loaded into Redis: a console only looks.
        let store = Store::look(&config.redis, &config.app)
            .await
            .map_err(|e| e.to_string())?;
        let catalog = LiveCatalog::new(catalog);
        catalog.follow(&bus).await.map_err(|e| e.to_string())?;
        let tls = Tls::of(config.console.tls.as_ref(), &config, "console")?;
        let receivers = notices::receivers(&config)?;
        let app = Arc::new(Self {
            tls,
            config,
            catalog,
            bin,
            bus,
            store,
            access,
            snapshot: Snapshot::default(),
            live: Live::default(),
            jobs: Jobs::default(),
            letters: Letters::default(),
            notices: Notices::default(),
            drift: api::drift::CachedDrift::default(),
            doctor: api::doctor::CachedDoctor::default(),
            guards,
            logs: std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        // Outside of the tasks that shutdown waits for: it ends by itself once `stop` is cancelled.
        tokio::spawn(sample::run(app.clone()));
        tokio::spawn(access::sessions::follow(app.clone()));
        tokio::spawn(sample::servers::watch(app.clone()));
        tokio::spawn(notices::watch(app.clone(), receivers));
        Ok(app)
    }

    /// Where events are tried. Whoever has the console's token need not have a shell here: no program reaches out.
    fn bench(&self) -> Bench<'_> {
        Bench {
            bus: &self.bus,
            store: &self.store,
            config: &self.config,
            bin: &self.bin,
            network: Network::HeldBack,
        }
    }

    /// Where flows and events are looked up, with the functions known to be there and the event types of now.
    fn sources<'a>(&'a self, functions: &'a [Manifest], catalog: &'a Catalog) -> Sources<'a> {
        Sources {
            bus: &self.bus,
            store: Some(&self.store),
            config: &self.config,
            catalog,
            functions,
        }
    }
}

/// The problem of a server that did not do what it was asked.
#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn away(e: impl Display) -> Problem {
    Problem::new(problem::AWAY, e.to_string())
}
