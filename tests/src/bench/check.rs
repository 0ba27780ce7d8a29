//! What must be true after a run, or its figures are worth nothing: every follow-up is there once, every page counts
//! what it should, nothing is set aside.

use std::collections::HashSet;
use std::time::Duration;

use oncue_core::bus::pull::Capacity;
use serde_json::{Value, json};

use super::arena::{Arena, OUTPUT, Side, Work};

pub async fn run(arena: &Arena, side: Side, work: &Work) {
    let (events, keys) = (work.clicks.events, work.clicks.keys);
    assert_eq!(
        events % (keys * work.every),
        0,
        "a backlog that cannot be checked"
    );
    assert_eq!(
        arena.cluster.count(&arena.bus, "dlq").await,
        0,
        "dead letters"
    );
    let rows = match side {
        _ if side.is_oncue() => {
            "local lo, hi, n, sum = math.huge, 0, 0, 0 \
            for _, key in ipairs(redis.call('KEYS', '*:s:clicks:*')) do \
              local v = tonumber(redis.call('HGET', key, 'views')) \
              lo, hi, n, sum = math.min(lo, v), math.max(hi, v), n + 1, sum + v end \
            return string.format('%d %d %d %d', n, sum, lo, hi)"
        }
        _ => {
            "local lo, hi, n, sum = math.huge, 0, 0, 0 \
            for _, v in ipairs(redis.call('HVALS', 'limit')) do v = tonumber(v) \
              lo, hi, n, sum = math.min(lo, v), math.max(hi, v), n + 1, sum + v end \
            return string.format('%d %d %d %d', n, sum, lo, hi)"
        }
    };
    let rows = arena.cluster.redis_cli(&["EVAL", rows, "0"]);
    let each = events / keys;
    assert_eq!(
        rows,
        format!("{keys} {events} {each} {each}"),
        "pages, views, views of the least and most viewed"
    );
    if !side.is_oncue() {
        let marks = arena.cluster.redis_cli(&["DBSIZE"]);
        assert_eq!(
            marks,
            (events + 1).to_string(),
            "seen marks and the hash of pages"
        );
    }
    let ids = headers(arena, &[OUTPUT, &format!("{OUTPUT}.>")], &["Nats-Msg-Id"]).await;
    let messages = ids.len() as u64;
    let ids = ids.iter().map(|(_, id)| id).collect::<HashSet<_>>().len() as u64;
    assert_eq!(
        (messages, ids),
        (events / work.every, events / work.every),
        "follow-ups, and their different ids"
    );
}

/// Sequences of the messages on some subjects, with the first of the named headers that each has.
pub async fn headers(arena: &Arena, filters: &[&str], names: &[&str]) -> Vec<(u64, String)> {
    let body = json!({
        "stream_name": "web",
        "config": {
            "durable_name": "app_check",
            "ack_policy": "none",
            "headers_only": true,
            "filter_subjects": filters,
        },
        "action": "create",
    });
    let info = arena
        .bus
        .api("CONSUMER.CREATE.web.app_check", &body)
        .await
        .expect("a consumer to check with");
    let expected = info["num_pending"].as_u64().unwrap_or(0) as usize;
    let created = arena.bus.stream_created("web").await.expect("the stream");
    let mut pull = arena
        .bus
        .pull("web", created, "check")
        .await
        .expect("a pull");
    let mut found = Vec::with_capacity(expected);
    while found.len() < expected {
        let mut deliveries = pull.ask(Capacity::of(10_000)).await.expect("the consumer");
        let next = tokio::time::timeout(Duration::from_secs(30), pull.next()).await;
        deliveries.extend(next.expect("the stream goes on").expect("the consumer"));
        for delivery in deliveries {
            let header = |wanted: &&str| delivery.headers().find(|(name, _)| name == wanted);
            let value = names
                .iter()
                .find_map(header)
                .expect("the header")
                .1
                .to_owned();
            found.push((delivery.info.sequence, value));
        }
    }
    drop(pull);
    arena
        .bus
        .api("CONSUMER.DELETE.web.app_check", &Value::Null)
        .await
        .expect("deleted");
    found
}
