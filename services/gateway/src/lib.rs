//! The gateway: HTTP in, events out; HTTP reads of files and state. It holds nothing itself: what it answers 202 to is
//! in a stream, and what it shows is in Redis or in the object store.
//!
//! In reading order: [`server`] (connections, time-outs, shutdown), [`routes`] (which path is what), [`observe`] (what
//! happens around every request), [`events`], [`upload`], [`flows`], [`download`], [`state`], [`health`],
//! [`page`].

pub mod server;

mod attributes;
mod backlog;
mod body;
mod download;
mod events;
mod flows;
mod health;
mod metrics;
mod observe;
mod page;
mod prefer;
mod problem;
mod publish;
mod request;
mod routes;
mod state;
mod trace;
mod upload;
mod waiting;
mod wish;

use std::sync::Arc;

use oncue_core::bus::{Bus, layout};
use oncue_core::config::{Config, FlowsConfig, GatewayConfig};
use oncue_core::store::Store;
use oncue_proto::Catalog;
use oncue_telemetry::metrics::Source;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use backlog::Backlog;
use metrics::Metrics;
use server::Guards;
use waiting::Waiting;

/// Domains that only the platform itself may write to.
const PLATFORM: [&str; 2] = [layout::DLQ, layout::TIMER];

/// Everything a request needs, shared by all of them.
pub struct App {
    config: GatewayConfig,
    flows: FlowsConfig,
    catalog: Catalog,
    bus: Bus,
    redis: Store,
    store: Store,
    metrics: Metrics,
    guards: Guards,
    backlog: Backlog,
    /// Bytes of bodies that may still be held.
    room: Arc<Semaphore>,
    /// Uploads that may still begin.
    uploads: Arc<Semaphore>,
    /// Uploads, which must come to an end (stored and published, or taken back) even when their client goes away.
    tasks: TaskTracker,
    /// Clients that wait for flows.
    waiting: Arc<Waiting>,
    /// Told when the gateway is: nobody waits on.
    stopping: CancellationToken,
}

impl App {
    /// Connects to NATS and Redis and makes sure that every stream an event could go to is there. The error is a line
    /// for the person at the terminal.
    pub async fn start(
        config: &Config,
        catalog: Catalog,
        guards: Guards,
    ) -> Result<Arc<Self>, String> {
        let bus = Bus::connect(&config.nats_url, "oncue-gateway")
            .await
            .map_err(|e| e.to_string())?;
        let redis = Store::connect(&config.redis_url)
            .await
            .map_err(|e| e.to_string())?;
        // A lone gateway works: events wait in their streams for the functions to come. The timer stream is first, since
        // the others take from it what is due.
        let mut domains = vec![layout::TIMER, layout::DLQ];
        for entry in catalog.entries() {
            let domain = oncue_proto::event::stream_of_type(&entry.ty);
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        for domain in domains {
            let wanted = layout::stream(domain, &config.stream(domain));
            bus.require(&wanted).await.map_err(|e| e.to_string())?;
        }
        let bucket = layout::bucket(layout::FILES, &config.bucket());
        bus.require(&bucket).await.map_err(|e| e.to_string())?;
        let store = redis.clone();
        let app = Arc::new(Self {
            config: config.gateway.clone(),
            flows: config.flows.clone(),
            catalog,
            waiting: Waiting::new(store.clone(), bus.clone(), config.flows.max_waiters),
            stopping: CancellationToken::new(),
            bus,
            store,
            redis,
            metrics: Metrics::default(),
            guards,
            backlog: Backlog::new(config.gateway.max_lag),
            room: Arc::new(Semaphore::new(guards.memory)),
            uploads: Arc::new(Semaphore::new(guards.uploads)),
            tasks: TaskTracker::new(),
        });
        let watched = app.clone();
        let source: Source = Arc::new(move || watched.metrics.list());
        oncue_telemetry::metrics::observe(&source);
        Ok(app)
    }
}
