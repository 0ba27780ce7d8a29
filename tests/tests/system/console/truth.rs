//! A server that does not answer is said at once, with the way out, and its numbers are no numbers any more.

use oncue_tests::cluster::wait_for;
use serde_json::Value;

use super::Console;

/// What the page is told of a server, once it is away or once it is back.
async fn told(console: &Console, server: &str, is_away: bool) -> Value {
    let tick = console
        .watch_until("tick", |tick| {
            tick["servers"][server].is_object() == is_away
        })
        .await;
    tick["servers"][server].clone()
}

#[tokio::test]
async fn a_frozen_redis_is_said_and_so_is_its_return() {
    let console = Console::open().await;
    told(&console, "redis", false).await;
    console.cluster.redis.signal("STOP");
    let said = told(&console, "redis", true).await;
    assert!(
        said["why"].as_str().unwrap().contains("does not answer"),
        "{said}"
    );
    assert!(
        said["advice"].as_str().unwrap().contains("nothing is lost"),
        "{said}"
    );
    let text = console.get("/metrics").await.text();
    assert!(
        text.contains("oncue_up{oncue_app=\"app\",oncue_server=\"redis\"} 0"),
        "{text}"
    );
    assert!(
        text.contains("oncue_up{oncue_app=\"app\",oncue_server=\"nats\"} 1"),
        "{text}"
    );
    console.cluster.redis.signal("CONT");
    told(&console, "redis", false).await;
}

#[tokio::test]
async fn a_frozen_nats_leaves_no_number_that_nobody_knows() {
    let console = Console::open().await;
    let has_streams = async || {
        console
            .get("/metrics")
            .await
            .text()
            .contains("oncue_stream_bytes{")
    };
    wait_for("streams", has_streams).await;
    console.cluster.nats.signal("STOP");
    let said = told(&console, "nats", true).await;
    assert!(
        said["why"]
            .as_str()
            .unwrap()
            .contains("NATS at nats://127.0.0.1"),
        "{said}"
    );
    assert!(!has_streams().await, "nobody knows them now");
    let text = console.get("/metrics").await.text();
    assert!(text.contains("oncue_server=\"nats\"} 0"), "{text}");
    console.cluster.nats.signal("CONT");
    told(&console, "nats", false).await;
    wait_for("streams", has_streams).await;
}

#[tokio::test]
async fn what_doctor_finds_stands_in_the_console() {
    let console = Console::open().await;
    let said = console.get("/api/doctor").await.ok_json();
    // The folder of this console has no `oncue`; that is said, and is no error.
    let text = said["findings"][0]["text"].as_str().unwrap();
    assert!(text.contains("`oncue doctor` cannot be asked"), "{said}");
}
