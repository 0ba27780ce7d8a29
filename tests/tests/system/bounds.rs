//! Bounds hold at every edge and before anything is taken; and what a server refuses after the commit is never lost and
//! never retried unseen: for good it ends as a dead letter of the output, for now it is counted where operators look.

use base64::Engine as _;
use oncue_core::bus::Bus;
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, must_fail, until};
use oncue_tests::events::{envelope, told};
use prost::Message as _;
use serde_json::{Value, json};

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

async fn letters(cluster: &Cluster, bus: &Bus) -> Vec<DeadLetter> {
    let messages = cluster.messages(bus, "dlq").await;
    let letters = messages
        .iter()
        .filter(|message| message.subject == "dlq.app.misbehave");
    letters
        .map(|message| DeadLetter::decode(&message.payload[..]).expect("a letter"))
        .collect()
}

async fn wait_for_letters(cluster: &Cluster, bus: &Bus, count: usize) -> Vec<DeadLetter> {
    until(&format!("{count} letters"), async || {
        let letters = letters(cluster, bus).await;
        (letters.len() >= count).then_some(letters)
    })
    .await
}

async fn misbehaving(config: &str) -> (Cluster, Bus, Process) {
    let cluster = Cluster::new(&format!(
        "{config}\n[functions.misbehave]\n{QUICK_REDELIVERY}\n"
    ))
    .await;
    let worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    (cluster, bus, worker)
}

/// The smallest reproduction of an event that was retried for ever: its key fits into the headers of the event, and not
/// into those of what follows.
#[tokio::test]
async fn a_key_has_a_bound_at_every_edge() {
    let (cluster, bus, _worker) = misbehaving("").await;
    let long = "k".repeat(1025);
    let longest = "k".repeat(1024);
    cluster.plain_publish([told(&long, "emit:1"), told(&longest, "emit:1")]);
    let letters = wait_for_letters(&cluster, &bus, 1).await;
    assert_eq!(
        (letters[0].reason.as_str(), letters[0].attempts),
        ("bounds", 1)
    );
    assert!(
        letters[0].message.contains("[bounds] key"),
        "{}",
        letters[0].message
    );
    cluster.drained(&bus, "web", "misbehave").await;
    let store = cluster.store().await;
    assert_eq!(
        cluster.field(&store, "tallies", &longest, "count").await,
        "1"
    );
    assert_eq!(cluster.field(&store, "tallies", &long, "count").await, "");
    // By the command line nothing is sent.
    let before = cluster.count(&bus, "web").await;
    let payload = told(&long, "").1;
    let (code, text) = oncue(&cluster, &["pub", "web.page.viewed", &payload]);
    assert!(code == 2 && text.contains("[bounds] key"), "{code} {text}");
    assert_eq!(cluster.count(&bus, "web").await, before);
    // Headers have one as well.
    let header = |name: &str, value: String| Header {
        name: name.into(),
        value,
    };
    let event = Envelope {
        subject: "web.page.viewed".into(),
        headers: vec![
            header("ce-id", "wide".into()),
            header("x", "y".repeat(17 << 10)),
        ],
        payload: told("/wide", "emit:1").1.into(),
    };
    bus.publish(&event).await.expect("taken");
    let letters = wait_for_letters(&cluster, &bus, 2).await;
    assert_eq!(letters[1].reason, "bounds");
    assert!(letters[1].message.contains("[bounds] headers"));
}

/// Key, headers, outputs and their bytes, each just within its bound and just beyond.
#[tokio::test]
async fn each_event_beyond_a_bound_is_a_letter_and_no_other_is() {
    let (cluster, bus, _worker) = misbehaving(TIGHT).await;
    the_events_are_bounded(&cluster, &bus).await;
}

/// The broken twin: a worker that takes any size.
#[tokio::test]
async fn a_worker_without_bounds_is_noticed() {
    let mut cluster = Cluster::new(TIGHT).await;
    cluster.start("misbehave").await.stop().await;
    cluster.set("ONCUE_SABOTAGE", "no-bounds");
    let _worker = cluster.spawn_faulty("misbehave", "");
    let bus = cluster.bus().await;
    let said = must_fail("no bounds", the_events_are_bounded(&cluster, &bus)).await;
    assert!(said.contains("no letter"), "{said}");
}

const TIGHT: &str =
    "[bounds]\nkey = \"16B\"\nheaders = \"600B\"\noutputs = 8\noutput_bytes = \"3000B\"\n";

async fn the_events_are_bounded(cluster: &Cluster, bus: &Bus) {
    let idle = cluster.count(bus, "web").await;
    let beyond = [
        ("/17-bytes-of-key!", "", 10),
        ("/headers-", "", 600),
        ("/outputs-", "emit:9", 10),
        ("/bytes-", "emit:8", 10),
    ];
    let within = [
        ("/16-bytes-of-key", "", 10),
        ("/headers", "", 100),
        ("/outputs", "emit:4", 10),
    ];
    for (page, what, header) in beyond.into_iter().chain(within) {
        let header = "y".repeat(header);
        let headers = [("ce-id", page), ("x", &*header)];
        let event = envelope("web.page.viewed", &headers, told(page, what).1);
        bus.publish(&event).await.expect("taken");
    }
    until("all are delivered", async || {
        let consumer = bus.consumer_info("web", "misbehave").await.ok()?;
        (consumer.delivered.stream_seq >= idle + 7).then_some(())
    })
    .await;
    cluster.drained(bus, "web", "misbehave").await;
    let letters = letters(cluster, bus).await;
    for ((page, _, _), bound) in beyond
        .iter()
        .zip(["key", "headers", "outputs", "output_bytes"])
    {
        let letter = letters.iter().find(|letter| letter.event_id == *page);
        let letter = letter.unwrap_or_else(|| panic!("no letter of {page}"));
        let named = format!("[bounds] {bound}");
        assert!(letter.message.contains(&named), "{}", letter.message);
    }
    let of_within: Vec<_> = letters
        .iter()
        .filter(|letter| within.iter().any(|(page, _, _)| letter.event_id == *page))
        .map(|letter| &*letter.message)
        .collect();
    assert!(of_within.is_empty(), "{of_within:?}");
    assert_eq!(letters.len(), beyond.len());
    let store = cluster.store().await;
    for (page, _, _) in within {
        let count = cluster.field(&store, "tallies", page, "count").await;
        assert_eq!(count, "1", "{page}");
    }
}

/// Bounds are configured, and a bound that could not hold is refused with its line.
#[tokio::test]
async fn bounds_are_configured() {
    let (cluster, bus, _worker) = misbehaving("[bounds]\nkey = \"8B\"\noutputs = 3").await;
    cluster.plain_publish([
        told("/8-bytes", ""),
        told("/9--bytes", ""),
        told("/x", "emit:4"),
    ]);
    let letters = wait_for_letters(&cluster, &bus, 2).await;
    let mut reasons: Vec<&str> = letters.iter().map(|letter| &*letter.reason).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["bounds", "rejected"]);
    let wrong = cluster.dir.join("wrong.toml");
    std::fs::write(&wrong, "[bounds]\nkey = \"1MB\"\n").expect("written");
    let wrong = wrong.display().to_string();
    let (code, text) = oncue(&cluster, &["--config", &wrong, "doctor"]);
    assert!(
        code == 2 && text.contains(":2:") && text.contains("[bounds] key"),
        "{code} {text}"
    );
}

/// A row that grows too large costs the event that made it so, and no neighbour.
#[tokio::test]
async fn a_row_has_a_bound() {
    let (cluster, bus, _worker) = misbehaving("[bounds]\nrow = \"300B\"").await;
    the_row_is_bounded(&cluster, &bus).await;
}

/// The broken twin: with room for all of it the row takes all, and what looks for the bound must miss it.
#[tokio::test]
async fn a_row_without_a_bound_is_noticed() {
    let (cluster, bus, _worker) = misbehaving("[bounds]\nrow = \"1MiB\"").await;
    let said = must_fail("no bound", the_row_is_bounded(&cluster, &bus)).await;
    assert!(said.contains("only 0 letters"), "{said}");
}

async fn the_row_is_bounded(cluster: &Cluster, bus: &Bus) {
    let idle = cluster.count(bus, "web").await;
    cluster.plain_publish((0..40).map(|_| told("/row", "")));
    cluster.plain_publish([told("/other", "")]);
    until("all are delivered", async || {
        let consumer = bus.consumer_info("web", "misbehave").await.ok()?;
        (consumer.delivered.stream_seq >= idle + 41).then_some(())
    })
    .await;
    cluster.drained(bus, "web", "misbehave").await;
    // Each event leaves its id in the row, some twenty bytes: a dozen fit.
    let letters = letters(cluster, bus).await;
    assert!(letters.len() >= 20, "only {} letters", letters.len());
    assert!(
        letters
            .iter()
            .all(|l| l.reason == "rejected" && l.message.contains("[bounds] row"))
    );
    let store = cluster.store().await;
    let count = cluster.field(&store, "tallies", "/row", "count").await;
    let applied: usize = count.parse().expect("a number");
    assert_eq!(applied + letters.len(), 40);
    assert!(applied >= 5, "{applied} fitted");
    assert_eq!(
        cluster.field(&store, "tallies", "/other", "count").await,
        "1"
    );
}

/// Changes a stream behind everybody's back.
async fn change(bus: &Bus, change: Value) {
    let info = bus
        .api("STREAM.INFO.web", &Value::Null)
        .await
        .expect("a stream");
    let mut config = info["config"].clone();
    for (name, value) in change.as_object().expect("fields") {
        config[name] = value.clone();
    }
    bus.api("STREAM.UPDATE.web", &config)
        .await
        .expect("changed");
}

/// Whatever a server refuses for good after the commit becomes a letter of the output, and from there goes on when the
/// cause is mended.
#[tokio::test]
async fn an_output_that_no_stream_takes_is_set_aside() {
    let (cluster, bus, _worker) = misbehaving("").await;
    cluster.plain_publish([told("/before", "emit:1")]);
    cluster.drained(&bus, "web", "misbehave").await;
    // Room for the event of a plain client and not for what follows from it, which has headers.
    change(&bus, json!({ "max_msg_size": 300 })).await;
    cluster.plain_publish([told("/small", "emit:2")]);
    let letters = wait_for_letters(&cluster, &bus, 2).await;
    for letter in &letters {
        assert_eq!((&*letter.reason, &*letter.key), ("unpublishable", "/small"));
        assert_eq!(letter.event_type, "web.page.milestone");
    }
    cluster.drained(&bus, "web", "misbehave").await;
    // The mark that they are dealt with comes behind the ack.
    let store = cluster.store().await;
    until("nothing waits", async || {
        let waiting = store.waiting_outputs(&["misbehave"], u64::MAX >> 12).await;
        waiting.expect("asked").is_empty().then_some(())
    })
    .await;
    // The event itself is applied, once.
    assert_eq!(
        cluster.field(&store, "tallies", "/small", "count").await,
        "1"
    );
    let (code, text) = oncue(&cluster, &["audit", "--json"]);
    assert_eq!(code, 0, "{text}");
    // Redriven it goes to its own stream, under its own id.
    change(&bus, json!({ "max_msg_size": -1 })).await;
    let before = cluster.count(&bus, "web").await;
    let (code, text) = oncue(&cluster, &["dlq", "redrive", "--all", "--yes"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(cluster.count(&bus, "web").await, before + 2);
    assert!(self::letters(&cluster, &bus).await.is_empty());
}

/// A stream that is not there will not come back by itself either.
#[tokio::test]
async fn an_output_without_a_stream_is_set_aside() {
    let (cluster, bus, _worker) = misbehaving("").await;
    let (_, subjects) = (
        "web",
        json!({ "subjects": ["web.page.viewed", "web.redrive.>"], "subject_transform": null, "sources": null }),
    );
    change(&bus, subjects).await;
    cluster.plain_publish([told("/nowhere", "emit:1")]);
    let letters = wait_for_letters(&cluster, &bus, 1).await;
    assert_eq!(letters[0].reason, "unpublishable");
    assert!(
        letters[0].message.contains("no stream"),
        "{}",
        letters[0].message
    );
    // It holds no event of the function's, which has handled its own.
    let (code, text) = oncue(&cluster, &["dlq", "redrive", "--all", "--dry-run"]);
    assert_eq!(code, 1, "{text}");
    for part in ["nothing to try", "to web.page.milestone", "misbehave"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

/// What a stream refuses for now is tried again, and nobody has to guess that it is so.
#[tokio::test]
async fn outputs_that_wait_are_seen() {
    let (cluster, bus, mut worker) = misbehaving("").await;
    cluster.plain_publish([told("/a", "emit:1")]);
    cluster.drained(&bus, "web", "misbehave").await;
    let held = cluster.count(&bus, "web").await;
    // One more event fits, and nothing that follows from it.
    change(&bus, json!({ "max_msgs": held + 1 })).await;
    cluster.plain_publish([told("/b", "emit:1")]);
    until("`ps` tells", async || {
        let (_, text) = oncue(&cluster, &["ps"]);
        text.contains("in no stream yet").then_some(())
    })
    .await;
    until("`doctor` and `audit` tell", async || {
        let (doctor, text) = oncue(&cluster, &["doctor"]);
        let (audit, sums) = oncue(&cluster, &["audit", "--json"]);
        let sums: Value = serde_json::from_str(&sums).ok()?;
        let told = text.contains("are in no stream") && sums[0]["waiting_outputs"] == 1;
        (told && (doctor, audit) == (1, 1)).then_some(())
    })
    .await;
    assert!(
        letters(&cluster, &bus).await.is_empty(),
        "a stream that is full is not for ever"
    );
    change(&bus, json!({ "max_msgs": -1 })).await;
    until("they follow once there is room", async || {
        (cluster.count(&bus, "web").await == held + 2).then_some(())
    })
    .await;
    until("nothing is left to tell", async || {
        let (audit, _) = oncue(&cluster, &["audit", "--json"]);
        (audit == 0).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await, Some(0));
}

/// An id that a client has used before is not taken for that of an output: nobody outside can know it.
#[tokio::test]
async fn an_output_cannot_be_forged_away() {
    forge("").await;
}

#[tokio::test]
async fn an_output_of_a_batch_cannot_be_forged_away() {
    forge("[nats]\nbatch_publish = true\n").await;
}

async fn forge(config: &str) {
    let (cluster, bus, _worker) = misbehaving(config).await;
    // The ids that outputs had while they were a plain hash of what a client knows.
    let forged = |index: u64| {
        let hash = oncue_proto::event::hash(&[b"chosen", b"misbehave", &index.to_be_bytes()]);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash)
    };
    let header = |name: &str, value: &str| Header {
        name: name.into(),
        value: value.into(),
    };
    let send = async |id: &str, subject: &str, payload: String| {
        let event = Envelope {
            subject: subject.into(),
            headers: vec![header("ce-id", id), header("Nats-Msg-Id", id)],
            payload: payload.into(),
        };
        bus.publish(&event).await.expect("taken")
    };
    for index in 0..2 {
        send(&forged(index), "web.other.thing", "{}".into()).await;
    }
    send("chosen", "web.page.viewed", told("/genuine", "emit:2").1).await;
    until("both follow", async || {
        let messages = cluster.messages(&bus, "web").await;
        let genuine = messages
            .iter()
            .filter(|m| m.subject.starts_with("web.page.milestone"));
        (genuine.count() == 2).then_some(())
    })
    .await;
    // Even who has the secret cannot: what stands under the id is looked at.
    let secret = oncue_core::secret::id_secret(&bus, &cluster.store().await).await;
    let id = secret.expect("a secret").output_id("known", "misbehave", 0);
    send(&id, "web.other.thing", "{}".into()).await;
    send("known", "web.page.viewed", told("/known", "emit:1").1).await;
    let letters = wait_for_letters(&cluster, &bus, 1).await;
    assert_eq!(
        (&*letters[0].reason, &*letters[0].event_id),
        ("unpublishable", &*id)
    );
}

/// `oncue pub --wait` says what became of the event, not only that everybody is past it.
#[tokio::test]
async fn publishing_and_waiting_tells_of_dead_letters() {
    let (cluster, _bus, _worker) = misbehaving("").await;
    let publish = |page: &str, what: &str| {
        let payload = told(page, what).1;
        oncue(
            &cluster,
            &["pub", "web.page.viewed", &payload, "--wait", "30"],
        )
    };
    let (code, text) = publish("/fine", "");
    assert!(
        code == 0 && text.contains("handled by misbehave"),
        "{code} {text}"
    );
    let (code, text) = publish("/refused", "reject");
    assert!(code == 1 && text.contains("dead-lettered"), "{code} {text}");
}
