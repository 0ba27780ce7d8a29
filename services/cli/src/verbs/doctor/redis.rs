//! Checks of Redis: version, eviction, persistence, replication, and the state our own library needs.

use oncue_core::model::audit::WAITING_MS;
use oncue_core::store::{Store, StoreError};
use oncue_proto::event::{self, PARTITIONS};

use super::report::{Facts, Report};
use crate::settings::Settings;

/// All checks of Redis; one that fails is a finding, and the next is made all the same. Settings may be kept from us: they
/// are then not known. Fails only where Redis does not say who it is.
pub async fn check(
    settings: &Settings,
    store: &Store,
    facts: &mut Facts,
    report: &mut Report,
) -> Result<(), StoreError> {
    let info = store.info("server").await?;
    let (name, version) = match info_field(&info, "valkey_version") {
        Some(version) => ("Valkey", version),
        None => (
            "Redis",
            info_field(&info, "redis_version").unwrap_or_default(),
        ),
    };
    report.good(match store.primary_name() {
        None => format!("{name} {version} at {}", settings.redis_shown()),
        Some(primary) => format!(
            "{name} {version} at {}, the primary {primary} of {}",
            store.address(),
            settings.redis_shown()
        ),
    });
    facts.redis = Some(version.to_owned());
    sentinels(store, report).await;
    match store.check().await {
        Ok(()) => report.good("Redis never evicts keys (maxmemory-policy noeviction)"),
        Err(e) => report.fix(
            e.to_string(),
            "until then workers refuse to start, and what was promised is not",
        ),
    }
    if let Err(e) = store.check_replay().await {
        report.fix(e.to_string(), "before this Redis is started again");
    }
    persistence(store, facts, report).await;
    let functions: Vec<&str> = settings
        .config
        .functions
        .keys()
        .map(String::as_str)
        .collect();
    for failed in [
        store.info("memory").await.map(|info| memory(&info, report)),
        layout(store, report).await,
        losses(store, &functions, report).await,
        waiting(store, &functions, report).await,
        library(store, report).await,
    ]
    .into_iter()
    .filter_map(Result::err)
    {
        report.fix(failed.to_string(), "see the server's own log");
    }
    Ok(())
}

async fn layout(store: &Store, report: &mut Report) -> Result<(), StoreError> {
    match store.partitions().await? {
        Some(PARTITIONS) => report.good(format!("Redis is laid out with {PARTITIONS} partitions")),
        Some(other) => report.fix(
            format!("Redis is laid out with {other} partitions, this version has {PARTITIONS}"),
            "use the Redis of this app, or an empty one",
        ),
        None => report.know(
            "Redis was not used by this app yet",
            "`oncue up` and `oncue apply` lay it out",
        ),
    }
    Ok(())
}

/// Commits that Redis has lost, and events that were taken out of streams too early.
async fn losses(store: &Store, functions: &[&str], report: &mut Report) -> Result<(), StoreError> {
    if let Some(regression) = store.regression(functions).await? {
        report.fix(
            regression.to_string(),
            "run `oncue recover redis`; until then workers refuse to start",
        );
    }
    for removed in store.removed().await? {
        report.fix(
            format!("{}: {removed}", removed.function),
            "send them again; `oncue recover nats` publishes what Redis has kept and takes the rest for lost",
        );
    }
    Ok(())
}

/// Outputs that no stream has taken for a while.
async fn waiting(store: &Store, functions: &[&str], report: &mut Report) -> Result<(), StoreError> {
    let old = event::now_ms().saturating_sub(WAITING_MS);
    for (function, waiting) in store.waiting_outputs(functions, old).await? {
        let since = event::format_time(waiting.since);
        report.fix(
            format!("{function}: the outputs of {} commits are in no stream, the first since {since}", waiting.commits),
            "make room in the stream they go to (`oncue ps`, [streams] max_bytes), or bring back its servers; workers \
             go on trying",
        );
    }
    if !store.is_tended().await? {
        report.know(
            "nobody tends the streams: what is done stays in them until they are full, and then they refuse",
            "run `oncue up`, or `oncue tend` beside what runs the processes",
        );
    }
    Ok(())
}

async fn library(store: &Store, report: &mut Report) -> Result<(), StoreError> {
    let library = store.library_name();
    if store.is_loaded().await? {
        report.good(format!("function library {library} is loaded"));
    } else {
        report.fix(
            format!("function library {library} is not loaded"),
            "run `oncue apply`",
        );
    }
    Ok(())
}

/// Each sentinel of the URL: a failover needs most of them, and all must name one server.
async fn sentinels(store: &Store, report: &mut Report) {
    let answers = store.sentinels().await;
    let count = answers.len();
    let mut agreed = 0;
    for answer in answers {
        match answer.primary {
            Ok(primary) if primary == store.address() => agreed += 1,
            Ok(primary) => report.fix(
                format!(
                    "the sentinel {} names {primary} as the primary",
                    answer.sentinel
                ),
                "see whether a failover is under way: `redis-cli -p 26379 SENTINEL masters`",
            ),
            Err(why) => report.fix(
                format!("the sentinel {} cannot be asked: {why}", answer.sentinel),
                "start it, or take it out of ONCUE_REDIS_URL",
            ),
        }
    }
    if count > 0 && agreed == count {
        report.good(format!("all {count} sentinels name it"));
    }
}

/// Asks for settings rather than reading a file: a running server may have been told otherwise.
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

/// A Redis that wants replicas and has too few takes no writes: every function stands still then.
async fn replication(store: &Store, facts: &mut Facts, report: &mut Report) {
    facts.redis_replicas_required = number_setting(store, "min-replicas-to-write")
        .await
        .unwrap_or(0);
    facts.redis_replica_lag = number_setting(store, "min-replicas-max-lag")
        .await
        .unwrap_or(0);
    let info = store.info("replication").await.unwrap_or_default();
    facts.redis_replicas = info_field(&info, "connected_slaves")
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let there = facts.redis_replicas;
    let required = facts.redis_replicas_required;
    if info_field(&info, "role").is_some_and(|role| role != "master") {
        report.fix(
            "this Redis is a replica and takes no writes",
            "name the primary in ONCUE_REDIS_URL, or the sentinels that know it",
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

/// Part of the memory from which on somebody should look, in percent, and from which on it is urgent.
const MEMORY_LOW: u64 = 75;
const MEMORY_SHORT: u64 = 90;

/// A Redis that is full takes no writes, and every function stands still; one without a limit is ended by the kernel.
fn memory(info: &str, report: &mut Report) {
    let Some(used) = info_number(info, "used_memory") else {
        return;
    };
    let limit = info_number(info, "maxmemory").filter(|limit| *limit > 0);
    let room = limit.or_else(|| info_number(info, "total_system_memory"));
    let Some(room) = room.filter(|room| *room > 0) else {
        return;
    };
    let of = match limit {
        Some(_) => "of its maxmemory",
        None => "that the machine has, with no maxmemory",
    };
    let percent = used.saturating_mul(100) / room;
    let what = format!(
        "Redis holds {} MiB of {} MiB {of} ({percent} %)",
        used >> 20,
        room >> 20
    );
    let remedy = "give it more memory, or keep less: a shorter [streams] horizon (30 bytes for each event and function), \
                  [redis] keep_outputs, [flows] keep; deploy/PROMISE.md has the sums";
    if percent >= MEMORY_SHORT {
        report.fix(what, remedy);
    } else if percent >= MEMORY_LOW {
        report.know(what, remedy);
    } else {
        report.good(what);
    }
}

async fn number_setting(store: &Store, name: &str) -> Option<u64> {
    store.setting(name).await?.parse().ok()
}

/// Value of a line `name:value` of `INFO`.
fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn info_number(info: &str, name: &str) -> Option<u64> {
    info_field(info, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn memory_is_told_before_it_runs_out() {
        fn verdict(info: &str) -> Option<Verdict> {
            let mut report = Report::default();
            memory(info, &mut report);
            report.0.first().map(|finding| finding.verdict)
        }
        fn of_hundred(used: u64, limit: u64) -> String {
            let [used, limit, machine] = [used, limit, 100].map(|mib| mib << 20);
            format!("used_memory:{used}\r\nmaxmemory:{limit}\r\ntotal_system_memory:{machine}\r\n")
        }
        assert_eq!(verdict(&of_hundred(10, 100)), Some(Verdict::Good));
        assert_eq!(verdict(&of_hundred(80, 100)), Some(Verdict::Know));
        assert_eq!(verdict(&of_hundred(45, 50)), Some(Verdict::Fix));
        assert_eq!(verdict(&of_hundred(95, 0)), Some(Verdict::Fix));
        assert_eq!(verdict(""), None, "nothing is known");
    }

    #[test]
    fn a_field_of_info_is_found_by_its_whole_name() {
        let info = "# Replication\r\nrole_x:1\r\nrole:master\r\n";
        assert_eq!(info_field(info, "role"), Some("master"));
        assert_eq!(info_field(info, "connected_slaves"), None);
    }
}
