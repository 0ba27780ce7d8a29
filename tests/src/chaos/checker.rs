//! The verdict on every event: applied once, lost, doubled, dead, or never asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use oncue_core::secret::id_secret;
use oncue_proto::oncue::v1::DeadLetter;
use prost::Message as _;
use serde_json::{Value, json};

use super::arena::Arena;
use super::load::Sent;

/// How often each id was applied, and what is odd about the rows.
#[derive(Default)]
struct Applied {
    times: HashMap<String, u64>,
    odd: Vec<String>,
}

/// Reads everything back and writes numbers and failures into the report.
pub async fn check(arena: &mut Arena) {
    // The old connection may not have noticed yet that its server was another.
    arena.store = arena.cluster.store().await;
    let keys: BTreeSet<String> = arena.sent().iter().map(|sent| sent.key.clone()).collect();
    let first = applied(arena, &keys, ("tallies", "hits")).await;
    let second = applied(arena, &keys, ("records", "recorded")).await;
    let dead = dead_letters(arena).await;
    let milestones = counts(arena).await;

    let sent = arena.sent().to_vec();
    arena.report.operations += sent.iter().filter(|sent| sent.acked).count() as u64;
    let strangers = strangers(arena, &sent, &first).await;
    let (expected, allowed) = expectations(&sent, &strangers);
    let poison: HashSet<&str> = sent
        .iter()
        .filter(|s| s.is_poison())
        .filter_map(|s| s.id.as_deref())
        .collect();
    verdicts(
        arena,
        ("misbehave", &first),
        (&expected, &allowed),
        &dead,
        &poison,
    );

    // What must follow hangs on what was applied, not on what was asked for.
    let follows = sent
        .iter()
        .chain(&strangers)
        .filter(|s| s.id.as_ref().is_some_and(|id| first.times.contains_key(id)));
    let secret = id_secret(&arena.bus, &arena.store).await;
    let secret = secret.expect("both servers have it");
    let follows: HashSet<String> = follows.filter_map(|sent| sent.follows(&secret)).collect();
    arena.report.copies += milestones.saturating_sub(follows.len() as u64);
    verdicts(
        arena,
        ("record", &second),
        (&follows, &HashSet::new()),
        &dead,
        &HashSet::new(),
    );
    if arena.again_as != Some("id_reuse") {
        strayed(arena, &keys).await;
    }
    let odd = first.odd.into_iter().chain(second.odd).take(5);
    arena.report.failures.extend(odd);
}

/// Ids that must be applied, and ids that may be: tried, but never acknowledged.
fn expectations(sent: &[Sent], strangers: &[Sent]) -> (HashSet<String>, HashSet<String>) {
    let ids = |acked: bool| {
        let some = sent
            .iter()
            .filter(move |sent| sent.acked == acked)
            .filter_map(|sent| sent.id.clone());
        some.collect::<HashSet<String>>()
    };
    let mut allowed = ids(false);
    allowed.extend(strangers.iter().filter_map(|sent| sent.id.clone()));
    (ids(true), allowed)
}

type Dead = HashMap<(String, String), String>;

fn verdicts(
    arena: &mut Arena,
    (function, applied): (&str, &Applied),
    (expected, allowed): (&HashSet<String>, &HashSet<String>),
    dead: &Dead,
    poison: &HashSet<&str>,
) {
    let mut bad: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let (mut ok, mut died) = (0, 0);
    for id in expected {
        let times = applied.times.get(id).copied().unwrap_or_default();
        let reason = dead.get(&(function.to_owned(), id.clone()));
        match (times, reason) {
            (1, None) if !poison.contains(id.as_str()) => ok += 1,
            (1, Some(reason)) if arena.again_as == Some(reason.as_str()) => ok += 1,
            (0, None) => bad.entry("lost").or_default().push(id),
            (0, Some(_)) => {
                died += 1;
                if !poison.contains(id.as_str()) && !arena.mortal {
                    bad.entry("dead for no fault of theirs")
                        .or_default()
                        .push(id);
                }
            }
            (1, _) => bad.entry("unexpected").or_default().push(id),
            _ => bad.entry("doubled").or_default().push(id),
        }
    }
    for (id, times) in &applied.times {
        match (expected.contains(id), allowed.contains(id), times) {
            (true, ..) | (false, true, 1) => {}
            (false, true, _) => bad.entry("doubled").or_default().push(id),
            (false, false, _) => bad.entry("unexpected").or_default().push(id),
        }
    }
    let report = &mut arena.report;
    let count = |what: &str| bad.get(what).map_or(0, Vec::len) as u64;
    report.ok += ok;
    report.dead += died;
    report.lost += count("lost");
    report.doubled += count("doubled");
    report.unexpected += count("unexpected");
    for (what, ids) in bad {
        let some: Vec<&str> = ids.iter().take(5).copied().collect();
        report.failures.push(format!(
            "{function}: {} events {what}, such as {}",
            ids.len(),
            some.join(", ")
        ));
    }
}

/// Reads the rows of all keys, and whether their parts agree: list, count and the counter changed in passing.
async fn applied(
    arena: &Arena,
    keys: &BTreeSet<String>,
    (table, counter): (&str, &str),
) -> Applied {
    let mut applied = Applied::default();
    for key in keys {
        let row = arena.cluster.row(&arena.store, table, key).await;
        let field = |name: &str| row.get(name).cloned().unwrap_or_default();
        let ids: Vec<String> = serde_json::from_str(&field("ids")).unwrap_or_default();
        let count: usize = field("count").parse().unwrap_or_default();
        let total: usize = arena
            .cluster
            .field(&arena.store, counter, key, "total")
            .await
            .parse()
            .unwrap_or_default();
        if count != ids.len() || total != ids.len() {
            applied.odd.push(format!(
                "{table} {key}: {} ids, count {count}, {counter} {total}",
                ids.len()
            ));
        }
        for id in ids {
            *applied.times.entry(id).or_default() += 1;
        }
    }
    applied
}

/// Every commit of the first stage raises its row's count by one and says so in what it emits. A number that comes twice
/// was emitted by a run that was never committed.
async fn strayed(arena: &mut Arena, keys: &BTreeSet<String>) {
    for key in keys {
        let views = arena
            .cluster
            .field(&arena.store, "records", key, "views")
            .await;
        let views: Vec<u64> = serde_json::from_str(&views).unwrap_or_default();
        let different: HashSet<&u64> = views.iter().collect();
        let strayed = (views.len() - different.len()) as u64;
        arena.report.unexpected += strayed;
        arena.report.must(
            strayed == 0,
            format!("record {key}: {strayed} milestones belong to no commit"),
        );
    }
}

/// Function and id of every dead letter, with its reason.
async fn dead_letters(arena: &mut Arena) -> Dead {
    let mut dead = Dead::new();
    for message in arena.cluster.messages(&arena.bus, "dlq").await {
        match DeadLetter::decode(&message.payload[..]) {
            Ok(letter) => {
                let why: String = letter.message.chars().take(80).collect();
                *arena
                    .report
                    .reasons
                    .entry(format!("{} {}: {why}", letter.function, letter.reason))
                    .or_default() += 1;
                drop(dead.insert((letter.function, letter.event_id), letter.reason));
            }
            Err(e) => arena
                .report
                .failures
                .push(format!("a dead letter cannot be read: {e}")),
        }
    }
    dead
}

/// Applied ids nobody asked for, looked up in the stream: a plain event whose ack was lost has an id we never heard of.
async fn strangers(arena: &Arena, sent: &[Sent], applied: &Applied) -> Vec<Sent> {
    let known: HashSet<&str> = sent.iter().filter_map(|sent| sent.id.as_deref()).collect();
    let nameless: HashMap<String, &Sent> = sent
        .iter()
        .filter(|sent| sent.id.is_none())
        .map(|sent| (sent.number.to_string(), sent))
        .collect();
    let mut found = Vec::new();
    for id in applied
        .times
        .keys()
        .filter(|id| !known.contains(id.as_str()))
    {
        let place = id
            .strip_prefix(&format!("web:{}:", arena.created))
            .and_then(|n| n.parse::<u64>().ok());
        let Some(sequence) = place else { continue };
        let Ok(Some(message)) = arena.bus.message_at("web", sequence).await else {
            continue;
        };
        let event: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        if let Some(sent) = event["visitor"]
            .as_str()
            .and_then(|number| nameless.get(number))
        {
            found.push(Sent {
                id: Some(id.clone()),
                sequence,
                ..(*sent).clone()
            });
        }
    }
    found
}

/// Counts deliveries (as they went over the wire) and messages beyond the first; returns the number of messages of the second stage.
async fn counts(arena: &mut Arena) -> u64 {
    let info = arena
        .bus
        .api("STREAM.INFO.web", &json!({ "subjects_filter": "web.>" }))
        .await
        .unwrap_or_default();
    let subjects = info["state"]["subjects"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let stored = |ty: &str| -> u64 {
        subjects
            .iter()
            .filter(|(subject, _)| subject.starts_with(ty))
            .filter_map(|(_, n)| n.as_u64())
            .sum()
    };
    let (viewed, milestones) = (stored("web.page.viewed"), stored("web.page.milestone"));
    let wire = arena.nats.wire();
    (arena.report.redeliveries, arena.report.unsent) = (wire.redeliveries, wire.unsent);
    let tried = arena
        .sent()
        .iter()
        .filter(|sent| sent.acked || sent.id.is_some())
        .count() as u64;
    arena.report.copies += viewed.saturating_sub(tried);
    milestones
}
