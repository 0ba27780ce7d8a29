//! Configuration: `oncue.toml` and the environment, read whole and checked before anything is opened. Every mistake is
//! listed with its line; an unknown field is a mistake.

mod auth;
mod bounds;
mod cors;
mod cron;
mod flows;
mod keyring;
mod limit;
mod login;
mod network;
mod notice;
mod reader;
mod role;
mod route;
mod routes;
mod scale;
mod schedule;
mod server;
mod server_url;
mod tls;
mod units;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::AppName;
use oncue_proto::Catalog;
use serde::{Deserialize, Serialize};

pub use self::auth::{AuthConfig, OneOf};
pub use self::bounds::Bounds;
pub use self::cors::CorsConfig;
pub use self::cron::{ClockTime, Cron};
pub use self::flows::{FlowsConfig, Track};
pub use self::keyring::{LockedServers, SENTINEL_USER};
pub use self::limit::{LimitBy, LimitConfig};
pub use self::login::LoginConfig;
pub use self::network::Network;
pub use self::notice::{MailConfig, NoticeConfig, NoticeKind};
pub use self::role::Role;
pub use self::route::{AnswerMode, FailureType, FieldSource, Method, RequestPart, Route};
pub use self::routes::{
    BoundField, Endpoint, EventTarget, Match, Origin, Response, Routes, Target,
};
pub use self::scale::Scale;
pub use self::schedule::Schedule;
pub use self::server::{ClientTls, INBOX, JETSTREAM_API, NatsServer, RedisServer};
pub use self::server_url::ServerUrl;
pub use self::tls::TlsConfig;
pub use self::units::{Size, Span, parse_size};
pub use self::webhook::{
    HmacAlgorithm, HmacConfig, RequestPlace, SecretSource, SignatureEncoding, WebhookConfig,
    WebhookKind,
};

/// Configuration of a process. The environment goes above the file, the file above the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from, if there was one.
    pub path: Option<PathBuf>,
    /// `[app] name`, which every file has: what is called so on the servers is this app's, and nothing else is.
    pub app: AppName,
    /// `[nats]`: the server with events.
    pub nats: NatsServer,
    /// `[redis]`: the server with state.
    pub redis: RedisServer,
    /// `ONCUE_KEEP_OUTPUTS`, or `[redis] keep_outputs`: published outputs stay in Redis for this long, in case NATS
    /// loses what it had acked. Default 5 min, longer than NATS may take to write to disk; zero for not at all.
    pub keep_outputs: Span,
    /// `ONCUE_BATCH_PUBLISH`, or `[nats] batch_publish`: outputs of many events in one atomic batch, for a NATS that
    /// writes to disk before it answers (`sync_interval: always`). Default false.
    pub batch_publish: bool,
    /// Folder of the `.proto` files that `oncue-host` compiles, for functions in other languages. Default `proto`.
    pub proto: PathBuf,
    /// `[build]`; `None` where the file does not say how its programs come about.
    pub build: Option<BuildConfig>,
    /// `[test]`; `None` where the file does not say how the app is tested.
    pub test: Option<TestConfig>,
    /// `[streams.DOMAIN]` by domain; see [`stream`](Self::stream) for those that are not named.
    pub streams: BTreeMap<String, StreamConfig>,
    /// `[functions.NAME]` by name; see [`function`](Self::function) for those that are not named.
    pub functions: BTreeMap<String, FunctionConfig>,
    /// `[[schedule]]`, in the order of the file. Default none.
    pub schedules: Vec<Schedule>,
    /// `[[route]]`, in the order of the file. Default none.
    pub routes: Vec<Route>,
    /// `[auth.NAME]` by name. Default none.
    pub auths: BTreeMap<String, AuthConfig>,
    /// `[limit.NAME]` by name. Default none.
    pub limits: BTreeMap<String, LimitConfig>,
    /// `[[webhook]]`, in the order of the file. Default none.
    pub webhooks: Vec<WebhookConfig>,
    /// `[notice.NAME]` by name. Default none.
    pub notices: BTreeMap<String, NoticeConfig>,
    /// `[gateway]`
    pub gateway: GatewayConfig,
    /// `[console]`
    pub console: ConsoleConfig,
    /// `[flows]`
    pub flows: FlowsConfig,
    /// `[bounds]`
    pub bounds: Bounds,
    /// `ONCUE_CONCURRENCY`, `ONCUE_TIMEOUT`, `ONCUE_ATTEMPTS`: limits of this very process, above all others.
    pub process: FunctionConfig,
}

/// `[build]`: how the functions' programs come about, for `oncue dev`, and where they lie. Paths are relative to the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildConfig {
    /// Program and arguments, run in the folder of the file.
    pub command: Vec<String>,
    /// Folder of the programs, one called as each function.
    pub programs: PathBuf,
    /// Files and folders whose changes make `oncue dev` build again. Default: `src`, `proto`, `build.rs`, `Cargo.toml`.
    #[serde(default = "sources")]
    pub watch: Vec<PathBuf>,
}

/// `[test]`: the app's own tests, for `oncue test`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestConfig {
    /// Program and arguments, run in the folder of the file.
    pub command: Vec<String>,
}

/// Sources of a Rust package.
fn sources() -> Vec<PathBuf> {
    ["src", "proto", "build.rs", "Cargo.toml"]
        .map(PathBuf::from)
        .to_vec()
}

/// `[streams.DOMAIN]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// The app that declares it, where that is another one: it must be there before this app starts, and is used as it is.
    /// Default: whoever is first.
    pub app: Option<AppName>,
    /// A full stream refuses publishes; nothing is dropped. Default 1 GiB.
    pub max_bytes: Size,
    /// Part of `max_bytes` that the gateway leaves to what functions emit, and below which space that everybody is done
    /// with is given back before its time. Default: a sixteenth.
    pub reserve: Option<Size>,
    /// Servers of a cluster that hold a copy. Default: as many as of the stream with the most in the file, so that none is left
    /// behind when a server is lost; 1 where the file does not say.
    #[serde(default)] // 0 until the whole file is read
    pub replicas: u32,
    /// How long the server itself recognises an id; an optimisation, not the guarantee. Default 2 min.
    pub duplicate_window: Span,
    /// H: an event older than this is refused, since its seen-mark may be gone. Default 72 h, at most 60 days.
    #[serde(deserialize_with = "horizon")]
    pub horizon: Span,
    /// R: events that every function is done with stay for this long, so that a Redis that lost state can be restored
    /// from them. Default 24 h.
    pub replay_window: Span,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            app: None,
            max_bytes: Size(1 << 30),
            reserve: None,
            replicas: 1,
            duplicate_window: Span(Duration::from_mins(2)),
            horizon: Span(Duration::from_hours(72)),
            replay_window: Span(Duration::from_hours(24)),
        }
    }
}

impl StreamConfig {
    /// Bytes that are kept for what functions emit.
    pub fn reserve(&self) -> u64 {
        let reserve = self.reserve.map_or(self.max_bytes.0 / 16, |size| size.0);
        reserve.min(self.max_bytes.0)
    }
}

/// `[functions.NAME]`: limits that replace those written in the function itself, and how `oncue up` runs it. Default:
/// none is replaced.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionConfig {
    /// See [`Limits::concurrency`].
    pub concurrency: Option<usize>,
    /// See [`Limits::reserved_concurrency`].
    pub reserved_concurrency: Option<u32>,
    /// See [`Limits::timeout`].
    pub timeout: Option<Span>,
    /// See [`Limits::attempts`].
    pub attempts: Option<u32>,
    /// See [`Limits::ack_wait`].
    pub ack_wait: Option<Span>,
    /// See [`Limits::start`].
    pub start: Option<Start>,
    /// Fewest processes `oncue up` keeps running; with 0 the function sleeps until an event comes. Default 1.
    pub min: Option<u32>,
    /// Most processes `oncue up` runs at a time. Default 1, or `min` where that is more.
    pub max: Option<u32>,
    /// How long fewer processes must have been enough before `oncue up` stops one. Default 60 s.
    pub idle: Option<Span>,
    /// Short for `min` and `max` of this number.
    pub replicas: Option<u32>,
    /// Variables added to the environment of those processes.
    pub env: BTreeMap<String, String>,
    /// Variables that those processes also get from whoever starts them, such as secrets, which do not belong in a file.
    /// Without it they get those of [`PASSED_ON`](crate::process::PASSED_ON).
    pub inherit: BTreeSet<String>,
    /// Program and arguments of its handler, run in the folder of the file by `oncue-host`. Without it the function is a
    /// program of its own.
    pub run: Option<Vec<String>>,
    /// Address of a service that is its handler: `oncue-host` posts events there. In place of `run`.
    pub http: Option<String>,
    /// Handlers side by side in each process of the function. Default 1; with `http` they are requests, by default 16.
    pub processes: Option<u32>,
    /// Data that one of them may hold; more is refused to it. Default: no limit.
    pub memory: Option<Size>,
    /// How they are spoken to. Default [`Protocol::Frames`].
    pub protocol: Option<Protocol>,
    /// Event types that a handler in lines or behind HTTP acts on, which cannot say so itself.
    pub on: Vec<String>,
    /// Event types that such a handler may emit.
    pub emits: Vec<String>,
    /// Table of the rows of such a handler. Default: none.
    pub table: Option<String>,
    /// Field of its events by which such a handler is keyed. Default: the key of the contract.
    pub key: Option<String>,
    /// Headers by which a service knows who asks, each with the place of its value. Default: none.
    pub headers: BTreeMap<String, SecretSource>,
    /// Whether such a handler runs at most once on an event, which one with a table cannot. Default: false.
    pub at_most_once: bool,
}

/// How a handler in another program is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Frames of `oncue/v1/function.proto` on a socket; the handler says what it is.
    #[default]
    Frames,
    /// A line of JSON on stdin for each event, and one on stdout; `oncue.toml` says what it is.
    Lines,
}

/// Headers that the request to a service has anyway, or that belong to the connection.
const OWN_HEADERS: [&str; 11] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "baggage",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

impl FunctionConfig {
    /// Variables that its processes get from whoever starts them: those of `inherit`, and those in which `headers` are.
    pub fn inherited(&self) -> BTreeSet<String> {
        let named = self.headers.values().filter_map(|source| match source {
            SecretSource::Env(name) => Some(name.clone()),
            SecretSource::File(_) => None,
        });
        self.inherit.iter().cloned().chain(named).collect()
    }

    /// Whether its handler is another program or a service, and its worker `oncue-host`.
    pub fn is_hosted(&self) -> bool {
        self.run.is_some() || self.http.is_some()
    }

    /// Refuses what says nothing, or contradicts itself, about a handler in another program.
    ///
    /// # Errors
    /// A sentence about the section.
    pub(crate) fn check_handler(&self) -> Result<(), String> {
        match (&self.run, &self.http) {
            (None, None) => self.check_own(),
            (Some(run), None) => self.check_run(run),
            (None, Some(http)) => self.check_http(http),
            (Some(_), Some(_)) => {
                Err("run and http: its handler is a program or a service, not both".to_owned())
            }
        }
    }

    /// Checks a function that is a program of its own.
    fn check_own(&self) -> Result<(), String> {
        let set = [
            ("processes", self.processes.is_some()),
            ("memory", self.memory.is_some()),
            ("protocol", self.protocol.is_some()),
            ("on", !self.on.is_empty()),
            ("emits", !self.emits.is_empty()),
            ("table", self.table.is_some()),
            ("key", self.key.is_some()),
            ("headers", !self.headers.is_empty()),
            ("at_most_once", self.at_most_once),
        ];
        match set.iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => Err(format!("{name} is for a function with `run` or `http`")),
            None => Ok(()),
        }
    }

    /// Checks a function whose handler is a program.
    fn check_run(&self, run: &[String]) -> Result<(), String> {
        if run.first().is_none_or(String::is_empty) {
            return Err("run names no program".to_owned());
        }
        if !self.headers.is_empty() {
            return Err("headers are for a function with `http`".to_owned());
        }
        if self.protocol == Some(Protocol::Lines) {
            return if self.on.is_empty() {
                Err("protocol = \"lines\" needs `on`, the event types it acts on".to_owned())
            } else {
                Ok(())
            };
        }
        let said = !self.on.is_empty()
            || !self.emits.is_empty()
            || self.table.is_some()
            || self.key.is_some()
            || self.at_most_once;
        if said {
            return Err(
                "on, emits, table, key and at_most_once are for protocol = \"lines\" and http: any other handler says them itself"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Checks a function whose handler is a service.
    fn check_http(&self, http: &str) -> Result<(), String> {
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| http.strip_prefix(scheme));
        let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
        if host.is_none_or(str::is_empty) || http.contains(char::is_whitespace) {
            return Err(format!(
                "http = {http:?} is no address like \"http://127.0.0.1:9000/hook\""
            ));
        }
        if host.is_some_and(|host| host.contains('@')) {
            return Err("http holds a password, which does not belong in a file".to_owned());
        }
        if self.memory.is_some() || self.protocol.is_some() {
            return Err("memory and protocol are for a function with `run`".to_owned());
        }
        for name in self.headers.keys() {
            let lower = name.to_lowercase();
            if !webhook::is_header(name)
                || OWN_HEADERS.contains(&&*lower)
                || lower.starts_with("ce-")
            {
                return Err(format!(
                    "headers: {name:?} is no name of a header that is free to be set"
                ));
            }
        }
        if self.on.is_empty() {
            return Err("http needs `on`, the event types it acts on".to_owned());
        }
        Ok(())
    }
}

/// Limits of one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Events one worker holds at a time, all keys together; fewer where they take more than 32 MiB. Default 2,000.
    pub concurrency: usize,
    /// Events all workers of the function hold together (`max_ack_pending`). Default 10,000.
    pub reserved_concurrency: u32,
    /// Longest run of the handler on one event. Default 30 s.
    pub timeout: Span,
    /// Deliveries before an event is dead-lettered. Default 6.
    pub attempts: u32,
    /// Silence after which the server gives an event to another worker. Default 30 s.
    pub ack_wait: Span,
    /// First event of a function that never ran before. Default [`Start::All`].
    pub start: Start,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: 2000,
            reserved_concurrency: 10_000,
            timeout: Span(Duration::from_secs(30)),
            attempts: 6,
            ack_wait: Span(Duration::from_secs(30)),
            start: Start::All,
        }
    }
}

impl Limits {
    /// These limits with those of `config` in their place, where it has some; counts are at least 1.
    #[must_use]
    pub fn with(mut self, config: &FunctionConfig) -> Self {
        self.concurrency = config.concurrency.unwrap_or(self.concurrency).max(1);
        self.reserved_concurrency = config
            .reserved_concurrency
            .unwrap_or(self.reserved_concurrency)
            .max(1);
        self.timeout = config.timeout.unwrap_or(self.timeout);
        self.attempts = config.attempts.unwrap_or(self.attempts).max(1);
        self.ack_wait = config.ack_wait.unwrap_or(self.ack_wait);
        self.start = config.start.unwrap_or(self.start);
        self
    }
}

/// First event of a function that never ran before. One that has a consumer goes on where it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With everything the stream still holds: nothing accepted is ever skipped.
    All,
    /// With what comes from now on.
    New,
}

impl Start {
    /// Deliver policy of the consumer, in the server's word.
    pub fn policy(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::New => "new",
        }
    }
}

/// `[gateway]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// `ONCUE_GATEWAY_LISTEN`; default `127.0.0.1:8080`.
    pub listen: String,
    /// Largest event body. Default 512 KiB.
    pub max_event: Size,
    /// Largest upload. Default 1 GiB.
    pub max_file: Size,
    /// Events a function may be behind in a stream before the gateway refuses more for that stream. Default 0: no such
    /// bound, only a full stream refuses.
    pub max_lag: u64,
    /// Connections that one client address may have open at once; an IPv6 address counts by its /64. Default 1,024 of the
    /// 4,096 there are.
    pub connections_per_address: usize,
    /// Uploads that one client may have under way at once, and downloads as well. Default 32, of 64 uploads and 256
    /// downloads.
    pub transfers_per_address: usize,
    /// Reverse proxies in front: their connections are not counted by address, and the client of a request is who they
    /// name in `X-Forwarded-For`. Default none.
    pub proxies: Vec<Network>,
    /// Names under which it answers, without port. Default none: any, or, where it listens on loopback and no `proxies` are
    /// named, `localhost` alone. Addresses are always answered, since no page can be made to lead there by a name.
    pub hosts: BTreeSet<String>,
    /// Name of the `[auth.NAME]` that guards `/v1/`. Default none: everybody may.
    pub auth: Option<String>,
    /// Name of the `[limit.NAME]` that `/v1/` counts for. Default none.
    pub limit: Option<String>,
    /// Pages of other sites that may use `/v1/`. Default none.
    pub cors: Option<CorsConfig>,
    /// Certificate and key. Default none: plain HTTP, for this machine or behind a proxy.
    pub tls: Option<TlsConfig>,
    /// Bytes a second that a body must come with, taken over 15 s. A slower one is refused. Default 1 KiB.
    pub min_rate: Size,
    /// State tables that `GET /v1/state/{table}/{key}` may show. Default none.
    pub expose: BTreeSet<String>,
    /// Event types that anybody may hear at `GET /v1/stream`. Default none.
    pub stream: BTreeSet<String>,
    /// Clients of one gateway that may listen to events or follow rows at the same time, and one client address of them;
    /// others get 503 and 429. Default 1,000 and 32.
    pub max_listeners: usize,
    pub listeners_per_address: usize,
    /// Folder of static files served at `/`. Default none. [`Config::site_dir`] says where it is.
    pub site: Option<Site>,
}

/// A folder as the file names it: absolute, or relative to the folder the file is in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PathBuf")]
pub struct Site {
    path: PathBuf,
    /// Line of the file, from 1; 0 until the reader has seen where it stands.
    line: usize,
}

impl From<PathBuf> for Site {
    fn from(path: PathBuf) -> Self {
        Self { path, line: 0 }
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            max_event: Size(512 << 10),
            max_file: Size(1 << 30),
            max_lag: 0,
            connections_per_address: 1024,
            transfers_per_address: 32,
            proxies: Vec::new(),
            hosts: BTreeSet::new(),
            auth: None,
            limit: None,
            cors: None,
            tls: None,
            min_rate: Size(1 << 10),
            expose: BTreeSet::new(),
            stream: BTreeSet::new(),
            max_listeners: 1000,
            listeners_per_address: 32,
            site: None,
        }
    }
}

/// `[console]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    /// `ONCUE_CONSOLE_LISTEN`; default `127.0.0.1:8090`. Other addresses than loopback need `ONCUE_CONSOLE_TOKEN`.
    pub listen: String,
    /// Whether somebody who is logged in may act. Default false: the console only looks, whatever rights a person has.
    pub write: bool,
    /// Names under which it answers besides addresses and `localhost`, without port. Default none.
    pub hosts: BTreeSet<String>,
    /// Reverse proxies in front, as [`GatewayConfig::proxies`]. What they say of TLS in `X-Forwarded-Proto` is believed.
    pub proxies: Vec<Network>,
    /// Certificate and key. Default none: plain HTTP, for this machine or behind a proxy.
    pub tls: Option<TlsConfig>,
    /// Address under which people reach it, for links in notices. Default: where it listens.
    pub url: Option<String>,
    /// Issuer whose accounts open it, beside the token. Default none.
    pub login: Option<LoginConfig>,
    /// `ONCUE_TRACE_UI`: where the page's links to traces lead. Default: port 16686 of the host the page came from.
    pub traces: Option<String>,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8090".into(),
            write: false,
            hosts: BTreeSet::new(),
            proxies: Vec::new(),
            tls: None,
            url: None,
            login: None,
            traces: None,
        }
    }
}

/// Mistakes of a configuration, all of them, each in a sentence for people that says where it is.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

impl Config {
    /// Reads the file named by `ONCUE_CONFIG` (it must exist then) or the one that is [found](Self::find) (there may be
    /// none), and the environment on top.
    pub fn load() -> Result<Self, ConfigErrors> {
        let named = std::env::var_os("ONCUE_CONFIG").map(PathBuf::from);
        let path = named.or_else(Self::find);
        let text = path.as_ref().map(std::fs::read_to_string).transpose();
        let text = text.map_err(|e| {
            let path = path.as_deref().unwrap_or(Path::new("oncue.toml"));
            ConfigErrors(vec![format!("{}: {e}", path.display())])
        })?;
        let text = text.unwrap_or_default();
        Self::parse(&text, path.as_deref(), |name| {
            std::env::var(name).ok().filter(|v| !v.is_empty())
        })
    }

    /// `oncue.toml` in this folder or the nearest one above.
    pub fn find() -> Option<PathBuf> {
        let name = Path::new("oncue.toml");
        if name.exists() {
            return Some(name.to_owned());
        }
        let here = std::env::current_dir().ok()?;
        let mut above = here.ancestors().skip(1).map(|folder| folder.join(name));
        above.find(|path| path.is_file())
    }

    /// Reads `text`, which comes from `path`, with `env` as the environment on top.
    pub fn parse(
        text: &str,
        path: Option<&Path>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        let mut config = reader::read(text, path)?;
        let copies = config.most_copies();
        for stream in config.streams.values_mut() {
            if stream.replicas == 0 {
                stream.replicas = copies;
            }
        }
        // Texts, which need no reading.
        let overlays = [
            ("ONCUE_GATEWAY_LISTEN", &mut config.gateway.listen),
            ("ONCUE_CONSOLE_LISTEN", &mut config.console.listen),
        ];
        for (name, field) in overlays {
            if let Some(value) = env(name) {
                *field = value;
            }
        }
        config.reach(&env);
        config.console.traces = env("ONCUE_TRACE_UI").or(config.console.traces);
        // Values that may be wrong; all mistakes are listed.
        let mut errors = Vec::new();
        if let Some(why) = env("ONCUE_NATS_URL").and(config.nats.url.not_of_nats()) {
            errors.push(format!("ONCUE_NATS_URL {why}"));
        }
        for (server, tls) in [("NATS", &config.nats.tls), ("REDIS", &config.redis.tls)] {
            if let Err(why) = tls.identity() {
                errors.push(format!(
                    "ONCUE_{server}_CERTIFICATE and ONCUE_{server}_KEY: {why}"
                ));
            }
        }
        let limits = &mut config.process;
        limits.concurrency =
            overlay(&env, "ONCUE_CONCURRENCY", positive, &mut errors).map(|n| n as usize);
        limits.attempts = overlay(&env, "ONCUE_ATTEMPTS", positive, &mut errors);
        limits.timeout = overlay(&env, "ONCUE_TIMEOUT", str::parse, &mut errors);
        let keep = overlay(&env, "ONCUE_KEEP_OUTPUTS", str::parse, &mut errors);
        config.keep_outputs = keep.unwrap_or(config.keep_outputs);
        let batch = overlay(&env, "ONCUE_BATCH_PUBLISH", yes_or_no, &mut errors);
        config.batch_publish = batch.unwrap_or(config.batch_publish);
        let track = overlay(&env, "ONCUE_TRACK", str::parse, &mut errors);
        config.flows.track = track.unwrap_or(config.flows.track);
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Takes from the environment where the servers are and who it is that comes.
    fn reach(&mut self, env: &impl Fn(&str) -> Option<String>) {
        let nats = &mut self.nats;
        let redis = &mut self.redis;
        if let Some(url) = env("ONCUE_NATS_URL") {
            nats.url = url.into();
        }
        if let Some(url) = env("ONCUE_REDIS_URL") {
            redis.url = url.into();
        }
        if let Some(prefix) = env("ONCUE_NATS_API_PREFIX").filter(|prefix| !prefix.is_empty()) {
            nats.api_prefix = prefix;
        }
        if let Some(prefix) = env("ONCUE_NATS_INBOX_PREFIX").filter(|prefix| !prefix.is_empty()) {
            nats.inbox_prefix = prefix;
        }
        let files = [
            ("ONCUE_NATS_CREDENTIALS", &mut nats.credentials),
            ("ONCUE_NATS_CA", &mut nats.tls.ca),
            ("ONCUE_NATS_CERTIFICATE", &mut nats.tls.certificate),
            ("ONCUE_NATS_KEY", &mut nats.tls.key),
            ("ONCUE_REDIS_PASSWORD_FILE", &mut redis.password_file),
            (
                "ONCUE_REDIS_SENTINEL_PASSWORD_FILE",
                &mut redis.sentinel_password_file,
            ),
            ("ONCUE_REDIS_CA", &mut redis.tls.ca),
            ("ONCUE_REDIS_CERTIFICATE", &mut redis.tls.certificate),
            ("ONCUE_REDIS_KEY", &mut redis.tls.key),
        ];
        for (name, file) in files {
            if let Some(path) = env(name).filter(|path| !path.is_empty()) {
                *file = Some(path.into());
            }
        }
    }

    /// Variables by which another process reaches both servers as this one does.
    pub fn servers(&self) -> Vec<(&'static str, String)> {
        let mut env = self.nats.environment();
        env.extend(self.redis.environment());
        env
    }

    /// Settings of the stream of a domain; the defaults for one that the file does not name.
    pub fn stream(&self, domain: &str) -> StreamConfig {
        let named = self.streams.get(domain).cloned();
        named.unwrap_or_else(|| StreamConfig {
            replicas: self.most_copies(),
            ..StreamConfig::default()
        })
    }

    /// Copies of the stream with the most, by what the file says; at least 1.
    pub fn most_copies(&self) -> u32 {
        let copies = self.streams.values().map(|stream| stream.replicas);
        copies.max().unwrap_or(1).max(1)
    }

    /// Settings of the bucket that holds files: `[streams.objects]`. It is a stream as well, without a domain.
    pub fn bucket(&self) -> StreamConfig {
        self.stream("objects")
    }

    /// Settings of a function; none for one that the file does not name.
    pub fn function(&self, name: &str) -> FunctionConfig {
        self.functions.get(name).cloned().unwrap_or_default()
    }

    /// A path of the file, relative to its folder, as seen from here.
    pub fn beside(&self, path: &Path) -> PathBuf {
        let folder = self.path.as_deref().and_then(Path::parent);
        folder.map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    /// The folder that `[gateway] site` names. One that is not there is a mistake, with its line; for the gateway only, since
    /// the functions of the same file may run on machines that have no use for it.
    pub fn site_dir(&self) -> Result<Option<PathBuf>, ConfigErrors> {
        let Some(site) = &self.gateway.site else {
            return Ok(None);
        };
        let file = self.path.as_deref().unwrap_or(Path::new("oncue.toml"));
        let folder = file.parent().unwrap_or(Path::new(""));
        let dir = folder.join(&site.path);
        if dir.is_dir() {
            return Ok(Some(dir));
        }
        Err(ConfigErrors(vec![format!(
            "{}:{}: [gateway] site: there is no folder {}",
            file.display(),
            site.line,
            dir.display()
        )]))
    }

    /// Routes of the gateway, compared with all event types there are.
    ///
    /// # Errors
    /// Every route that does not fit the contract or takes the requests of another one, with its line.
    pub fn routes(&self, catalog: &Catalog) -> Result<Routes, ConfigErrors> {
        Routes::new(&self.routes, catalog)
    }

    /// Checks the schedules against all event types there are. Reading the file can only check those whose types the
    /// platform knows.
    ///
    /// # Errors
    /// Every schedule of an unknown type, or with data that is not of its type, with its line.
    pub fn check_schedules(&self, catalog: &Catalog) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        for schedule in &self.schedules {
            if let Err(why) = schedule.key_by(catalog) {
                errors.push(format!("{}[[schedule]] {why}", schedule.place));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(errors))
        }
    }
}

/// Longest horizon: a seen-mark counts half days, up to 127 of them ahead.
const LONGEST_HORIZON: Duration = Duration::from_hours(60 * 24);

/// Horizon of a stream.
fn horizon<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
    let span = Span::deserialize(deserializer)?;
    if span.0 > LONGEST_HORIZON {
        return Err(serde::de::Error::custom("the horizon is at most 60 days"));
    }
    Ok(span)
}

/// Value of a variable, if it is set; a bad one is a mistake like any other.
fn overlay<T>(
    env: &impl Fn(&str) -> Option<String>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    errors: &mut Vec<String>,
) -> Option<T> {
    let parsed = parse(&env(name)?);
    parsed
        .map_err(|why| errors.push(format!("{name}: {why}")))
        .ok()
}

/// `true` or `false`.
fn yes_or_no(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is neither true nor false"))
}

/// Whole number above 0.
fn positive(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("{text:?} is no number above 0"))
}
