//! State that all requests share: connections to NATS and Redis, the contract, bounds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oncue_core::bus::{Bus, layout};
use oncue_core::config::{Bounds, Config, ConfigErrors, FlowsConfig, GatewayConfig, StreamConfig};
use oncue_core::contract::LiveCatalog;
use oncue_core::secret;
use oncue_core::store::Store;
use oncue_http::Handle;
use oncue_http::address::{host_name, is_nobodys};
use oncue_http::process::Failure;
use oncue_http::shares::Shares;
use oncue_http::tls::Tls;
use oncue_proto::Catalog;
use oncue_proto::event::{IdSecret, PLATFORM_DOMAINS, stream_of_type};
use oncue_telemetry::metrics::{Metric, Source};

use crate::door::policies::Policies;
use crate::events::backlog::Backlog;
use crate::events::feed::Feeds;
use crate::events::room::Room;
use crate::events::webhook::endpoint::Webhook;
use crate::flows::replies::Replies;
use crate::flows::watcher::FlowWatcher;
use crate::observe::metrics::Metrics;
use crate::request::body::Pace;
use crate::routes::live::LiveRoutes;
use crate::site::Site;
use crate::state::watcher::RowWatcher;

/// Bounds on what clients are granted, whoever they are.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    /// Connections open at once; beyond them those without a request in hand give way. Default 4,096. How many one address
    /// may have, and how many transfers, is in [`GatewayConfig`].
    pub connections: usize,
    /// Bytes of event bodies held at once, all requests together; beyond that they are refused. Of one address a quarter, or one
    /// event of `max_event`. Default 64 MiB.
    pub memory: usize,
    /// Uploads at once; each holds a little more than 1 MiB of what it passes on. Others are refused. Default 64.
    pub uploads: usize,
    /// Downloads at once; each holds up to 1 MiB of what its client has not yet taken. Others are refused. Default 256.
    pub downloads: usize,
    /// From the first byte of a request, or from the end of the one before, to the end of the headers. Default 15 s.
    pub head: Duration,
    /// Waiting for the body without getting on by `min_rate` of the configuration. Default 15 s.
    pub body: Duration,
    /// Waiting for a client to take anything of its answer. Default 60 s, as nginx has it: who reads in large steps needs
    /// some time for one.
    pub write: Duration,
    /// Stream of one flow, which then ends, and which a browser asks for again. Default 10 min.
    pub flow_stream: Duration,
    /// Time for requests and uploads in flight to end after the stop. Default 10 s.
    pub drain: Duration,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            connections: 4096,
            memory: 64 << 20,
            uploads: 64,
            downloads: 256,
            head: Duration::from_secs(15),
            body: Duration::from_secs(15),
            write: Duration::from_mins(1),
            flow_stream: Duration::from_mins(10),
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
    pub(crate) catalog: LiveCatalog,
    /// Routes of the configuration, as they are now.
    pub(crate) routes: LiveRoutes,
    pub(crate) bus: Bus,
    /// Connection of its own for the bytes of files: however many are under way, no event waits behind them.
    pub(crate) files: Bus,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) guards: Guards,
    pub(crate) backlog: Backlog,
    pub(crate) room: Room,
    /// Bytes of bodies that may still be held.
    pub(crate) memory: Arc<Shares>,
    /// Places for uploads.
    pub(crate) uploads: Arc<Shares>,
    /// Places for downloads.
    pub(crate) downloads: Arc<Shares>,
    /// Flows that clients wait for or watch.
    pub(crate) watcher: Arc<FlowWatcher>,
    /// Rows that clients follow.
    pub(crate) rows: Arc<RowWatcher>,
    /// Events that clients hear as they happen.
    pub(crate) feeds: Feeds,
    /// Places for those who listen or follow.
    pub(crate) listeners: Arc<Shares>,
    /// Requests that are answered by an event of their flow.
    pub(crate) replies: Arc<Replies>,
    /// Policies of who may come in.
    pub(crate) policies: Policies,
    /// Requests of other services that become events, by the last part of their path.
    pub(crate) webhooks: BTreeMap<String, Webhook>,
    /// Certificate and key of the listener.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Static files, where the configuration names a folder of them.
    pub(crate) site: Option<Site>,
    /// Secret of the app, from which ids are made that no client may know before.
    pub(crate) secret: IdSecret,
    /// Server this runs in. Its tasks are uploads and events, which must come to an end (stored and published, or taken back)
    /// even when their client goes away.
    pub(crate) handle: Handle,
}

impl App {
    /// Connects to NATS and Redis, compares the routes with the contract, and makes sure that every stream an event could
    /// go to is there.
    pub async fn start(
        config: &Config,
        catalog: Catalog,
        guards: Guards,
    ) -> Result<Arc<Self>, Failure> {
        let site = config.site_dir()?;
        let bus = connect(config, "oncue-gateway").await?;
        let files = connect(config, "oncue-gateway-files").await?;
        let store = Store::connect(&config.redis, &config.app)
            .await
            .map_err(|e| e.to_string())?;
        let catalog = LiveCatalog::new(catalog);
        catalog.follow(&bus).await.map_err(|e| e.to_string())?;
        let routes = config.routes(&catalog.now())?;
        check_heard(config, &catalog.now())?;
        require_streams(&bus, config, &catalog.now()).await?;
        let secret = secret::known(&bus, &store).await;
        let waiters = config.flows.max_waiters;
        let per_address = config.gateway.transfers_per_address;
        let app = Arc::new(Self {
            config: config.gateway.clone(),
            flows: config.flows.clone(),
            bounds: config.bounds,
            streams: config.streams.clone(),
            catalog: catalog.clone(),
            routes: LiveRoutes::new(routes),
            rows: RowWatcher::new(store.clone()),
            feeds: Feeds::new(bus.clone(), catalog),
            listeners: Shares::new(
                config.gateway.max_listeners,
                config.gateway.listeners_per_address,
            ),
            replies: Replies::new(bus.clone()),
            watcher: FlowWatcher::new(store.clone(), bus.clone(), waiters),
            tls: Tls::of(config.gateway.tls.as_ref(), config, "gateway")?,
            webhooks: Webhook::all(config)?,
            policies: Policies::new(config, &store)?,
            bus,
            files,
            store,
            metrics: Metrics::default(),
            guards,
            backlog: Backlog::new(config.gateway.max_lag),
            room: Room::default(),
            memory: Shares::new(
                guards.memory,
                (guards.memory / 4).max(config.gateway.max_event.0 as usize),
            ),
            uploads: Shares::new(guards.uploads, per_address),
            downloads: Shares::new(guards.downloads, per_address),
            site: site.map(Site::new),
            secret: secret.map_err(|e| e.to_string())?,
            handle: Handle::default(),
        });
        app.routes.follow(config, app.catalog.clone());
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

    /// All metrics as they are now; those that others count are read first.
    pub(crate) fn measure(&self) -> Vec<Metric> {
        let waiters = self.watcher.waiters() as u64;
        self.metrics.waiters.store(waiters, Ordering::Relaxed);
        self.metrics.list(&self.handle.counts)
    }

    /// Whether requests to this host are for us. Behind a proxy, it is the proxy that knows the names.
    pub(crate) fn answers_to(&self, host: &str) -> bool {
        let GatewayConfig {
            hosts,
            proxies,
            listen,
            ..
        } = &self.config;
        if is_nobodys(host) || hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host)) {
            return true;
        }
        if self.routes.now().has_host(host) {
            return true;
        }
        hosts.is_empty() && (!proxies.is_empty() || !is_loopback(host_name(listen)))
    }

    /// Slowest way in which bodies may come.
    pub(crate) fn pace(&self) -> Pace {
        Pace::new(self.config.min_rate.0, self.guards.body)
    }
}

/// Whether only programs of this machine can reach what listens here.
fn is_loopback(address: &str) -> bool {
    let ip = address
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    address == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Connection to NATS under this name, as its monitoring shows it.
async fn connect(config: &Config, name: &str) -> Result<Bus, String> {
    let bus = Bus::connect(&config.nats, name).await;
    bus.map(|bus| bus.of_app(&config.app))
        .map_err(|e| e.to_string())
}

/// Refuses types that nobody could ever hear.
fn check_heard(config: &Config, catalog: &Catalog) -> Result<(), ConfigErrors> {
    let file = config.path.as_deref().unwrap_or(Path::new("oncue.toml"));
    let mut errors = Vec::new();
    for ty in &config.gateway.stream {
        let is_own = PLATFORM_DOMAINS.contains(&stream_of_type(ty));
        let why = match catalog.get(ty) {
            Ok(_) if is_own => format!("{ty} is an event of the platform's own"),
            Ok(_) => continue,
            Err(e) => e.to_string(),
        };
        errors.push(format!("{}: [gateway] stream: {why}", file.display()));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors(errors))
    }
}

/// A lone gateway works: events wait in their streams for the functions to come.
async fn require_streams(bus: &Bus, config: &Config, catalog: &Catalog) -> Result<(), String> {
    // The timer stream is first, since the others take from it what is due.
    let mut domains = vec![layout::TIMER, layout::DLQ];
    for entry in catalog.entries() {
        let domain = stream_of_type(&entry.ty);
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    for domain in domains {
        let stream = layout::stream(&config.app, domain, &config.stream(domain));
        bus.require(&stream).await.map_err(|e| e.to_string())?;
    }
    let bucket = layout::bucket(&config.app, &config.bucket());
    bus.require(&bucket).await.map_err(|e| e.to_string())?;
    Ok(())
}
