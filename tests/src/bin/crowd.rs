//! Stands in for a crowd of functions, for the console's browser tests: servers, streams and consumers are real, and so is
//! the console; the workers only say who they are and count, since two hundred processes would prove nothing more about a
//! page. Prints the console's address once all is there, and goes on until its stdin closes.
//!
//!     crowd [FUNCTIONS] [EVENTS A SECOND] [DEAD LETTERS] [EVENTS OF ONE FLOW] [EVENTS IN ONE STREAM]

use std::fmt::Write as _;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oncue_core::app::AppName;
use oncue_core::bus::layout::Mode;
use oncue_core::bus::{Bus, layout};
use oncue_core::config::{Config, Limits, Size, StreamConfig};
use oncue_core::contract;
use oncue_core::store::Keys;
use oncue_proto::Format;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_tests::cluster::{Cluster, free_port, named};
use prost::Message as _;
use serde_json::json;

const TOKEN: &str = "the-token-of-the-crowd";
/// Functions in a row; each row has a stream of its own.
const ROW: usize = 10;
const NOUNS: [&str; 5] = ["order", "invoice", "parcel", "ticket", "account"];

/// Function of which two versions are at work.
const CHANGING: &str = "order-step-0-00";
/// Table of the first function, and rows in it.
const TABLE: &str = "orders";
const ROWS: usize = 130;

const CONFIG: &str = "[console]\nwrite = true\n\
    [functions.invoice-step-8-01]\nmax = 2\n\
    [functions.order-step-0-00]\n[functions.order-step-1-00]\n[functions.order-step-2-00]\n\
    [[schedule]]\nname = \"close-of-day\"\nfunction = \"order-step-0-00\"\ncron = \"0 30 18 * * mon-fri\"\nzone = \"Europe/Berlin\"\n\
    [[schedule]]\nname = \"tick\"\nfunction = \"order-step-1-00\"\nevery = \"2s\"\n";
/// Declared by an earlier file.
const OLD: &str =
    "[[schedule]]\nname = \"month-end\"\nfunction = \"order-step-2-00\"\ncron = \"@monthly\"\n";

/// Stream with more in it than anybody looks at.
const LARGE: &str = "large";
/// Causes of many dead letters.
const CAUSES: u64 = 40;
/// Messages between two looks whether the server has them all.
const AT_A_TIME: u64 = 5_000;

/// One function of the crowd.
struct Member {
    name: String,
    stream: String,
    trigger: String,
    emits: Vec<String>,
    handled: AtomicU64,
    dead: u64,
    running: bool,
}

fn crowd(count: usize) -> Vec<Member> {
    let ty =
        |row: usize, step: usize| format!("shop{row:02}.{}.step{step}", NOUNS[row % NOUNS.len()]);
    let member = |at: usize| {
        let (row, step) = (at / ROW, at % ROW);
        let mut emits = vec![ty(row, step + 1)];
        if step % 4 == 1 {
            emits.push(ty(row, (step + 3).min(ROW)));
        }
        Member {
            name: format!("{}-step-{step}-{row:02}", NOUNS[row % NOUNS.len()]),
            stream: format!("shop{row:02}"),
            trigger: ty(row, step),
            emits,
            handled: AtomicU64::new(0),
            // One of them is looked at by the tests, at 17 events a second.
            dead: if at % 41 == 18 { 3 } else { 0 },
            running: at % 23 != 5,
        }
    };
    (0..count).map(member).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let argument = |at: usize, default: u64| {
        std::env::args()
            .nth(at)
            .and_then(|a| a.parse().ok())
            .unwrap_or(default)
    };
    let (count, rate) = (argument(1, 200), argument(2, 10_000));
    let mut cluster = Cluster::new(CONFIG).await;
    let port = free_port();
    cluster.set("ONCUE_CONSOLE_LISTEN", &format!("127.0.0.1:{port}"));
    cluster.set("ONCUE_CONSOLE_TOKEN", TOKEN);
    let bus = Bus::connect(&format!("nats://127.0.0.1:{}", cluster.nats_port), "crowd")
        .await
        .expect("NATS");
    let members = Arc::new(crowd(count as usize));
    let [letters, flow, stream] = [3, 4, 5].map(|at| argument(at, 0));
    furnish(&bus, &members, stream > 0).await;
    keep_state(&cluster, &bus).await;
    for verb in ["INFO", "STATS"] {
        tokio::spawn(answer(bus.clone(), members.clone(), verb));
    }
    let mut ids = stories(&bus).await;
    if letters > 0 {
        ids["large"] = plenty(&cluster, &bus, letters, flow, stream).await;
    }
    // Without events whatever the bus does is the console's.
    if rate > 0 {
        tokio::spawn(load(bus.clone(), members.clone(), rate));
        tokio::spawn(keep_up(bus, members));
    }
    let console = cluster.spawn("oncue-console", &[]);
    console.wait_for_line("listening on http://").await;
    println!(
        "{}",
        json!({ "url": format!("http://127.0.0.1:{port}/"), "token": TOKEN, "functions": count, "ids": ids,
            "console": console.pid(), "nats": cluster.nats.pid() })
    );
    // On a thread of its own: a read of stdin cannot be given up.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
}

/// Streams, and a consumer for each function.
async fn furnish(bus: &Bus, members: &[Member], is_large: bool) {
    // The server sets aside for a stream what it may grow to.
    let config = StreamConfig {
        max_bytes: Size(48 << 20),
        ..StreamConfig::default()
    };
    let large = is_large.then_some(LARGE);
    for domain in [layout::TIMER, layout::DLQ, "web"].into_iter().chain(large) {
        let config = StreamConfig {
            max_bytes: Size(if domain == layout::TIMER { 48 } else { 512 } << 20),
            ..config.clone()
        };
        bus.provide(&layout::stream(&AppName::default(), domain, &config))
            .await
            .expect("a stream");
    }
    for row in members.chunks(ROW) {
        bus.provide(&layout::stream(
            &AppName::default(),
            &row[0].stream,
            &config,
        ))
        .await
        .expect("a stream");
        for member in row {
            let filters = layout::filters(&[&member.trigger]);
            let wanted = layout::consumer(
                &AppName::default().consumer(&member.name),
                &member.stream,
                &filters,
                &Limits::default(),
            );
            bus.provide(&wanted).await.expect("a consumer");
        }
    }
}

/// The contract of the stories, schedules, one of which nobody declares any more, and rows of a table.
async fn keep_state(cluster: &Cluster, bus: &Bus) {
    let contract = oncue_app_events::DESCRIPTORS.to_vec();
    let stored = contract::store(bus, "order-step-0-00", contract).await;
    stored.expect("the contract of what the stories tell");
    let old = named(&format!("{CONFIG}{OLD}"));
    let old = Config::parse(&old, None, |_| None).expect("a configuration");
    let set = bus.ensure_schedules(&old, Mode::Apply).await;
    set.expect("schedules");
    // Brings the functions by which a row is changed.
    cluster.store().await;
    for number in 0..ROWS {
        let row = Keys::default().row(TABLE, &format!("order-{number}"));
        let count = number.to_string();
        let last = format!(r#"{{"page":"door-{number}","visitor":"somebody"}}"#);
        cluster.redis_cli(&[
            "HSET",
            &row,
            "items",
            &count,
            "state",
            "paid",
            "visitor",
            "somebody",
            "last",
            &last,
            "_v",
            "1700000000000000",
        ]);
    }
}

async fn answer(bus: Bus, members: Arc<Vec<Member>>, verb: &str) {
    let mut asked = bus
        .subscribe(&format!("$SRV.{verb}"))
        .await
        .expect("a subscription");
    let limits = json!(Limits::default());
    while let Some(question) = asked.next().await {
        let Some(reply) = question.reply else {
            continue;
        };
        for member in members.iter().filter(|member| member.running) {
            // One of them is being replaced by a newer version, and shares its work with it.
            let is_changing = member.name == CHANGING;
            let versions = if is_changing {
                &["1.0.0", "1.1.0"][..]
            } else {
                &["1.0.0"]
            };
            for version in versions {
                let handled = member.handled.load(Ordering::Relaxed) / versions.len() as u64;
                let manifest = json!({ "name": member.name, "version": version, "stream": member.stream, "triggers": [member.trigger],
                "filters": layout::filters(&[&member.trigger]), "table": (member.name == "order-step-0-00").then_some(TABLE), "emits": member.emits, "limits": limits });
                let counts = [handled / 4, handled / 2, handled / 5, handled / 50, 0];
                let body = json!({ "name": member.name, "id": format!("{}-{version}", member.name), "version": version,
                "started": event::format_time(event::now_ms()),
                "endpoints": [{ "num_requests": handled, "processing_time": handled * 3_400_000, "last_error": "",
                    "metadata": { "manifest": manifest.to_string() },
                    "data": { "delivered": handled, "applied": handled, "in_flight": handled % 9, "dead": member.dead * (handled / 100),
                        "duration_ms": { "bounds": [1, 5, 25, 100], "counts": counts } } }] });
                let _ = bus
                    .publish_plain(reply.clone(), body.to_string().into())
                    .await;
            }
        }
    }
}

/// Events at a steady rate, over all streams; nobody waits for their acks. Some say who sent them, as outputs do.
async fn load(bus: Bus, members: Arc<Vec<Member>>, rate: u64) {
    let (began, mut sent) = (Instant::now(), 0);
    loop {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due {
            // Busy at the front of each row, quiet at its end.
            let at = (sent as usize * 7919) % members.len();
            let member = &members[if sent.is_multiple_of(3) {
                at
            } else {
                at / ROW * ROW
            }];
            member.handled.fetch_add(1, Ordering::Relaxed);
            if sent.is_multiple_of(200) {
                output(&bus, member, sent).await;
            } else {
                let _ = bus
                    .publish_plain(
                        member.trigger.clone(),
                        format!(r#"{{"number":{sent}}}"#).into(),
                    )
                    .await;
            }
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn output(bus: &Bus, member: &Member, number: u64) {
    let id = format!("{}-{number}", member.name);
    let mut meta = root(&id, &member.emits[0]);
    meta.source = format!("/{}", member.name);
    let _ = bus
        .publish(&envelope(&meta, "", &json!({ "number": number })))
        .await;
}

/// Most consumers are moved to the end of their stream now and then, as if their workers had acked it all.
async fn keep_up(bus: Bus, members: Arc<Vec<Member>>) {
    loop {
        for (at, member) in members
            .iter()
            .enumerate()
            .filter(|(at, member)| member.running && at % 17 != 3)
        {
            let info = bus
                .api(
                    &format!("STREAM.INFO.{}", member.stream),
                    &serde_json::Value::Null,
                )
                .await;
            let last = info
                .ok()
                .and_then(|info| info["state"]["last_seq"].as_u64())
                .unwrap_or(0);
            let _ = bus.rewind(&member.stream, &member.name, last + 1).await;
            if at % ROW == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn root(id: &str, ty: &str) -> Meta {
    Meta {
        id: id.to_owned(),
        source: "/gateway".into(),
        ty: ty.to_owned(),
        time: event::now_ms(),
        timed: true,
        flow: id.to_owned(),
        cause: String::new(),
        hops: 0,
        traceparent: Some(format!("00-{:032x}-{:016x}-01", 17, 17)),
        tracestate: None,
        baggage: None,
        redrive: None,
        tracked: false,
    }
}

fn envelope(meta: &Meta, key: &str, payload: &serde_json::Value) -> Envelope {
    let headers = event::headers(meta, key, Format::Json)
        .into_iter()
        .map(|(name, value)| Header {
            name: name.to_owned(),
            value,
        });
    Envelope {
        subject: event::subject(&meta.ty, key),
        headers: headers.collect(),
        payload: payload.to_string().into(),
    }
}

/// A flow of three events, and dead letters of two causes, for pages to show. Returns what to look for.
async fn stories(bus: &Bus) -> serde_json::Value {
    let id = event::new_id();
    let first = root(&id, "web.page.viewed");
    let page = json!({ "page": "front-door", "visitor": "v-1" });
    bus.publish(&envelope(&first, "front-door", &page))
        .await
        .expect("an event");
    for number in 0..2 {
        let mut child = root(&format!("{id}-{number}"), "web.page.milestone");
        (child.source, child.cause, child.flow, child.hops) =
            ("/count-views".into(), id.clone(), id.clone(), 1);
        let milestone = json!({ "page": "front-door", "views": "10" });
        bus.publish(&envelope(&child, "front-door", &milestone))
            .await
            .expect("an event");
    }
    for number in 0..12 {
        let (function, site, message) = match number % 3 {
            0 => ("order-step-7-00", "", "no address 4711 in the order"),
            _ => (
                "invoice-step-8-01",
                "src/bin/invoice-step-8.rs:42",
                "the tax office does not answer",
            ),
        };
        let letter = letter(&format!("broken-{number}"), number, function, site, message);
        bus.publish(&letter).await.expect("a letter");
    }
    json!({ "flow": id, "key": "front-door", "letters": 12 })
}

/// A dead letter of an event about a door.
fn letter(event: &str, number: u64, function: &str, site: &str, message: &str) -> Envelope {
    let mut text = String::new();
    let _ = write!(text, r#"{{"page":"door-{number}","visitor":"v"}}"#);
    let inner = Envelope {
        subject: "web.page.viewed".into(),
        headers: Vec::new(),
        payload: text.into(),
    };
    let letter = DeadLetter {
        function: function.into(),
        reason: if site.is_empty() {
            "rejected"
        } else {
            "attempts"
        }
        .into(),
        message: message.into(),
        site: site.into(),
        attempts: 6,
        at: Some(oncue_admin::dead_letters::timestamp(event::now_ms())),
        event_id: event.into(),
        event_type: "web.page.viewed".into(),
        flow_id: event.into(),
        stream: "web".into(),
        key: format!("door-{number}"),
        envelope: Some(inner),
        ..DeadLetter::default()
    };
    let header = Header {
        name: "traceparent".into(),
        value: format!("00-{:032x}-{:016x}-01", 23, 23),
    };
    Envelope {
        subject: format!("dlq.app.{function}"),
        headers: vec![header],
        payload: letter.encode_to_vec().into(),
    }
}

/// More than any page shows at once: dead letters of many causes, a flow of many events, a stream of very many.
async fn plenty(
    cluster: &Cluster,
    bus: &Bus,
    letters: u64,
    flow: u64,
    stream: u64,
) -> serde_json::Value {
    for number in 0..letters {
        let function = format!("order-step-{}-00", number % 8);
        let site = format!("src/bin/order-step.rs:{}", number % CAUSES);
        let message = format!("the warehouse {} does not answer", number % CAUSES);
        let event = format!("many-{number}");
        let letter = letter(&event, number, &function, &site, &message);
        bus.publish_plain(letter.subject, letter.payload)
            .await
            .expect("a letter");
        in_time(bus, layout::DLQ, number).await;
    }
    let store = cluster.store().await;
    cluster.redis_cli(&[
        "SADD",
        &Keys::default().listeners("web.page.milestone"),
        "order-step-0-00",
    ]);
    let id = event::new_id();
    let mut meta = root(&id, "web.page.viewed");
    for number in 0..flow {
        if number > 0 {
            let child = format!("{id}-{number}");
            let cause = match number {
                1..=9 => id.clone(),
                // A tree of ten branches at every event.
                _ => format!("{id}-{}", number / 10),
            };
            meta = root(&child, "web.page.milestone");
            (meta.source, meta.cause, meta.flow) = ("/count-views".into(), cause, id.clone());
            meta.hops = number.ilog10() + 1;
        }
        meta.tracked = true;
        let kept = Duration::from_hours(1);
        store.track(&meta, "door", kept).await.expect("Redis");
        let payload = json!({ "page": format!("door-{number}"), "views": "10" });
        bus.publish(&envelope(&meta, "door", &payload))
            .await
            .expect("an event");
    }
    for number in 0..stream {
        let text = format!(r#"{{"number":{number}}}"#);
        bus.publish_plain(
            format!("{LARGE}.thing.happened.{}", number % 100),
            text.into(),
        )
        .await
        .expect("an event");
        in_time(bus, LARGE, number).await;
    }
    json!({ "flow": id, "letters": letters, "events": flow, "stream": LARGE })
}

/// Waits now and then until the server has taken what was sent without a wish for an answer.
async fn in_time(bus: &Bus, stream: &str, sent: u64) {
    if !(sent + 1).is_multiple_of(AT_A_TIME) {
        return;
    }
    loop {
        let info = bus.stream_info(stream).await.expect("NATS");
        if info.state.last_seq >= sent {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
