//! The verdict on every event: applied once, lost, doubled, dead, or never asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use oncue_core::app::AppName;
use oncue_core::secret::id_secret;
use oncue_core::store::Store;
use oncue_proto::event;
use oncue_proto::oncue::v1::{DeadLetter, DeadLetterDropped};
use prost::Message as _;
use serde_json::{Value, json};

use super::arena::Arena;
use super::load::Sent;
use crate::cluster::until;

/// How often each id was applied, and what is odd about the rows.
#[derive(Default)]
struct Applied {
    times: HashMap<String, u64>,
    odd: Vec<String>,
}

/// What one app has made of the events.
struct Outcome {
    app: AppName,
    first: Applied,
    second: Applied,
    dead: Dead,
    /// Ids of what follows from what it has applied.
    follows: HashSet<String>,
}

impl Outcome {
    /// A function of it, as failures call it.
    fn name(&self, function: &str) -> String {
        if self.app == AppName::default() {
            return function.to_owned();
        }
        format!("{function} of {}", self.app)
    }
}

/// Reads everything back and writes numbers and failures into the report.
pub async fn check(arena: &mut Arena) {
    // The old connection may not have noticed yet that its server was another.
    arena.store = arena.cluster.store().await;
    let keys: BTreeSet<String> = arena.sent().iter().map(|sent| sent.key.clone()).collect();
    let milestones = counts(arena).await;
    let sent = arena.sent().to_vec();
    arena.report.operations += sent.iter().filter(|sent| sent.acked).count() as u64;
    let mut outcomes = Vec::new();
    for app in arena.apps() {
        outcomes.push(first_stage(arena, app, &sent, &keys).await);
    }
    // Milestones of all apps are in one stream, and each hears those of the others as well.
    let follows: HashSet<String> = outcomes
        .iter()
        .flat_map(|outcome| outcome.follows.iter().cloned())
        .collect();
    arena.report.copies += milestones.saturating_sub(follows.len() as u64);
    for outcome in outcomes {
        verdicts(
            arena,
            (&outcome.name("record"), "record", &outcome.second),
            (&follows, &HashSet::new()),
            &outcome.dead,
            &HashSet::new(),
        );
        let odd = outcome.first.odd.into_iter().chain(outcome.second.odd);
        arena.report.failures.extend(odd.take(5));
    }
    if arena.again_as != Some("id_reuse") {
        strayed(arena, &keys).await;
    }
}

/// Reads what an app has made of the events, and gives those of the first stage their verdict.
async fn first_stage(
    arena: &mut Arena,
    app: AppName,
    sent: &[Sent],
    keys: &BTreeSet<String>,
) -> Outcome {
    let store = arena.cluster.store_of(&app).await;
    let first = applied(arena, &store, keys, ("tallies", "hits")).await;
    let second = applied(arena, &store, keys, ("records", "recorded")).await;
    let dead = dead_letters(arena, &app).await;
    let strangers = strangers(arena, sent, &first).await;
    // What must follow hangs on what was applied, not on what was asked for.
    let follows = sent
        .iter()
        .chain(&strangers)
        .filter(|s| s.id.as_ref().is_some_and(|id| first.times.contains_key(id)));
    let bus = arena.bus.clone().of_app(&app);
    // A cluster of starved servers may be choosing a leader just now.
    let secret = until("both servers have the secret", async || {
        id_secret(&bus, &store).await.ok()
    })
    .await;
    let outcome = Outcome {
        follows: follows.filter_map(|sent| sent.follows(&secret)).collect(),
        app,
        first,
        second,
        dead,
    };
    let (expected, allowed) = expectations(sent, &strangers);
    let poison: HashSet<&str> = sent
        .iter()
        .filter(|s| s.is_poison())
        .filter_map(|s| s.id.as_deref())
        .collect();
    verdicts(
        arena,
        (&outcome.name("misbehave"), "misbehave", &outcome.first),
        (&expected, &allowed),
        &outcome.dead,
        &poison,
    );
    outcome
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
    (name, function, applied): (&str, &str, &Applied),
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
            (0, Some(reason)) => {
                died += 1;
                let may = arena.mortal || arena.dies_as == Some(reason.as_str());
                if !poison.contains(id.as_str()) && !may {
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
            "{name}: {} events {what}, such as {}",
            ids.len(),
            some.join(", ")
        ));
    }
}

/// Reads the rows of all keys, and whether their parts agree: list, count and the counter changed in passing.
async fn applied(
    arena: &Arena,
    store: &Store,
    keys: &BTreeSet<String>,
    (table, counter): (&str, &str),
) -> Applied {
    let mut applied = Applied::default();
    for key in keys {
        let row = arena.cluster.row(store, table, key).await;
        let field = |name: &str| row.get(name).cloned().unwrap_or_default();
        let ids: Vec<String> = serde_json::from_str(&field("ids")).unwrap_or_default();
        // The second version of the row calls it `seen`.
        let count = row.get("seen").or_else(|| row.get("count"));
        let count: usize = count.and_then(|n| n.parse().ok()).unwrap_or_default();
        let total: usize = arena
            .cluster
            .field(store, counter, key, "total")
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
/// was emitted by a run that was never committed; with two apps, one may have emitted it in each.
async fn strayed(arena: &mut Arena, keys: &BTreeSet<String>) {
    for key in keys {
        let views = arena
            .cluster
            .field(&arena.store, "records", key, "views")
            .await;
        let views: Vec<u64> = serde_json::from_str(&views).unwrap_or_default();
        let mut times: HashMap<u64, usize> = HashMap::new();
        for views in views {
            *times.entry(views).or_default() += 1;
        }
        let most = arena.apps().len();
        let strayed: u64 = times.values().map(|n| n.saturating_sub(most) as u64).sum();
        arena.report.unexpected += strayed;
        arena.report.must(
            strayed == 0,
            format!("record {key}: {strayed} milestones belong to no commit"),
        );
    }
}

/// Function and id of every dead letter of an app, with its reason: one of each, and none of what was given up. Of an
/// output that no stream took it is the second stage that does without.
async fn dead_letters(arena: &mut Arena, app: &AppName) -> Dead {
    let (letters, dropped) = (format!("dlq.{app}."), format!("dlq.letter.dropped.{app}"));
    let mut dead = Dead::new();
    let mut written: HashMap<(String, String), String> = HashMap::new();
    for message in arena.cluster.messages(&arena.bus, "dlq").await {
        let read = if message.subject.starts_with(&letters) {
            DeadLetter::decode(&message.payload[..]).map(|letter| {
                (
                    letter.function,
                    letter.event_id,
                    letter.reason,
                    letter.message,
                    letter.at,
                )
            })
        } else if message.subject == dropped {
            DeadLetterDropped::decode(&message.payload[..]).map(|record| {
                (
                    record.function,
                    record.event_id,
                    record.reason,
                    record.why,
                    record.at,
                )
            })
        } else {
            continue;
        };
        let (function, id, reason, why, at) = match read {
            Ok(read) => read,
            Err(e) => {
                let why = format!("a dead letter cannot be read: {e}");
                arena.report.failures.push(why);
                continue;
            }
        };
        let why: String = why.chars().take(80).collect();
        let told = format!("{function} {reason}: {why}");
        *arena.report.reasons.entry(told).or_default() += 1;
        let function = if reason == "unpublishable" {
            "record".to_owned()
        } else {
            function
        };
        let place = (function, id);
        let before = dead.get(&place).map(String::as_str);
        let again = [before, Some(reason.as_str())].contains(&arena.again_as);
        let at = event::format_time(oncue_admin::dead_letters::ms(at.as_ref()));
        if before.is_some() && !again {
            let why = format!(
                "{} has two letters for {}, of {} and {at}",
                place.0, place.1, written[&place]
            );
            arena.report.failures.push(why);
        }
        written.insert(place.clone(), at);
        dead.insert(place, reason);
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
    arena.report.redeliveries = wire.redeliveries;
    arena.report.unsent = wire.unsent;
    arena.report.naks = wire.naks;
    let tried = arena
        .sent()
        .iter()
        .filter(|sent| sent.acked || sent.id.is_some())
        .count() as u64;
    arena.report.copies += viewed.saturating_sub(tried);
    milestones
}
