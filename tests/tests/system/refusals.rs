//! Whatever NATS or Redis may answer in place of what was asked for: the event is applied once and what follows from it is
//! there once, as soon as the server has come to its senses; until then somebody can see it, and what will never be taken
//! becomes a letter.

use oncue_core::bus::Bus;
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, until};
use oncue_tests::proxy::{Faults, Protocol, Proxy, Refusal};
use serde_json::json;

/// Errors of Redis and Valkey that a correct request can get.
const REDIS: [&str; 14] = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED force unblock from blocking operation, instance state changed",
    "NOPERM this user has no permissions to run the 'fcall' command",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "ERR Function not found",
];

/// Codes of [`REDIS`] that have to do with what is asked, and not with the server or who asks: each costs an attempt.
const OF_ONE: [&str; 2] = ["UNBLOCKED", "NOPERM"];

/// Refusals of a stream that may pass.
const FOR_NOW: [(u64, u64, &str); 13] = [
    (503, 10077, "maximum bytes exceeded"),
    (503, 10077, "maximum messages exceeded"),
    (503, 10077, "maximum messages per subject exceeded"),
    (503, 10077, "write of file failed"),
    (500, 10047, "insufficient storage resources available"),
    (500, 10028, "insufficient memory resources available"),
    (503, 10023, "insufficient resources"),
    (503, 10008, "JetStream system temporarily unavailable"),
    (500, 10009, "JetStream cluster can not handle request"),
    (503, 10039, "JetStream not enabled for account"),
    (400, 10122, "account maximum bytes exceeded"),
    (400, 10002, "resource limits exceeded for account"),
    (429, 10210, "too many inflight atomic batch publishes"),
];

/// Refusals that no waiting mends.
const FOR_GOOD: [(u64, u64, &str); 4] = [
    (400, 10054, "message size exceeds maximum allowed"),
    (400, 10060, "expected stream does not match"),
    (400, 10109, "invalid operation on sealed stream"),
    (400, 10111, "rollup not permitted"),
];

/// A worker whose lines both go through proxies.
struct Refusing {
    cluster: Cluster,
    bus: Bus,
    nats: Proxy,
    redis: Proxy,
    worker: Process,
}

impl Refusing {
    async fn start() -> Self {
        // No more than a server refuses each event: were a refusal an attempt, it would be the last.
        let config = format!("[functions.misbehave]\n{QUICK_REDELIVERY}\nattempts = 2\n");
        let mut cluster = Cluster::new(&config).await;
        let nats = Proxy::start(Protocol::Nats, cluster.nats_port, 1).await;
        let redis = Proxy::start(Protocol::Redis, cluster.redis_port, 1).await;
        let bus = cluster.bus().await;
        let direct = [
            format!("nats://127.0.0.1:{}", cluster.nats_port),
            format!("redis://127.0.0.1:{}", cluster.redis_port),
        ];
        cluster.set("ONCUE_NATS_URL", &format!("nats://127.0.0.1:{}", nats.port));
        cluster.set(
            "ONCUE_REDIS_URL",
            &format!("redis://127.0.0.1:{}", redis.port),
        );
        let worker = cluster.start("misbehave").await;
        // What operators ask is not refused.
        cluster.set("ONCUE_NATS_URL", &direct[0]);
        cluster.set("ONCUE_REDIS_URL", &direct[1]);
        Self {
            cluster,
            bus,
            nats,
            redis,
            worker,
        }
    }

    fn publish(&self, page: &str) {
        self.tell(page, "emit:1");
    }

    fn tell(&self, page: &str, what: &str) {
        let payload = json!({ "page": page, "referrer": what });
        self.cluster
            .plain_publish([("web.page.viewed", payload.to_string())]);
    }

    async fn count_of(&self, page: &str) -> String {
        let store = self.cluster.store().await;
        self.cluster.field(&store, "tallies", page, "count").await
    }

    /// Messages that followed, whatever was answered to whom.
    async fn followed(&self) -> usize {
        let messages = self.cluster.messages(&self.bus, "web").await;
        let followed = messages
            .iter()
            .filter(|message| message.subject.starts_with("web.page.milestone"));
        followed.count()
    }

    async fn letters(&self) -> u64 {
        self.cluster.count(&self.bus, "dlq").await
    }

    /// Whether an operator would see that something stands still.
    fn is_seen(&self) -> bool {
        let output = self.cluster.output("oncue", &["audit", "misbehave"]);
        let text = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&text).contains("are in no stream");
        said && output.status.code() == Some(1)
    }
}

fn refusing(of: &'static str, answer: String, left: u32) -> Faults {
    Faults {
        answer_errors: Some(Refusal { of, answer, left }),
        ..Faults::default()
    }
}

fn refusal(error: (u64, u64, &str)) -> String {
    let error = json!({ "code": error.0, "err_code": error.1, "description": error.2 });
    json!({ "error": error, "stream": "web", "seq": 0 }).to_string()
}

#[tokio::test]
async fn what_redis_refuses_is_done_once_it_does_not() {
    let refusing_redis = Refusing::start().await;
    let Refusing {
        cluster,
        bus,
        redis,
        worker,
        ..
    } = &refusing_redis;
    for (n, error) in REDIS.iter().enumerate() {
        // A commit, and what is read before it, of a key whose row nobody remembers.
        for of in ["FCALL", "HGETALL"] {
            let page = format!("/{of}-{n}");
            let before = redis.fired_of("refusal");
            // What has to do with the server alone goes on for longer than an event has attempts.
            let lasts = !OF_ONE.iter().any(|code| error.starts_with(code));
            let (times, seen) = if lasts { (u32::MAX, 3) } else { (2, 1) };
            redis.set(refusing(of, (*error).to_owned(), times));
            refusing_redis.publish(&page);
            let what = format!("{of} was refused with {error}");
            until(&what, async || {
                (redis.fired_of("refusal") >= before + seen).then_some(())
            })
            .await;
            redis.heal();
            cluster.drained(bus, "web", "misbehave").await;
            assert_eq!(refusing_redis.count_of(&page).await, "1", "{what}");
        }
        // Without the code, which the client has names of its own for.
        let text = error.split_once(' ').expect("a code").1;
        assert!(worker.log().contains(text), "nobody was told of {error}");
    }
    assert_eq!(refusing_redis.letters().await, 0, "{}", worker.log());
    assert_eq!(refusing_redis.followed().await, 2 * REDIS.len());
    // The broken twin: two failures of its own are two attempts, and the event is set aside.
    refusing_redis.tell("/fails", "fail");
    until("it is set aside", async || {
        (refusing_redis.letters().await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_stream_refuses_for_now_waits() {
    let refusing_nats = Refusing::start().await;
    let Refusing {
        cluster, bus, nats, ..
    } = &refusing_nats;
    for (n, error) in FOR_NOW.into_iter().enumerate() {
        let page = format!("/waits{n}");
        nats.set(refusing("web.page.milestone", refusal(error), u32::MAX));
        let before = nats.fired_of("refusal");
        refusing_nats.publish(&page);
        until(&format!("{error:?} was said"), async || {
            (nats.fired_of("refusal") > before + 1).then_some(())
        })
        .await;
        nats.heal();
        until(&format!("it follows after {error:?}"), async || {
            (refusing_nats.followed().await == n + 1).then_some(())
        })
        .await;
        cluster.drained(bus, "web", "misbehave").await;
        assert_eq!(refusing_nats.count_of(&page).await, "1", "{error:?}");
    }
    assert_eq!(refusing_nats.letters().await, 0);
    // For as long as it lasts, it is seen.
    nats.set(refusing(
        "web.page.milestone",
        refusal(FOR_NOW[0]),
        u32::MAX,
    ));
    refusing_nats.publish("/lasts");
    until("it is seen", async || refusing_nats.is_seen().then_some(())).await;
}

#[tokio::test]
async fn what_a_stream_refuses_for_good_is_set_aside() {
    let refusing_nats = Refusing::start().await;
    let Refusing {
        cluster, bus, nats, ..
    } = &refusing_nats;
    for (n, error) in FOR_GOOD.into_iter().enumerate() {
        let page = format!("/never{n}");
        nats.set(refusing("web.page.milestone", refusal(error), u32::MAX));
        refusing_nats.publish(&page);
        until(&format!("a letter of {error:?}"), async || {
            (refusing_nats.letters().await == n as u64 + 1).then_some(())
        })
        .await;
        cluster.drained(bus, "web", "misbehave").await;
        assert_eq!(refusing_nats.count_of(&page).await, "1", "{error:?}");
    }
    assert_eq!(refusing_nats.followed().await, 0);
    // Not lost: redriven they go on.
    nats.heal();
    let redriven = cluster.output("oncue", &["dlq", "redrive", "--all", "--yes"]);
    assert!(redriven.status.success(), "{redriven:?}");
    assert_eq!(refusing_nats.followed().await, FOR_GOOD.len());
}
