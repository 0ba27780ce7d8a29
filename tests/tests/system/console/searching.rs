//! From an id or a key to the whole flow.

use oncue_core::bus::layout;
use oncue_core::contract;
use oncue_proto::event::{self, Meta};
use oncue_tests::cluster::wait_for;
use serde_json::json;

use super::{Console, viewed};

/// A root and what it caused, by another hand.
async fn family(console: &Console, root: &str) -> Meta {
    console
        .publish(
            &viewed(root),
            "home",
            json!({ "page": "home", "visitor": "v" }),
        )
        .await;
    let child = Meta {
        id: format!("child-of-{root}"),
        source: "/count-views".into(),
        ty: "web.page.milestone".into(),
        cause: root.to_owned(),
        hops: 1,
        ..viewed(root)
    };
    console
        .publish(
            &Meta {
                flow: root.to_owned(),
                ..child.clone()
            },
            "home",
            json!({ "page": "home", "views": "10" }),
        )
        .await;
    child
}

async fn seen(console: &Console) {
    wait_for("the first look", || async {
        console.get("/api/flows").await.ok_json()["flows"] != json!([])
    })
    .await;
}

#[tokio::test]
async fn an_id_that_tells_its_time_is_found_among_many() {
    let console = Console::open().await;
    let id = event::new_id();
    console
        .publish(&viewed(&id), "home", json!({ "page": "home" }))
        .await;
    for number in 0..3000 {
        console
            .bus
            .publish_plain(
                "web.page.viewed".into(),
                format!(r#"{{"page":"/{number}"}}"#).into(),
            )
            .await
            .unwrap();
    }
    console.bus.flush().await;
    seen(&console).await;
    let said = console.get(&format!("/api/search?q={id}")).await.ok_json();
    assert_eq!(
        (&said["events"][0]["id"], &said["events"][0]["sequence"]),
        (&json!(id), &json!(1))
    );
}

#[tokio::test]
async fn what_brought_no_id_is_found_by_its_place() {
    let console = Console::open().await;
    console
        .bus
        .publish_plain("web.page.viewed".into(), r#"{"page":"/a"}"#.into())
        .await
        .unwrap();
    console.bus.flush().await;
    seen(&console).await;
    let id = console
        .get("/api/events?type=web.page.viewed")
        .await
        .ok_json()["events"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(id.starts_with("web:"));
    let said = console.get(&format!("/api/search?q={id}")).await.ok_json();
    assert_eq!(said["events"][0]["data"]["page"], "/a");
    let flow = console.get(&format!("/api/flows/{id}")).await.ok_json();
    assert_eq!(flow["flow"]["events"][0]["id"], json!(id));
}

#[tokio::test]
async fn a_key_finds_its_events_and_its_letters() {
    let console = Console::open().await;
    family(&console, "e-1").await;
    let number = console.set_aside("f", "e-9", "").await;
    seen(&console).await;
    let said = console.get("/api/search?q=home").await.ok_json();
    let types: Vec<_> = said["keyed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(said["keyed"].as_array().unwrap().len(), 2);
    assert!(types.contains(&"web.page.viewed") && types.contains(&"web.page.milestone"));
    let said = console.get("/api/search?q=%2Fbroken").await.ok_json();
    assert_eq!(said["letters"][0]["number"], number);
    let said = console
        .get("/api/search?q=nothing-has-this")
        .await
        .ok_json();
    assert_eq!(
        (&said["events"], &said["keyed"], &said["letters"]),
        (&json!([]), &json!([]), &json!([]))
    );
    let searched = said["searched"].to_string();
    assert!(
        searched.contains("2 events of ")
            && searched.contains("web")
            && !searched.contains("want of time"),
        "{searched}"
    );
    console
        .get("/api/search?q=%20")
        .await
        .problem(400, "malformed");
}

#[tokio::test]
async fn a_flow_without_a_ledger_is_put_together_from_the_streams() {
    let console = Console::open().await;
    console
        .pretend("count-views", &["web.page.viewed"], &["web.page.milestone"])
        .await;
    let child = family(&console, "e-1").await;
    family(&console, "e-2").await;
    let alone = json!({ "page": "home", "visitor": "v" });
    console.publish(&viewed("e-3"), "home", alone).await;
    seen(&console).await;
    wait_for("the function", || async {
        console.get("/api/functions/count-views").await.status == 200
    })
    .await;
    let said = console.get("/api/flows/e-1").await.ok_json();
    assert_eq!(
        (&said["from"], &said["trace"]),
        (&json!("streams"), &json!(format!("{:032x}", 5)))
    );
    let events = said["flow"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(
        (&events[0]["id"], &events[0]["depth"]),
        (&json!("e-1"), &json!(0))
    );
    assert_eq!(
        (&events[1]["id"], &events[1]["depth"], &events[1]["cause"]),
        (&json!(child.id), &json!(1), &json!("e-1"))
    );
    assert_eq!(
        (
            &events[0]["steps"][0]["function"],
            &events[0]["steps"][0]["state"]
        ),
        (&json!("count-views"), &json!("done")),
        "its output is in the stream, so it was committed"
    );
    assert_eq!(said["flow"]["open"], 0);
    let waiting = console.get("/api/flows/e-3").await.ok_json();
    assert_eq!(
        (
            &waiting["flow"]["events"][0]["steps"][0]["state"],
            &waiting["flow"]["open"]
        ),
        (&json!("pending"), &json!(1))
    );
    let by_child = console
        .get(&format!("/api/flows/{}", child.id))
        .await
        .ok_json();
    assert_eq!(
        by_child["flow"]["events"], said["flow"]["events"],
        "any of its events leads to all of it"
    );
    let detail = console
        .get("/api/flows/none-such")
        .await
        .problem(404, "not-found");
    assert!(
        detail.contains("5 events of ") && !detail.contains("want of time"),
        "all that there is: {detail}"
    );
}

#[tokio::test]
async fn a_tracked_flow_is_shown_as_its_ledger_has_it() {
    let console = Console::open().await;
    let (id, store) = (event::new_id(), console.store.clone());
    store
        .track(&viewed(&id), "home", std::time::Duration::from_mins(1))
        .await
        .unwrap();
    console
        .publish(&viewed(&id), "home", json!({ "page": "home" }))
        .await;
    seen(&console).await;
    let said = console.get(&format!("/api/flows/{id}")).await.ok_json();
    assert_eq!(
        (&said["from"], &said["flow"]["id"]),
        (&json!("ledger"), &json!(id))
    );
    assert_eq!(
        (&said["flow"]["events"][0]["type"], &said["trace"]),
        (&json!("web.page.viewed"), &json!(format!("{:032x}", 5)))
    );
    let listed = console.get("/api/flows").await.ok_json();
    assert_eq!(
        (&listed["flows"][0]["id"], &listed["flows"][0]["open"]),
        (&json!(id), &said["flow"]["open"])
    );
    assert_eq!(
        console.get(&format!("/api/search?q={id}")).await.ok_json()["flow"]["id"],
        json!(id)
    );
}

/// A type that came after the console is read as soon as `oncue apply` has stored its contract, and not before.
#[tokio::test]
async fn a_type_that_comes_later_is_known() {
    let console = Console::open().await;
    let config = console.cluster.config();
    let stream = layout::stream(&config.app, "shops", &config.stream("shops"));
    console.bus.provide(&stream).await.expect("a stream");
    let uploaded = r#"{"file":"f1"}"#.to_owned();
    console
        .cluster
        .plain_publish([("shops.file.uploaded", uploaded)]);
    let key = async || {
        let answer = console.get("/api/events?type=shops.file.uploaded").await;
        answer.ok_json()["events"][0]["key"].clone()
    };
    assert_ne!(key().await, "f1", "nobody has said what its key is");
    // The platform's contract with its uploads under another domain, as another app's.
    let mut set = oncue_proto::DESCRIPTORS.to_vec();
    let ours = b"files.file.uploaded";
    let at = set.windows(ours.len()).position(|part| part == ours);
    let at = at.expect("an event type");
    set[at..at + 5].copy_from_slice(b"shops");
    let bus = console.bus.clone().of_app(&config.app);
    contract::store(&bus, "sell", set).await.expect("stored");
    wait_for("the console knows the type", || async {
        key().await == "f1"
    })
    .await;
    // So does who publishes it, far from the function's program.
    let publish = ["pub", "shops.file.uploaded", r#"{"file":"f2"}"#];
    let output = console.cluster.output("oncue", &publish);
    assert!(output.status.success(), "{output:?}");
    let unknown = ["pub", "shops.file.removed", r#"{"file":"f2"}"#];
    let output = console.cluster.output("oncue", &unknown);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("unknown event type"), "{said}");
    assert_eq!(key().await, "f2");
}

#[tokio::test]
async fn events_are_found_by_what_they_have_in_common_a_page_at_a_time() {
    let console = Console::open().await;
    for number in 0..130 {
        let page = if number % 10 == 0 { "/rare" } else { "/often" };
        let view =
            json!({ "page": page, "visitor": "needle", "referrer": format!("from-{number}") });
        console
            .publish(&viewed(&format!("e-{number:03}")), page, view)
            .await;
    }
    let milestone = Meta {
        ty: "web.page.milestone".into(),
        source: "/count-views".into(),
        ..viewed("m-1")
    };
    let payload = json!({ "page": "/rare", "views": "100" });
    console.publish(&milestone, "/rare", payload).await;
    let all = async |question: &str| {
        let mut found: Vec<String> = Vec::new();
        let mut until = String::new();
        let mut pages = 0;
        loop {
            let said = console
                .get(&format!("/api/find?{question}{until}"))
                .await
                .ok_json();
            let events = said["events"].as_array().unwrap();
            found.extend(
                events
                    .iter()
                    .map(|one| one["id"].as_str().unwrap().to_owned()),
            );
            pages += 1;
            if said["end"] == true {
                return (found, pages);
            }
            until = format!("&until={}", said["searched"]);
        }
    };
    let (everything, pages) = all("").await;
    assert_eq!(everything.len(), 131, "each once, however many pages");
    assert!(pages > 1, "a page holds fifty");
    assert_eq!(everything[0], "m-1", "the newest first");
    let mut sorted = everything.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), 131);
    let (rare, _) = all("key=/rare&type=web.page.viewed").await;
    let expected: Vec<String> = (0..13).rev().map(|n| format!("e-{:03}", n * 10)).collect();
    assert_eq!(rare, expected);
    assert_eq!(all("text=FROM-77").await.0, ["e-077"]);
    assert_eq!(all("function=count-views").await.0, ["m-1"]);
    let (sensitive, _) = all("text=needle").await;
    assert!(sensitive.is_empty(), "{sensitive:?}");
    let (open, _) = all("state=open").await;
    assert!(open.is_empty(), "no flow here has a ledger");
    let now = event::now_ms() + 1000;
    assert!(all(&format!("from={now}")).await.0.is_empty());
    console
        .get("/api/find?state=bad")
        .await
        .problem(400, "malformed");
}
