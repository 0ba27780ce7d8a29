//! The map: what is pushed, and what a click asks for.

use std::sync::atomic::Ordering;

use oncue_core::bus::layout;
use oncue_core::config::Limits;
use oncue_proto::event::now_ms;
use oncue_tests::cluster::wait_for;
use serde_json::{Value, json};

use super::{Console, viewed};

fn place(graph: &Value, name: &str) -> Option<usize> {
    graph["functions"]
        .as_array()?
        .iter()
        .position(|card| card["name"] == name)
}

#[tokio::test]
async fn who_runs_is_on_the_map_with_its_rate_its_lag_and_what_passes() {
    let console = Console::open().await;
    let filters = layout::filters(&["web.page.viewed"]);
    console
        .bus
        .provide(&layout::consumer(
            "app_count",
            "web",
            &filters,
            &Limits::default(),
        ))
        .await
        .unwrap();
    let handled = console
        .pretend("count", &["web.page.viewed"], &["web.page.milestone"])
        .await;
    let graph = console
        .watch_until("graph", |graph| {
            place(graph, "count").is_some_and(|at| graph["functions"][at]["known"] == "worker")
        })
        .await;
    assert_eq!(
        graph["types"],
        json!(["web.page.milestone", "web.page.viewed"])
    );
    assert_eq!(
        graph["edges"],
        json!([
            ["count", "web.page.milestone", true],
            ["count", "web.page.viewed", false]
        ])
    );
    let at = place(&graph, "count").unwrap();
    for number in 0..5 {
        console
            .publish(
                &viewed(&format!("e-{number}")),
                "/home",
                json!({ "page": "/home" }),
            )
            .await;
    }
    handled.fetch_add(100, Ordering::Relaxed);
    let tick = console
        .watch_until("tick", |tick| {
            tick["functions"][at][0].as_f64() > Some(0.0) && tick["functions"][at][1] == 5
        })
        .await;
    assert_eq!(
        (
            &tick["functions"][at][2],
            &tick["functions"][at][3],
            &tick["away"]
        ),
        (&json!(3), &json!(1), &Value::Null)
    );
    let mut next = 5;
    // The look that saw them come may have been the one before.
    let flowing = async |next: &mut u64| {
        *next += 1;
        console
            .publish(
                &viewed(&format!("e-{next}")),
                "/home",
                json!({ "page": "/home" }),
            )
            .await;
        let tick = console.watch_until("tick", |_| true).await;
        tick["types"][1].as_f64() > Some(0.0)
    };
    for _ in 0..20 {
        if flowing(&mut next).await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    panic!("no traffic was seen");
}

#[tokio::test]
async fn a_function_tells_its_hour_its_workers_and_what_failed() {
    let console = Console::open().await;
    console
        .pretend("count", &["web.page.viewed"], &[])
        .await
        .store(7, Ordering::Relaxed);
    console.set_aside("count", "e-1", "a.rs:1").await;
    wait_for("the function", || async {
        console.get("/api/functions/count").await.status == 200
    })
    .await;
    wait_for("its count", || async {
        console.get("/api/functions/count").await.ok_json()["instances"][0]["applied"] == 7
    })
    .await;
    let said = console.get("/api/functions/count").await.ok_json();
    assert_eq!(
        (&said["card"]["triggers"], &said["limits"]["concurrency"]),
        (&json!(["web.page.viewed"]), &json!(10))
    );
    assert_eq!(
        (&said["card"]["known"], &said["instances"][0]["id"]),
        (&json!("worker"), &json!("here-1"))
    );
    assert_eq!(
        said["histogram"],
        json!({ "bounds": [1.0, 10.0], "counts": [7, 0, 0] })
    );
    assert_eq!(
        (&said["errors"][0]["reason"], &said["errors"][0]["site"]),
        (&json!("rejected"), &json!("a.rs:1"))
    );
    assert!(
        said["history"]["at"]
            .as_array()
            .is_some_and(|at| !at.is_empty())
    );
    console
        .get("/api/functions/nobody")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn the_last_events_of_a_type_come_decoded_and_newest_first() {
    let console = Console::open().await;
    let none = console
        .get("/api/events?type=web.page.viewed")
        .await
        .ok_json();
    assert_eq!(none["events"], json!([]));
    for number in 0..150 {
        let key = if number % 2 == 0 { "/a" } else { "" };
        console
            .publish(
                &viewed(&format!("e-{number}")),
                key,
                json!({ "page": "/a", "visitor": "v" }),
            )
            .await;
    }
    let said = console
        .get("/api/events?type=web.page.viewed&limit=30")
        .await
        .ok_json();
    let ids: Vec<&str> = said["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["id"].as_str())
        .collect();
    let wanted: Vec<String> = (120..150)
        .rev()
        .map(|number| format!("e-{number}"))
        .collect();
    assert_eq!(ids, wanted, "with and without a key in the subject");
    assert_eq!(
        (
            &said["events"][0]["data"]["visitor"],
            &said["events"][0]["key"]
        ),
        (&json!(oncue_proto::HIDDEN), &json!("/a"))
    );
    assert_eq!(said["events"][0]["trace"], format!("{:032x}", 5));
    let sent = console
        .get("/api/events?type=web.page.viewed&source=nobody")
        .await
        .ok_json();
    assert_eq!(sent["events"], json!([]));
    console
        .get("/api/events?type=web.*")
        .await
        .problem(400, "malformed");
    console
        .get("/api/events?type=none.such.type")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn what_differs_from_what_is_declared_is_named() {
    let console = Console::open().await;
    console
        .pretend("count-views", &["web.page.viewed"], &["web.page.milestone"])
        .await;
    let said = console.get("/api/drift").await.ok_json();
    let has = |kind: &str, part: &str| {
        let mut found = said["findings"].as_array().into_iter().flatten();
        found.any(|one| {
            one["kind"] == kind && one["what"].as_str().is_some_and(|what| what.contains(part))
        })
    };
    assert!(
        has("unheard", "web.page.milestone, from count-views"),
        "{said}"
    );
    assert!(
        has("untriggered", "count-views acts on web.page.viewed"),
        "{said}"
    );
    assert_eq!(
        console.get("/api/drift").await.ok_json(),
        said,
        "nobody is asked again at once"
    );
}

/// A minute that has passed is kept with the work of each version, and what is kept is compared.
#[tokio::test]
async fn versions_of_a_function_are_compared() {
    let console = Console::open().await;
    let handled = console.pretend("count", &["web.page.viewed"], &[]).await;
    let before = now_ms() - 120_000;
    let former = json!({ "at": before, "rate": 10.0, "failed": 0.0, "dead": 0.0, "lag": 0, "in_flight": 0, "ms": 0.7,
        "version": "8", "starts": 0, "work": { "8": { "applied": 600, "failed": 200, "dead": 1, "runs": { "3": 800 } } } });
    let former = former.to_string();
    let kept = console.store.add_sample("count", before, &former);
    kept.await.expect("Redis takes it");
    let mut versions = Value::Null;
    // One minute and what is left of this one.
    for _ in 0..1300 {
        handled.fetch_add(5, Ordering::Relaxed);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let said = console.get("/api/functions/count").await;
        if said.status == 200 {
            versions = said.ok_json()["versions"].take();
        }
        if versions.as_array().is_some_and(|all| all.len() > 1) {
            break;
        }
    }
    let latest = &versions[0];
    assert!(
        latest["version"] == "9" && latest["applied"].as_u64() > Some(0),
        "{versions}"
    );
    assert_eq!(
        versions[1],
        json!({ "version": "8", "first": before, "last": before + 60_000, "applied": 600, "failed": 200, "dead": 1,
            "rate": 10.0, "failing": 0.25, "p50": 0.75, "p99": 0.995 })
    );
}
