//! The single checks, in the order of the path: NATS, layout, Redis, traces.

use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::bus::layout::{self, Mode, Outcome};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use oncue_proto::event::PARTITIONS;
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::settings::{Place, Settings};
use crate::{apply, http, manifests};

const PATIENCE: Duration = Duration::from_secs(2);
/// Seen-mark buckets up to this size stay in Redis's compact encoding, at a fifth of the memory.
const LISTPACK: u64 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// Worth knowing; works.
    Know,
    /// Must be fixed.
    Fix,
}

#[derive(Debug, Serialize)]
pub struct Finding {
    pub verdict: Verdict,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// What was read back; `None` is "not known".
#[derive(Debug, Default, Serialize)]
pub struct Facts {
    /// Version, if it answers and is supported.
    pub nats: Option<String>,
    pub nats_sync_always: Option<bool>,
    pub nats_sync_seconds: Option<u64>,
    /// Fewest copies any stream has.
    pub least_replicas: Option<u64>,
    /// Fewest copies of any stream that are up to date just now.
    pub least_current: Option<u64>,
    pub redis: Option<String>,
    pub appendonly: Option<String>,
    pub appendfsync: Option<String>,
    /// Replicas that must have a write before Redis goes on taking more.
    pub redis_replicas_required: u64,
    /// Seconds for which a replica may have been silent and still counts.
    pub redis_replica_lag: u64,
    /// Replicas that follow it now.
    pub redis_replicas: u64,
}

#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn good(&mut self, text: impl Into<String>) {
        self.0.push(Finding {
            verdict: Verdict::Good,
            text: text.into(),
            advice: None,
        });
    }

    fn know(&mut self, text: impl Into<String>, advice: &str) {
        self.0.push(Finding {
            verdict: Verdict::Know,
            text: text.into(),
            advice: Some(advice.into()),
        });
    }

    fn fix(&mut self, text: impl Into<String>, advice: &str) {
        self.0.push(Finding {
            verdict: Verdict::Fix,
            text: text.into(),
            advice: Some(advice.into()),
        });
    }
}

pub async fn all(settings: &Settings) -> (Facts, Vec<Finding>) {
    let (mut facts, mut report) = (Facts::default(), Report::default());
    match settings.bus().await {
        Ok(bus) => {
            nats(settings, &bus, &mut facts, &mut report).await;
            layout(settings, &bus, &mut facts, &mut report).await;
        }
        Err(e) => report.fix(
            e.what,
            "start it with `oncue up`, or name another server with --nats",
        ),
    }
    match settings.store().await {
        Ok(store) => {
            if let Err(e) = redis(settings, &store, &mut facts, &mut report).await {
                report.fix(e, "see the server's own log");
            }
        }
        Err(e) => report.fix(
            e.what,
            "start it with `oncue up`, or name another server with --redis",
        ),
    }
    traces(&mut report).await;
    (facts, report.0)
}

async fn nats(settings: &Settings, bus: &Bus, facts: &mut Facts, report: &mut Report) {
    let version = bus.server_version();
    report.good(format!("NATS {version} at {}", settings.nats_place()));
    match bus.api("INFO", &Value::Null).await {
        Ok(_) => {
            facts.nats = Some(version);
            report.good("JetStream is on");
        }
        Err(e) => {
            report.fix(
                format!("JetStream is off: {e}"),
                "start nats-server with JetStream, as deploy/dev/nats.conf does",
            );
        }
    }
    match monitor(settings.config.nats_url.expose()).await {
        Ok(varz) => {
            let config = &varz["jetstream"]["config"];
            let nanos = config["sync_interval"].as_u64().unwrap_or_default();
            facts.nats_sync_always = Some(config["sync_always"].as_bool().unwrap_or(false));
            facts.nats_sync_seconds = Some(nanos / 1_000_000_000);
            match facts.nats_sync_always {
                Some(true) => report.good("NATS writes every event to disk before it answers (sync_interval: always)"),
                _ => report.know(
                    format!("NATS writes to disk every {} s", nanos / 1_000_000_000),
                    "for events that survive a power cut: jetstream { sync_interval: always } in nats.conf, as the profile durable does",
                ),
            }
        }
        Err(why) => report.know(
            format!("how often NATS writes to disk is not known: {why}"),
            "start nats-server with `-m 8222`, or name its monitoring page in ONCUE_NATS_MONITOR (host:port)",
        ),
    }
}

/// `/varz` of the very server we are connected to.
async fn monitor(nats_url: &str) -> Result<Value, String> {
    let place = Place::of(nats_url, 4222).ok_or("the NATS URL names no host")?;
    let named = std::env::var("ONCUE_NATS_MONITOR")
        .ok()
        .filter(|m| !m.is_empty());
    let host = if place.host.contains(':') {
        format!("[{}]", place.host)
    } else {
        place.host
    };
    let address = named.map_or_else(
        || format!("{host}:8222"),
        |m| {
            m.trim_start_matches("http://")
                .trim_end_matches('/')
                .to_owned()
        },
    );
    let (status, body) = http::get(&address, "/varz", PATIENCE).await?;
    let varz: Value = serde_json::from_str(&body)
        .map_err(|_| format!("{address}/varz is {status} and not JSON"))?;
    if varz["port"].as_u64() != Some(u64::from(place.port)) {
        return Err(format!(
            "{address} belongs to another server (port {})",
            varz["port"]
        ));
    }
    Ok(varz)
}

async fn layout(settings: &Settings, bus: &Bus, facts: &mut Facts, report: &mut Report) {
    if facts.nats.is_none() {
        return;
    }
    let names: Vec<String> = settings.config.functions.keys().cloned().collect();
    let manifests = match manifests::of(settings, &names).await {
        Ok(manifests) => manifests,
        Err(e) => {
            report.know(
                format!("consumers were not compared: {}", e.what),
                e.advice.as_deref().unwrap_or("see above"),
            );
            Vec::new()
        }
    };
    compare(settings, bus, &manifests, report).await;
    let wanted = apply::plan(&settings.config, &manifests);
    for name in wanted
        .iter()
        .filter_map(|wanted| wanted.name.strip_prefix("stream "))
    {
        let Ok(info) = bus.api(&format!("STREAM.INFO.{name}"), &Value::Null).await else {
            continue;
        };
        copies(name, &info, facts, report);
        let (bytes, most) = (
            info["state"]["bytes"].as_u64().unwrap_or(0),
            info["config"]["max_bytes"].as_u64().unwrap_or(0),
        );
        if most > 0 && bytes > most / 10 * 9 {
            let full = format!(
                "stream {name} is {} % full; when full it refuses events",
                bytes.saturating_mul(100) / most
            );
            report.fix(full, "raise max_bytes in oncue.toml and run `oncue apply`");
        }
    }
    if facts.least_replicas > Some(1) && facts.least_current == facts.least_replicas {
        report.good(format!(
            "every stream has at least {} copies, all up to date",
            facts.least_replicas.unwrap_or(1)
        ));
    }
}

/// How many copies a stream is to have, and how many of them have all of it.
fn copies(name: &str, info: &Value, facts: &mut Facts, report: &mut Report) {
    let Some(wanted) = info["config"]["num_replicas"].as_u64() else {
        return;
    };
    let up_to_date = |replica: &&Value| replica["current"] == true && replica["offline"] != true;
    let followers = info["cluster"]["replicas"]
        .as_array()
        .map_or(0, |all| all.iter().filter(up_to_date).count() as u64);
    let current = followers + 1; // who answers has it
    facts.least_replicas = Some(
        facts
            .least_replicas
            .map_or(wanted, |least| least.min(wanted)),
    );
    facts.least_current = Some(
        facts
            .least_current
            .map_or(current, |least| least.min(current)),
    );
    if current < wanted {
        let behind = format!("stream {name}: {current} of its {wanted} copies are up to date");
        report.fix(
            behind,
            "see which nats-server is down, or wait until it has caught up",
        );
    }
}

async fn compare(settings: &Settings, bus: &Bus, manifests: &[Manifest], report: &mut Report) {
    let mut same = 0;
    for wanted in apply::plan(&settings.config, manifests) {
        match bus.ensure(&wanted, Mode::Look).await {
            Ok(Outcome::Same) => same += 1,
            Ok(Outcome::Created) => {
                report.fix(format!("{} is missing", wanted.name), "run `oncue apply`")
            }
            Ok(Outcome::Different(fields)) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|d| format!("{} is {}, should be {}", d.field, d.is, d.should))
                    .collect();
                report.fix(
                    format!("{}: {}", wanted.name, fields.join("; ")),
                    "run `oncue apply`",
                );
            }
            Err(e) => report.fix(format!("{}: {e}", wanted.name), "see the server's own log"),
        }
    }
    if same > 0 {
        report.good(format!(
            "{same} streams and consumers are as they should be"
        ));
    }
    match bus.ensure_schedules(&settings.config, Mode::Look).await {
        Ok(done) if done.is_empty() => {}
        Ok(done) => report.fix(
            format!("not as oncue.toml says: {}", done.join(", ")),
            "run `oncue apply`",
        ),
        Err(e) => report.fix(e.to_string(), "run `oncue apply`"),
    }
    // Of two tokens: records of dropped letters have three.
    let letters = serde_json::json!({ "subjects_filter": format!("{}.*", layout::DLQ) });
    let dlq = bus
        .api(&format!("STREAM.INFO.{}", layout::DLQ), &letters)
        .await
        .unwrap_or_default();
    match dlq["state"]["subjects"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, n)| n.as_u64())
        .sum()
    {
        0u64 => report.good("no dead letters"),
        dead => report.know(
            format!("{dead} dead letters wait for somebody"),
            "see them with `oncue dlq ls`",
        ),
    }
}

async fn redis(
    settings: &Settings,
    store: &Store,
    facts: &mut Facts,
    report: &mut Report,
) -> Result<(), String> {
    let text = |e: oncue_core::store::StoreError| e.to_string();
    let info = store.info("server").await.map_err(text)?;
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|v| v.trim().to_owned())
    };
    let (name, version) = match field("valkey_version") {
        Some(version) => ("Valkey", version),
        None => ("Redis", field("redis_version").unwrap_or_default()),
    };
    report.good(format!("{name} {version} at {}", settings.redis_place()));
    store.check().await.map_err(text)?;
    report.good("Redis never evicts keys (maxmemory-policy noeviction)");
    facts.redis = Some(version);
    persistence(store, facts, report).await;
    if let Some(limit) = store
        .setting("hash-max-listpack-entries")
        .await
        .and_then(|n| n.parse::<u64>().ok())
        && limit < LISTPACK
    {
        report.know(
            format!(
                "hash-max-listpack-entries is {limit}: seen-marks take more memory than they need"
            ),
            "set it to 128 or more, Redis's own default",
        );
    }
    match store.partitions().await.map_err(text)? {
        Some(PARTITIONS) => report.good(format!("Redis is laid out with {PARTITIONS} partitions")),
        Some(other) => report.fix(
            format!("Redis is laid out with {other} partitions, this version has {PARTITIONS}"),
            "use the Redis of this app, or an empty one",
        ),
        None => report.know(
            "Redis was not used by any worker yet",
            "the first worker lays it out",
        ),
    }
    if let Some(regression) = store.regression().await.map_err(text)? {
        report.fix(
            regression.to_string(),
            "run `oncue recover redis`; until then workers refuse to start",
        );
    }
    if store.is_loaded().await.map_err(text)? {
        report.good(format!(
            "function library {} is loaded",
            store.library_name()
        ));
    } else {
        report.fix(
            format!("function library {} is not loaded", store.library_name()),
            "run `oncue apply`",
        );
    }
    Ok(())
}

async fn persistence(store: &Store, facts: &mut Facts, report: &mut Report) {
    facts.appendonly = store.setting("appendonly").await;
    facts.appendfsync = store.setting("appendfsync").await;
    replication(store, facts, report).await;
    match (facts.appendonly.as_deref(), facts.appendfsync.as_deref()) {
        (Some("yes"), Some("always")) => {
            report.good("Redis writes every commit to disk before it answers (appendfsync always)");
        }
        (Some("yes"), Some("everysec")) => report.know(
            "Redis writes to disk every second (appendfsync everysec)",
            "for state that survives a power cut: appendfsync always in redis.conf, as the profile durable does",
        ),
        (Some("yes"), other) => report.fix(
            format!("Redis leaves it open when it writes to disk (appendfsync {})", other.unwrap_or("unknown")),
            "set appendfsync everysec or always in redis.conf",
        ),
        (Some(_), _) => report.fix(
            "Redis keeps no log: state is lost when it restarts (appendonly no)",
            "set appendonly yes in redis.conf",
        ),
        (None, _) => report.know(
            "how Redis keeps its data is not known: it does not let us ask (CONFIG GET)",
            "allow CONFIG GET for this user, or look yourself: appendonly yes is needed",
        ),
    }
}

async fn replication(store: &Store, facts: &mut Facts, report: &mut Report) {
    let setting = async |name: &str| {
        store
            .setting(name)
            .await
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    facts.redis_replicas_required = setting("min-replicas-to-write").await;
    facts.redis_replica_lag = setting("min-replicas-max-lag").await;
    let info = store.info("replication").await.unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    facts.redis_replicas = field("connected_slaves")
        .and_then(|n| n.trim().parse().ok())
        .unwrap_or(0);
    let (there, required) = (facts.redis_replicas, facts.redis_replicas_required);
    if field("role").is_some_and(|role| role.trim() != "master") {
        report.fix(
            "this Redis is a replica and takes no writes",
            "name the primary in ONCUE_REDIS_URL",
        );
    } else if there < required {
        report.fix(
            format!("Redis takes no writes: {there} replicas follow it, min-replicas-to-write is {required}"),
            "start a replica with `redis-server deploy/ha/redis.conf --replicaof PRIMARY 6379`",
        );
    } else if required > 0 {
        report.good(format!(
            "{there} replicas follow Redis, and without {required} it takes no writes"
        ));
    }
}

async fn traces(report: &mut Report) {
    if ["OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|v| v == "true" || v == "none"))
    {
        report.know(
            "traces are switched off here",
            "unset OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER",
        );
        return;
    }
    let endpoint = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ]
    .iter()
    .find_map(|name| std::env::var(name).ok());
    let endpoint = endpoint
        .filter(|e| !e.is_empty())
        .unwrap_or_else(|| "http://127.0.0.1:4318".to_owned());
    let reached = match Place::of(&endpoint, 4318) {
        Some(place) => tokio::time::timeout(
            PATIENCE,
            TcpStream::connect((place.host.as_str(), place.port)),
        )
        .await
        .is_ok_and(|c| c.is_ok()),
        None => false,
    };
    if reached {
        report.good(format!("traces are taken at {endpoint}"));
    } else {
        let nobody = format!("nobody takes traces at {endpoint}; events flow without them");
        report.know(
            nobody,
            "`oncue up` starts a trace viewer; OTEL_EXPORTER_OTLP_ENDPOINT names another",
        );
    }
}
