//! More than the functions can do, for a while: the gateway says so in time, nothing grows without bound, and what was
//! accepted is done once. `ONCUE_OVERLOAD_SECONDS=60` makes it last.

use std::collections::BTreeSet;
use std::time::Duration;

use oncue_tests::cluster::{Cluster, Process, SMALL_STREAMS, free_port, until};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

const MAX_LAG: u64 = 100;
/// Two at a time, 20 ms each: a hundred events a second.
const FUNCTION: &str = "[functions.misbehave]\nconcurrency = 2\n";
const PACE: Duration = Duration::from_micros(4500);

fn seconds() -> u64 {
    std::env::var("ONCUE_OVERLOAD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(6)
}

/// What became of a request.
enum Answer {
    Accepted(String),
    Refused,
}

async fn post(client: reqwest::Client, url: String, page: String) -> Answer {
    let body = json!({ "page": page, "referrer": "slow:20" }).to_string();
    let sent = client
        .post(url)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await;
    let answer = sent.expect("the gateway answers");
    if answer.status() == 202 {
        return Answer::Accepted(page);
    }
    let after = answer.headers().get("retry-after").cloned();
    let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
    assert!(
        status == 503 && text.contains("urn:oncue:problem:behind"),
        "{status}: {text}"
    );
    assert!(
        after.is_some_and(|after| after.to_str().is_ok_and(|s| s.parse::<u32>().is_ok())),
        "when to come again"
    );
    Answer::Refused
}

/// What was seen of an overload.
struct Seen {
    accepted: BTreeSet<String>,
    refused: usize,
    most_behind: u64,
}

/// Twice what the function can do, whatever the answers are.
async fn overload(cluster: &Cluster, url: &str, during: Duration) -> Seen {
    let bus = cluster.bus().await;
    let (client, mut requests) = (reqwest::Client::new(), JoinSet::new());
    let (mut pace, end) = (interval(PACE), Instant::now() + during);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut seen, mut sent) = (
        Seen {
            accepted: BTreeSet::new(),
            refused: 0,
            most_behind: 0,
        },
        0_u64,
    );
    while Instant::now() < end {
        pace.tick().await;
        requests.spawn(post(client.clone(), url.to_owned(), format!("/o{sent}")));
        sent += 1;
        if sent.is_multiple_of(100) {
            let info = bus
                .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
                .await
                .expect("a consumer");
            let of = |field: &str| info[field].as_u64().unwrap_or_default();
            seen.most_behind = seen
                .most_behind
                .max(of("num_pending") + of("num_ack_pending"));
        }
    }
    while let Some(answer) = requests.join_next().await {
        match answer.expect("a request") {
            Answer::Accepted(page) => drop(seen.accepted.insert(page)),
            Answer::Refused => seen.refused += 1,
        }
    }
    seen
}

/// Resident memory in KiB.
fn memory(process: &Process) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a size");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

async fn gateway(cluster: &mut Cluster) -> (Process, String) {
    let at = format!("127.0.0.1:{}", free_port());
    cluster.set("ONCUE_GATEWAY_LISTEN", &at);
    let process = cluster.spawn("oncue-gateway", &[]);
    process.wait_for_line("listening on").await;
    (process, format!("http://{at}/v1/events/web.page.viewed"))
}

#[tokio::test]
async fn overload_is_refused_in_time_and_nothing_accepted_is_lost() {
    let mut cluster = Cluster::new(&format!(
        "{SMALL_STREAMS}{FUNCTION}[gateway]\nmax_lag = {MAX_LAG}\n"
    ))
    .await;
    let worker = cluster.start("misbehave").await;
    let (gateway, url) = gateway(&mut cluster).await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let client = reqwest::Client::new();
    let Answer::Accepted(_) = post(client.clone(), url.clone(), "/first".into()).await else {
        panic!("not at rest")
    };
    cluster.drained(&bus, "web", "misbehave").await;
    let before = [memory(&gateway), memory(&worker)];

    let seen = overload(&cluster, &url, Duration::from_secs(seconds())).await;
    let (accepted, refused) = (seen.accepted.len() as u64, seen.refused);
    println!(
        "{accepted} accepted, {refused} refused, {} behind at most",
        seen.most_behind
    );
    assert!(
        accepted > MAX_LAG && refused > 50,
        "{accepted} accepted, {refused} refused: no overload"
    );
    // It grew, and no further than the bound and what was on its way meanwhile.
    assert!(
        (MAX_LAG / 2..MAX_LAG * 2).contains(&seen.most_behind),
        "{} behind",
        seen.most_behind
    );
    for (process, before) in [&gateway, &worker].into_iter().zip(before) {
        let after = memory(process);
        println!("{}: {before} KiB before, {after} KiB after", process.name);
        assert!(
            after < before * 3 + (32 << 10),
            "{} grew from {before} to {after} KiB",
            process.name
        );
    }

    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(
        cluster.count(&bus, "web").await,
        accepted + 1,
        "the stream holds what was accepted and nothing else"
    );
    for page in &seen.accepted {
        assert_eq!(
            cluster.field(&store, "tallies", page, "count").await,
            "1",
            "{page}"
        );
    }
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
    // Once it has caught up, it takes more.
    until("taken again", async || {
        match post(client.clone(), url.clone(), "/last".into()).await {
            Answer::Accepted(_) => Some(()),
            Answer::Refused => None,
        }
    })
    .await;
}

/// The broken twin: without the bound nobody is refused, and the functions fall behind as far as they may.
#[tokio::test]
async fn without_a_bound_nobody_is_refused() {
    let mut cluster = Cluster::new(&format!("{SMALL_STREAMS}{FUNCTION}")).await;
    let _worker = cluster.start("misbehave").await;
    let (_gateway, url) = gateway(&mut cluster).await;
    let seen = overload(&cluster, &url, Duration::from_secs(4)).await;
    assert_eq!(seen.refused, 0);
    assert!(
        seen.most_behind > MAX_LAG,
        "only {} behind: no overload",
        seen.most_behind
    );
}

/// Most events of `size` bytes that a worker has in hand or on its way at a time, of 150 that wait for it.
async fn most_in_hand(size: usize) -> u64 {
    let cluster = Cluster::new("[streams.web]\nmax_bytes = \"512MB\"\n").await;
    let bus = cluster.bus().await;
    // Makes stream and consumer. Stopped and not killed: what comes while the server still takes it for alive would be given to it,
    // and run one after the other later on.
    let mut first = cluster.start("misbehave").await;
    first.stop().await;
    let visitor = "v".repeat(size);
    for n in 0..150 {
        let view = json!({ "page": format!("/{n}"), "visitor": visitor, "referrer": "slow:500" });
        bus.publish_plain("web.page.viewed".into(), view.to_string().into())
            .await
            .expect("sent");
    }
    until("all of them", async || {
        (cluster.count(&bus, "web").await == 150).then_some(())
    })
    .await;
    let _worker = cluster.start("misbehave").await;
    let mut most = 0;
    until("all are done", async || {
        let info = bus
            .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
            .await
            .expect("a consumer");
        let of = |field: &str| info[field].as_u64().unwrap_or_default();
        most = most.max(of("num_ack_pending"));
        (info["ack_floor"]["stream_seq"] == 150).then_some(())
    })
    .await;
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
    most
}

/// 32 MiB in hand and as much on its way, however many that are; and events of the usual size are bounded by number.
#[tokio::test]
async fn large_events_do_not_fill_the_memory() {
    let most = most_in_hand(900_000).await;
    assert!(
        (10..75).contains(&most),
        "{most} events of 900 kB at a time"
    );
    assert_eq!(most_in_hand(10).await, 150, "small ones come all at once");
}
