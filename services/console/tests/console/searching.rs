//! From an id or a key to the whole flow.

use oncue_proto::event::{self, Meta};
use serde_json::json;

use crate::harness::{World, viewed, wait_for};

/// A root and what it caused, by another hand.
async fn family(world: &World, root: &str) -> Meta {
    world
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
    world
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

async fn seen(world: &World) {
    wait_for("the first look", || async {
        world.get("/api/flows").await.json()["flows"] != json!([])
    })
    .await;
}

#[tokio::test]
async fn an_id_that_tells_its_time_is_found_among_many() {
    let world = World::open().await;
    let id = event::new_id();
    world
        .publish(&viewed(&id), "home", json!({ "page": "home" }))
        .await;
    for number in 0..3000 {
        world
            .bus
            .publish_plain(
                "web.page.viewed".into(),
                format!(r#"{{"page":"/{number}"}}"#).into(),
            )
            .await
            .unwrap();
    }
    world.bus.flush().await;
    seen(&world).await;
    let said = world.get(&format!("/api/search?q={id}")).await.json();
    assert_eq!(
        (&said["events"][0]["id"], &said["events"][0]["sequence"]),
        (&json!(id), &json!(1))
    );
}

#[tokio::test]
async fn what_brought_no_id_is_found_by_its_place() {
    let world = World::open().await;
    world
        .bus
        .publish_plain("web.page.viewed".into(), r#"{"page":"/a"}"#.into())
        .await
        .unwrap();
    world.bus.flush().await;
    seen(&world).await;
    let id = world.get("/api/events?type=web.page.viewed").await.json()["events"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(id.starts_with("web:"));
    let said = world.get(&format!("/api/search?q={id}")).await.json();
    assert_eq!(said["events"][0]["data"]["page"], "/a");
    let flow = world.get(&format!("/api/flows/{id}")).await.json();
    assert_eq!(flow["flow"]["events"][0]["id"], json!(id));
}

#[tokio::test]
async fn a_key_finds_its_events_and_its_letters() {
    let world = World::open().await;
    family(&world, "e-1").await;
    let number = world.set_aside("f", "e-9", "").await;
    seen(&world).await;
    let said = world.get("/api/search?q=home").await.json();
    let types: Vec<_> = said["keyed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(said["keyed"].as_array().unwrap().len(), 2);
    assert!(types.contains(&"web.page.viewed") && types.contains(&"web.page.milestone"));
    let said = world.get("/api/search?q=%2Fbroken").await.json();
    assert_eq!(said["letters"][0]["number"], number);
    let said = world.get("/api/search?q=nothing-has-this").await.json();
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
    world
        .get("/api/search?q=%20")
        .await
        .problem(400, "malformed");
}

#[tokio::test]
async fn a_flow_without_a_ledger_is_put_together_from_the_streams() {
    let world = World::open().await;
    world
        .pretend("count-views", &["web.page.viewed"], &["web.page.milestone"])
        .await;
    let child = family(&world, "e-1").await;
    family(&world, "e-2").await;
    seen(&world).await;
    wait_for("the function", || async {
        world.get("/api/functions/count-views").await.status == 200
    })
    .await;
    let said = world.get("/api/flows/e-1").await.json();
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
        (&json!("count-views"), &json!("pending"))
    );
    assert_eq!(said["flow"]["open"], 1);
    let by_child = world.get(&format!("/api/flows/{}", child.id)).await.json();
    assert_eq!(
        by_child["flow"]["events"], said["flow"]["events"],
        "any of its events leads to all of it"
    );
    let detail = world
        .get("/api/flows/none-such")
        .await
        .problem(404, "not-found");
    assert!(
        detail.contains("4 events of ") && !detail.contains("want of time"),
        "all that there is: {detail}"
    );
}

#[tokio::test]
async fn a_tracked_flow_is_shown_as_its_ledger_has_it() {
    let world = World::open().await;
    let (id, store) = (event::new_id(), world.store.clone());
    store
        .track(&viewed(&id), "home", std::time::Duration::from_mins(1))
        .await
        .unwrap();
    world
        .publish(&viewed(&id), "home", json!({ "page": "home" }))
        .await;
    seen(&world).await;
    let said = world.get(&format!("/api/flows/{id}")).await.json();
    assert_eq!(
        (&said["from"], &said["flow"]["id"]),
        (&json!("ledger"), &json!(id))
    );
    assert_eq!(
        (&said["flow"]["events"][0]["type"], &said["trace"]),
        (&json!("web.page.viewed"), &json!(format!("{:032x}", 5)))
    );
    let listed = world.get("/api/flows").await.json();
    assert_eq!(
        (&listed["flows"][0]["id"], &listed["flows"][0]["open"]),
        (&json!(id), &said["flow"]["open"])
    );
    assert_eq!(
        world.get(&format!("/api/search?q={id}")).await.json()["flow"]["id"],
        json!(id)
    );
}
