//! Checks, in the order of an event's path: NATS, layout, Redis, traces. Each adds findings for people, and facts
//! from which the promise is derived.

use oncue_admin::AdminError;
use oncue_admin::consumers;
use oncue_admin::stores::agreement::{self, Lost};
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::layout::{self, Mode, Outcome, ScheduleChange, Wanted};
use oncue_core::bus::{ApiError, Bus};
use oncue_core::config::Config;
use oncue_core::store::Store;
use serde_json::Value;
use tokio::net::TcpStream;

use super::monitoring;
use super::report::{Facts, Finding, REPLY_TIMEOUT, Report};
use crate::exit;
use crate::manifests;
use crate::settings::{Address, Settings};
use crate::verbs::apply;

/// Share of `max_bytes` from which a stream is reported: when it is full it refuses events.
/// Early enough to raise the limit in time.
const FULL_PERCENT: u64 = 90;
/// Taker of traces where nothing says otherwise [OpenTelemetry, OTLP exporter, default endpoint].
const DEFAULT_OTLP_ENDPOINT: &str = "http://127.0.0.1:4318";
const DEFAULT_OTLP_PORT: u16 = 4318;

/// Everything that can be asked, whatever fails before: a server that is away is a finding, and the rest is still
/// looked at.
pub async fn all(settings: &Settings) -> (Facts, Vec<Finding>) {
    let mut facts = Facts::default();
    let mut report = Report::default();
    let mut nats_bus = None;
    match settings.bus().await {
        Ok(bus) => {
            nats(settings, &bus, &mut facts, &mut report).await;
            if facts.nats.is_some() {
                layout(settings, &bus, &mut facts, &mut report).await;
                nats_bus = Some(bus);
            }
        }
        Err(e) => {
            let usual = "start it with `oncue up`, or name another server with --nats";
            report.fix(&e.what, exit::remedy(&e.what, usual));
        }
    }
    if nats_bus.is_some() {
        super::locks::check(settings, &mut report).await;
    }
    match settings.store().await {
        Ok(store) => {
            if let Err(e) = super::redis::check(settings, &store, &mut facts, &mut report).await {
                let text = e.to_string();
                report.fix(&text, exit::remedy(&text, "see the server's own log"));
            } else if let Some(bus) = &nats_bus
                && let Err(e) = agreement(settings, bus, &store, &mut report).await
            {
                report.fix(e.to_string(), "see the servers' own logs");
            }
        }
        Err(e) => {
            let usual = "start it with `oncue up`, or name another server with --redis";
            report.fix(&e.what, exit::remedy(&e.what, usual));
        }
    }
    super::certificates::check(&settings.config, &mut report);
    traces(&mut report).await;
    (facts, report.0)
}

/// Whether one server has lost what the other remembers.
async fn agreement(
    settings: &Settings,
    bus: &Bus,
    store: &Store,
    report: &mut Report,
) -> Result<(), AdminError> {
    let lost = agreement::lost(bus, store, &settings.config).await?;
    if lost.is_empty() {
        report.good("NATS and Redis belong to one time");
    }
    for lost in lost {
        match lost {
            Lost::Stream(stream) => {
                report.fix(stream.to_string(), "until then workers refuse to start");
            }
            Lost::Commits {
                function,
                regression,
            } => report.fix(
                format!("{function}: {regression}"),
                "run `oncue recover redis`; until then its workers refuse to start",
            ),
        }
    }
    Ok(())
}

/// Version, JetStream, and how often it writes to disk. The last stands on the monitoring page alone, so without
/// that page the promise assumes the worst.
async fn nats(settings: &Settings, bus: &Bus, facts: &mut Facts, report: &mut Report) {
    let version = bus.server_version();
    report.good(format!("NATS {version} at {}", settings.nats_shown()));
    match bus.api("INFO", &Value::Null).await {
        Ok(_) => {
            facts.nats = Some(version);
            report.good("JetStream is on");
        }
        Err(e) => {
            let text = if e.code == ApiError::LOCKED_OUT {
                e.description
            } else {
                format!("JetStream cannot be used: {e}")
            };
            let usual = "start nats-server with JetStream, as deploy/dev/nats.conf does";
            report.fix(&text, exit::remedy(&text, usual));
        }
    }
    let varz = match monitoring::varz(settings.config.nats.url.expose()).await {
        Ok(varz) => varz,
        Err(why) => {
            return report.know(
                format!("how often NATS writes to disk is not known: {why}"),
                "start nats-server with `-m 8222`, or name its monitoring page in ONCUE_NATS_MONITOR (host:port)",
            );
        }
    };
    let seconds = varz.sync_interval().as_secs();
    facts.nats_sync_always = Some(varz.sync_always());
    facts.nats_sync_seconds = Some(seconds);
    if varz.sync_always() {
        report.good("NATS writes every event to disk before it answers (sync_interval: always)");
    } else {
        report.know(
            format!("NATS writes to disk every {seconds} s"),
            "for events that survive a power cut: jetstream { sync_interval: always } in nats.conf, as the profile durable does",
        );
    }
}

/// Layout and room of the streams. Programs that do not say what they are leave the consumers uncompared, and the
/// streams of `oncue.toml` are looked at all the same.
async fn layout(settings: &Settings, bus: &Bus, facts: &mut Facts, report: &mut Report) {
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
    // One that cannot be had was told of with the programs.
    let contracts = settings.contracts().await;
    let contracts = contracts.map(|contracts| contracts.programs);
    let wanted = apply::plan(&settings.config, &manifests, &contracts.unwrap_or_default());
    compare(settings, bus, &wanted, report).await;
    if let Err(e) = hearing(settings, bus, report).await {
        report.fix(e.to_string(), "see the server's own log");
    }
    dead_letters(bus, report).await;
    let names = wanted
        .iter()
        .filter_map(|wanted| wanted.name.strip_prefix("stream "));
    let mut streams = Vec::new();
    for name in names {
        // One that is missing has been reported by the comparison.
        let Ok(info) = bus.stream_info(name).await else {
            continue;
        };
        copies(name, &info, facts, report);
        room(name, &info, report);
        streams.push(info);
    }
    fewer(&settings.config, &streams, report);
    if facts.least_replicas > Some(1) && facts.least_current == facts.least_replicas {
        report.good(format!(
            "every stream has at least {} copies, all up to date",
            facts.least_replicas.unwrap_or(1)
        ));
    }
}

/// Copies a stream is to have, and how many of them have all of it.
fn copies(name: &str, info: &StreamInfo, facts: &mut Facts, report: &mut Report) {
    let wanted = info.config.num_replicas;
    if wanted == 0 {
        return; // not said
    }
    let current = info.current_copies();
    let least_replicas = facts.least_replicas.unwrap_or(wanted);
    let least_current = facts.least_current.unwrap_or(current);
    facts.least_replicas = Some(least_replicas.min(wanted));
    facts.least_current = Some(least_current.min(current));
    if current < wanted {
        report.fix(
            format!("stream {name}: {current} of its {wanted} copies are up to date"),
            "see which nats-server is down, or wait until it has caught up",
        );
    }
}

/// Streams with fewer copies than others. One that is to have more by oncue.toml has been reported by the comparison.
fn fewer(config: &Config, streams: &[StreamInfo], report: &mut Report) {
    let copies = streams.iter().map(|info| info.config.num_replicas);
    let most = copies.max().unwrap_or_default();
    for StreamInfo { config: stream, .. } in streams {
        let name = stream.name.as_str();
        let section = match name {
            // As many as of the stream of its app with the most.
            layout::VALUES => layout::TIMER,
            bucket if bucket.starts_with("OBJ_") => apply::OBJECTS,
            domain => domain,
        };
        let is_foreign = !stream.is_of(&config.app);
        let wanted = u64::from(config.stream(section).replicas);
        if stream.num_replicas >= most || (wanted > stream.num_replicas && !is_foreign) {
            continue;
        }
        let whose = match stream.owner() {
            Some(owner) if is_foreign => format!("the oncue.toml of the app {owner}"),
            _ => "oncue.toml".to_owned(),
        };
        report.know(
            format!(
                "stream {name}: copies on {} servers, where others of this app have {most}: it stands still, or is gone, with \
                 servers that those outlive",
                stream.num_replicas
            ),
            &format!("`[streams.{section}] replicas = {most}` in {whose}, and `oncue apply`"),
        );
    }
}

/// Bytes a stream may still take; one without a limit always has room.
fn room(name: &str, info: &StreamInfo, report: &mut Report) {
    let limit = u64::try_from(info.config.max_bytes).unwrap_or(0);
    let bytes = info.state.bytes;
    // Divided first: a limit near the largest number must not overflow.
    if limit > 0 && bytes > limit / 100 * FULL_PERCENT {
        let percent = bytes.saturating_mul(100) / limit;
        report.fix(
            format!("stream {name} is {percent} % full; when full it refuses events"),
            "raise max_bytes in oncue.toml and run `oncue apply`",
        );
    }
}

/// Compares as `oncue apply --dry-run` does, by the same plan, so the two cannot disagree.
async fn compare(settings: &Settings, bus: &Bus, wanted: &[Wanted], report: &mut Report) {
    let mut same = 0;
    for wanted in wanted {
        match bus.ensure(wanted, Mode::Look).await {
            Ok(Outcome::Same | Outcome::Foreign(_)) => same += 1,
            Ok(Outcome::Created) => {
                report.fix(format!("{} is missing", wanted.name), "run `oncue apply`");
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
        Ok(done) => {
            for change in done {
                match change {
                    ScheduleChange::Made(what) => {
                        report.fix(format!("{what} is not there"), "run `oncue apply`");
                    }
                    ScheduleChange::LeftOver(what) => report.fix(
                        format!("{what} fires, and oncue.toml does not have it"),
                        "run `oncue apply --prune`",
                    ),
                    ScheduleChange::Paused(what) => report.know(
                        format!("{what} is paused: it fires nothing"),
                        "`oncue schedule resume NAME` once that for which it was paused is over",
                    ),
                }
            }
        }
        Err(e) => report.fix(e.to_string(), "run `oncue apply`"),
    }
    let known = settings.config.functions.keys().map(String::as_str);
    match apply::orphans(bus, &known.collect()).await {
        Ok(orphans) => {
            for orphan in orphans {
                report.know(
                    format!(
                        "{} is there, and no such function is in oncue.toml",
                        orphan.what
                    ),
                    "put it there, or remove it with `oncue remove`",
                );
            }
        }
        Err(e) => report.fix(e.to_string(), "see the server's own log"),
    }
}

/// Whether functions get their events, and events their functions.
async fn hearing(settings: &Settings, bus: &Bus, report: &mut Report) -> Result<(), AdminError> {
    for consumer in consumers::all(bus).await?.into_values() {
        if consumer.info.paused {
            report.fix(
                format!(
                    "the consumer of {} on {} is paused: no event reaches it",
                    consumer.function, consumer.stream
                ),
                &format!(
                    "`oncue resume {}` once that for which it was paused is over",
                    consumer.function
                ),
            );
        }
    }
    let Ok(catalog) = settings.catalog().await else {
        return Ok(());
    };
    for (ty, count) in consumers::unheard(bus).await? {
        if catalog.get(&ty).is_err() {
            report.know(
                format!("{count} events of the type {ty} lie there, which no contract has and no function hears"),
                "see whether its name is mistyped, and who publishes it (`oncue tail`)",
            );
        }
    }
    // Those of this app are compared with oncue.toml, those of others are theirs.
    let schedules = bus.stream_subjects(layout::TIMER, "timer.schedule.*").await;
    for subject in schedules.unwrap_or_default().into_keys() {
        report.fix(
            format!("{subject} fires, and is of no app"),
            "purge it from the stream timer if nobody knows it",
        );
    }
    Ok(())
}

/// Counts letters by the server's own count: none is read, however many there are.
async fn dead_letters(bus: &Bus, report: &mut Report) {
    let filter = bus.app().letters("*");
    let subjects = bus
        .stream_subjects(layout::DLQ, &filter)
        .await
        .unwrap_or_default();
    match subjects.values().sum::<u64>() {
        0 => report.good("no dead letters"),
        dead => report.know(
            format!("{dead} dead letters wait for somebody"),
            "see them with `oncue dlq ls`",
        ),
    }
}

/// Whether spans of this shell's programs would find a taker. Events flow without one, so it is never more than a
/// note.
async fn traces(report: &mut Report) {
    if ["OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|v| v == "true" || v == "none"))
    {
        return report.know(
            "traces are switched off here",
            "unset OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER",
        );
    }
    let endpoint = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ]
    .iter()
    .find_map(|name| std::env::var(name).ok())
    .filter(|endpoint| !endpoint.is_empty())
    .unwrap_or_else(|| DEFAULT_OTLP_ENDPOINT.to_owned());
    if accepts_connections(&endpoint).await {
        report.good(format!("traces are taken at {endpoint}"));
    } else {
        report.know(
            format!("nobody takes traces at {endpoint}; events flow without them"),
            "`oncue up` starts a trace viewer; OTEL_EXPORTER_OTLP_ENDPOINT names another",
        );
    }
}

/// Only connects: a request would leave a span behind.
async fn accepts_connections(endpoint: &str) -> bool {
    let Some(address) = Address::of(endpoint, DEFAULT_OTLP_PORT) else {
        return false;
    };
    let connected = TcpStream::connect((address.host.as_str(), address.port));
    tokio::time::timeout(REPLY_TIMEOUT, connected)
        .await
        .is_ok_and(|connected| connected.is_ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream(info: Value) -> StreamInfo {
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn a_copy_that_lags_is_a_fault_and_the_fewest_count() {
        let whole = stream(json!({
            "config": { "num_replicas": 3 },
            "cluster": { "leader": "a", "replicas": [{ "name": "b", "current": true }, { "name": "c", "current": true }] },
        }));
        let behind = stream(json!({
            "config": { "num_replicas": 3 },
            "cluster": { "leader": "a", "replicas": [
                { "name": "b", "current": true, "offline": true }, { "name": "c", "current": true }] },
        }));
        let mut facts = Facts::default();
        let mut report = Report::default();
        copies("web", &whole, &mut facts, &mut report);
        assert_eq!(
            (facts.least_replicas, facts.least_current),
            (Some(3), Some(3))
        );
        assert!(report.0.is_empty());
        copies("mail", &behind, &mut facts, &mut report);
        assert_eq!(
            (facts.least_replicas, facts.least_current),
            (Some(3), Some(2))
        );
        assert_eq!(
            report.0[0].text,
            "stream mail: 2 of its 3 copies are up to date"
        );
    }

    #[test]
    fn a_stream_with_fewer_copies_than_others_is_named_with_its_section() {
        let config = "[app]\nname = \"shop\"\n[streams.web]\nreplicas = 3\n[streams.clicks]\nreplicas = 1\n[streams.objects]\n\
                      replicas = 1\n";
        let config = Config::parse(config, None, |_| None).unwrap();
        let of = |name: &str, app: &str, copies: u64| {
            stream(json!({ "config": {
                "name": name, "num_replicas": copies, "metadata": { "oncue.app": app } } }))
        };
        let mut report = Report::default();
        let alike = [of("web", "shop", 3), of("dlq", "other", 3)];
        fewer(&config, &alike, &mut report);
        assert!(report.0.is_empty());
        let streams = [
            of("web", "shop", 3),
            of("clicks", "shop", 1),
            of("OBJ_shop_files", "shop", 1),
            of("timer", "other", 1),
            // To have three, which the comparison says.
            of("dlq", "shop", 1),
        ];
        fewer(&config, &streams, &mut report);
        let said = report.0.iter().map(|finding| {
            let advice = finding.advice.as_deref().unwrap();
            (finding.text.split(':').next().unwrap(), advice)
        });
        assert_eq!(
            said.collect::<Vec<_>>(),
            [
                (
                    "stream clicks",
                    "`[streams.clicks] replicas = 3` in oncue.toml, and `oncue apply`"
                ),
                (
                    "stream OBJ_shop_files",
                    "`[streams.objects] replicas = 3` in oncue.toml, and `oncue apply`"
                ),
                (
                    "stream timer",
                    "`[streams.timer] replicas = 3` in the oncue.toml of the app other, and `oncue apply`"
                ),
            ]
        );
    }

    #[test]
    fn a_stream_that_is_nearly_full_is_a_fault() {
        let of = |bytes: u64, limit: i64| {
            stream(json!({ "config": { "max_bytes": limit }, "state": { "bytes": bytes } }))
        };
        let mut report = Report::default();
        room("web", &of(1000, -1), &mut report);
        room("web", &of(900, 1000), &mut report);
        assert!(report.0.is_empty());
        room("web", &of(950, 1000), &mut report);
        assert_eq!(
            report.0[0].text,
            "stream web is 95 % full; when full it refuses events"
        );
    }
}
