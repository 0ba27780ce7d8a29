//! State that all requests share: connections to NATS and Redis, the contract, bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oncue_core::bus::{Bus, layout};
use oncue_core::config::{Bounds, Config, FlowsConfig, GatewayConfig, StreamConfig};
use oncue_core::store::Store;
use oncue_http::Handle;
use oncue_proto::Catalog;
use oncue_telemetry::metrics::{Metric, Source};
use tokio::sync::Semaphore;

use crate::events::backlog::Backlog;
use crate::events::room::Room;
use crate::flows::watcher::FlowWatcher;
use crate::metrics::Metrics;
use crate::site::Site;

/// Domains that only the platform itself may write to.
pub const PLATFORM_DOMAINS: [&str; 2] = [layout::DLQ, layout::TIMER];

/// Bounds on what clients are granted, whoever they are.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    /// Connections open at once; others wait in the queue of the socket. Default 4,096.
    pub connections: usize,
    /// Bytes of event bodies held at once, all requests together; beyond that they are refused. Default 64 MiB.
    pub memory: usize,
    /// Uploads at once; each holds a little more than 1 MiB of what it passes on. Others are refused. Default 64.
    pub uploads: usize,
    /// From the first byte of a request, or from the end of the one before, to the end of the headers. Default 15 s.
    pub head: Duration,
    /// Waiting for the body without getting on. Default 15 s.
    pub body: Duration,
    /// Time for requests and uploads in flight to end after the stop. Default 10 s.
    pub drain: Duration,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            connections: 4096,
            memory: 64 << 20,
            uploads: 64,
            head: Duration::from_secs(15),
            body: Duration::from_secs(15),
            drain: Duration::from_secs(10),
        }
    }
}

/// Everything a request needs, shared by all of them.
pub struct App {
    pub(crate) config: GatewayConfig,
    pub(crate) flows: FlowsConfig,
    /// Bounds of an event.
    pub(crate) bounds: Bounds,
    /// Streams that the configuration names.
    pub(crate) streams: BTreeMap<String, StreamConfig>,
    pub(crate) catalog: Catalog,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) guards: Guards,
    pub(crate) backlog: Backlog,
    pub(crate) room: Room,
    /// Bytes of bodies that may still be held.
    pub(crate) memory: Arc<Semaphore>,
    /// Uploads that may still begin.
    pub(crate) uploads: Arc<Semaphore>,
    /// Flows that clients wait for or watch.
    pub(crate) watcher: Arc<FlowWatcher>,
    /// Static files, where the configuration names a folder of them.
    pub(crate) site: Option<Site>,
    /// Server this runs in. Its tasks are uploads, which must come to an end (stored and published, or taken back)
    /// even when their client goes away.
    pub(crate) handle: Handle,
}

impl App {
    /// Connects to NATS and Redis and makes sure that every stream an event could go to is there. The error is a line
    /// for the person at the terminal.
    pub async fn start(
        config: &Config,
        catalog: Catalog,
        guards: Guards,
    ) -> Result<Arc<Self>, String> {
        let site = config.site_dir().map_err(|e| e.to_string())?;
        let bus = Bus::connect(&config.nats_url, "oncue-gateway")
            .await
            .map(|bus| bus.of_app(&config.app))
            .map_err(|e| e.to_string())?;
        let store = Store::connect(&config.redis_url, &config.app)
            .await
            .map_err(|e| e.to_string())?;
        require_streams(&bus, config, &catalog).await?;
        let waiters = config.flows.max_waiters;
        let app = Arc::new(Self {
            config: config.gateway.clone(),
            flows: config.flows.clone(),
            bounds: config.bounds,
            streams: config.streams.clone(),
            catalog,
            watcher: FlowWatcher::new(store.clone(), bus.clone(), waiters),
            bus,
            store,
            metrics: Metrics::default(),
            guards,
            backlog: Backlog::new(config.gateway.max_lag),
            room: Room::default(),
            memory: Arc::new(Semaphore::new(guards.memory)),
            uploads: Arc::new(Semaphore::new(guards.uploads)),
            site: site.map(Site::new),
            handle: Handle::default(),
        });
        let observed = app.clone();
        let source: Source = Arc::new(move || observed.measure());
        oncue_telemetry::metrics::observe(&source);
        Ok(app)
    }

    /// Settings of the stream of a domain.
    pub(crate) fn stream(&self, domain: &str) -> StreamConfig {
        self.streams.get(domain).cloned().unwrap_or_default()
    }

    /// Age at which an event of a stream is refused.
    pub(crate) fn horizon(&self, stream: &str) -> Duration {
        self.stream(stream).horizon.0
    }

    /// All metrics as they are now; gauges that others count are read first.
    pub(crate) fn measure(&self) -> Vec<Metric> {
        let connections = self.handle.connections() as u64;
        self.metrics
            .connections
            .store(connections, Ordering::Relaxed);
        let waiters = self.watcher.waiters() as u64;
        self.metrics.waiters.store(waiters, Ordering::Relaxed);
        self.metrics.list()
    }
}

/// A lone gateway works: events wait in their streams for the functions to come.
async fn require_streams(bus: &Bus, config: &Config, catalog: &Catalog) -> Result<(), String> {
    // The timer stream is first, since the others take from it what is due.
    let mut domains = vec![layout::TIMER, layout::DLQ];
    for entry in catalog.entries() {
        let domain = oncue_proto::event::stream_of_type(&entry.ty);
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    for domain in domains {
        let stream = layout::stream(&config.app, domain, &config.stream(domain));
        bus.require(&stream).await.map_err(|e| e.to_string())?;
    }
    let bucket = layout::bucket(&config.app, layout::FILES, &config.bucket());
    bus.require(&bucket).await.map_err(|e| e.to_string())?;
    Ok(())
}
