//! Houses with one safeguard of the protocol taken out, in binaries built for that: whoever watches over the safeguard must
//! find them out. A check that cannot fail is no check.

use oncue::bus::Bus;
use oncue::event;
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::chaos::report::{Plan, Report};
use oncue_tests::chaos::rows::find;
use oncue_tests::house::{House, built, until};

/// A row of the fault table, played with the binaries that can be broken.
async fn row(id: &str, sabotage: &str) -> Report {
    let row = find(id).expect("a row of the table");
    let programs = built("failpoints/misbehave").parent().map(std::path::Path::to_path_buf);
    let env = vec![("ONCUE_SABOTAGE".to_owned(), sabotage.to_owned())];
    let report = (row.run)(Plan { seed: 7, seconds: row.short, env, programs, ..Plan::default() }).await;
    println!("{sabotage}: {report:#?}");
    report
}

#[tokio::test]
async fn the_same_binaries_whole_pass() {
    let report = row("K-2", "nothing").await;
    assert!(report.passed(), "{:#?}", report.failures);
}

#[tokio::test]
async fn without_seen_marks_events_are_doubled() {
    let report = row("K-2", "no-seen-marks").await;
    assert!(!report.passed() && report.doubled > 0, "{report:#?}");
}

#[tokio::test]
async fn acking_first_loses_events() {
    let report = row("K-2", "ack-first").await;
    assert!(!report.passed() && report.lost > 0, "{report:#?}");
}

async fn house(sabotage: &str) -> (House, Bus) {
    let mut house = House::new("[functions.misbehave]\nack_wait = \"1s\"\n").await;
    house.start("misbehave").await.stop().await;
    house.set("ONCUE_SABOTAGE", sabotage);
    let bus = house.bus().await;
    (house, bus)
}

/// An event older than the horizon cannot be proven new: its mark may be gone.
#[tokio::test]
async fn without_the_fence_an_event_that_is_too_old_is_applied() {
    for (sabotage, applied, dead) in [("nothing", "", 1), ("no-fence", "1", 0)] {
        let (house, bus) = house(sabotage).await;
        let store = house.store().await;
        let time = event::format_time(event::now_ms() - 73 * 3600 * 1000);
        let headers = [("ce-id", "old"), ("ce-time", &time)].map(|(n, v)| Header { name: n.into(), value: v.into() });
        let payload = br#"{"page":"/old"}"#.to_vec().into();
        let envelope = Envelope { subject: "web.page.viewed".into(), headers: headers.to_vec(), payload };
        bus.publish(&envelope).await.expect("taken");
        let _worker = house.spawn_faulty("misbehave", "");
        until("it is settled", async || {
            let settled =
                house.field(&store, "tallies", "/old", "count").await == "1" || house.count(&bus, "dlq").await == 1;
            settled.then_some(())
        })
        .await;
        assert_eq!(house.field(&store, "tallies", "/old", "count").await, applied, "{sabotage}");
        assert_eq!(house.count(&bus, "dlq").await, dead, "{sabotage}");
    }
}

/// The first run emits and its process dies before the commit; the second run, the one that counts, emits nothing.
#[tokio::test]
async fn publishing_first_publishes_what_never_became_true() {
    for (sabotage, published) in [("nothing", 0), ("publish-first", 1)] {
        let (house, bus) = house(sabotage).await;
        house.plain_publish([("web.page.viewed", r#"{"page":"/once","referrer":"emit-first"}"#.to_owned())]);
        house.spawn_faulty("misbehave", "handler.done=return(abort)").exit().await;
        let _worker = house.start("misbehave").await;
        house.drained(&bus, "web", "misbehave").await;
        let messages = house.messages(&bus, "web").await;
        let milestones = messages.iter().filter(|m| m.subject.starts_with("web.page.milestone")).count();
        assert_eq!(milestones, published, "{sabotage}");
        assert_eq!(house.field(&house.store().await, "tallies", "/once", "count").await, "1", "{sabotage}");
    }
}
