//! Schedules: listed with what they fired, fired by hand, paused and resumed.

use std::time::Duration;

use oncue_core::bus::PublishError;
use oncue_core::bus::layout::{Mode, ScheduleChange};
use oncue_core::config::Config;
use oncue_tests::cluster::{Cluster, named, until, wait_for};
use serde_json::{Value, json};

use super::{Console, TOKEN};

/// One for a function and one of a type of the app, and one that fires in a year.
const SCHEDULES: &str = "[functions.publish-trends]\n\
    [[schedule]]\nname = \"beat\"\nfunction = \"publish-trends\"\nevery = \"1s\"\n\
    [[schedule]]\nname = \"views\"\ntype = \"web.page.viewed\"\ndata = { page = \"/clock\", visitor = \"ann\" }\ncron = \"* * * * * *\"\n\
    [[schedule]]\nname = \"yearly\"\nfunction = \"publish-trends\"\ncron = \"@yearly\"\nzone = \"Asia/Kathmandu\"\n";
/// What an earlier file declared.
const OLD: &str = "[[schedule]]\nname = \"old\"\nfunction = \"publish-trends\"\nevery = \"1h\"\n";

struct Clockwork {
    console: Console,
    config: Config,
    cookie: String,
}

impl Clockwork {
    async fn open() -> Self {
        let console = Console::on(Cluster::new(SCHEDULES).await, Some(TOKEN), true).await;
        let config = console.cluster.config();
        let cookie = console.login().await;
        Self {
            console,
            config,
            cookie,
        }
    }

    async fn apply(&self, config: &Config) -> Vec<ScheduleChange> {
        let set = self.console.bus.ensure_schedules(config, Mode::Apply).await;
        set.expect("NATS takes them")
    }

    async fn one(&self, name: &str) -> Value {
        let path = format!("/api/schedules/{name}");
        self.console.get_as(&self.cookie, &path).await.ok_json()
    }

    async fn act(&self, name: &str, what: &str) -> oncue_tests::http::Answer {
        let path = format!("/api/schedules/{name}/{what}");
        self.console.post_as(&self.cookie, &path, &json!({})).await
    }

    /// Messages that a schedule has fired so far.
    async fn fired(&self, name: &str) -> usize {
        let bus = &self.console.bus;
        let scheduler = format!("timer.schedule.app.{name}");
        let all = self.console.cluster.messages(bus, "timer").await;
        let fired = all
            .iter()
            .filter(|message| message.header("Nats-Scheduler") == Some(&scheduler));
        fired.count()
    }
}

#[tokio::test]
async fn a_schedule_is_listed_with_its_next_and_last_firings() {
    let clockwork = Clockwork::open().await;
    let before = clockwork.one("beat").await;
    assert_eq!(
        (
            &before["standing"],
            &before["declared"],
            &before["function"]
        ),
        (&json!("missing"), &json!(true), &json!("publish-trends"))
    );
    let why = clockwork.act("beat", "pause").await.problem(409, "refused");
    assert!(why.contains("oncue apply"), "{why}");

    clockwork.apply(&clockwork.config).await;
    let named_old = format!("{SCHEDULES}{OLD}");
    let old = Config::parse(&named(&named_old), None, |_| None).expect("a file");
    clockwork.apply(&old).await;
    let all = until("they have fired", async || {
        let console = &clockwork.console;
        let all = console.get_as(&clockwork.cookie, "/api/schedules").await;
        let all = all.ok_json()["schedules"].as_array().cloned()?;
        let has_fired = |name: &str| {
            let one = all.iter().find(|one| one["name"] == name)?;
            (!one["runs"].as_array()?.is_empty()).then_some(())
        };
        has_fired("beat")?;
        has_fired("views")?;
        Some(all)
    })
    .await;
    let standing = all.iter().map(|one| {
        let [name, standing] = ["name", "standing"].map(|field| one[field].as_str());
        (name.unwrap_or_default(), standing.unwrap_or_default())
    });
    let standing: Vec<(&str, &str)> = standing.collect();
    let expected = [
        ("beat", "set"),
        ("old", "left_over"),
        ("views", "set"),
        ("yearly", "set"),
    ];
    assert_eq!(standing, expected);
    let yearly = clockwork.one("yearly").await;
    assert_eq!(yearly["next"].as_array().map(Vec::len), Some(8));
    let there = yearly["next"][0]["there"].as_str().unwrap_or_default();
    assert!(there.ends_with("-01-01 00:00:00 +05:45"), "{yearly}");
    assert_eq!(yearly["runs"], json!([]));

    // The flow that a firing began is that of its event in the stream of its type.
    let views = until("its last runs", async || {
        let views = clockwork.one("views").await;
        (views["runs"].as_array()?.len() >= 3).then_some(views)
    })
    .await;
    let flow = views["runs"][1]["flow"].as_str().expect("a flow");
    let path = format!("/api/flows/{flow}/events/{flow}");
    let event = clockwork.console.get_as(&clockwork.cookie, &path).await;
    let event = event.ok_json();
    assert_eq!(
        (&event["type"], &event["data"]["page"], &event["source"]),
        (
            &json!("web.page.viewed"),
            &json!("/clock"),
            &json!("/schedule")
        )
    );
    let times = views["runs"].as_array().cloned().unwrap_or_default();
    let times: Vec<u64> = times.iter().filter_map(|run| run["at"].as_u64()).collect();
    assert!(times.is_sorted_by(|a, b| a > b), "newest first: {times:?}");
    let console = &clockwork.console;
    let unknown = console
        .get_as(&clockwork.cookie, "/api/schedules/nobody")
        .await;
    unknown.problem(404, "not-found");
}

#[tokio::test]
async fn a_schedule_is_fired_by_hand_and_its_event_is_its_own() {
    let clockwork = Clockwork::open().await;
    clockwork.apply(&clockwork.config).await;
    let bus = &clockwork.console.bus;
    let sent = clockwork.act("yearly", "fire").await.ok_json();
    let sequence = sent["sequence"].as_u64().expect("a place");
    let fired = clockwork
        .console
        .cluster
        .message(bus, "timer", sequence)
        .await;
    let fired = fired.expect("in the stream it says");
    assert_eq!(fired.header("ce-source"), Some("/oncue/console"));
    assert_eq!(fired.header("ce-id"), sent["flow"].as_str());
    assert_eq!(
        fired.header("Nats-TTL"),
        Some("72h"),
        "the stream would keep it for ever"
    );
    // By the clock it has fired nothing.
    assert_eq!(clockwork.one("yearly").await["runs"], json!([]));
    // Paused or not: the hand is not the clock.
    clockwork.act("views", "pause").await.ok_json();
    let sent = clockwork.act("views", "fire").await.ok_json();
    assert_eq!(sent["stream"], "web");
    for what in ["fire", "pause", "resume"] {
        clockwork
            .act("nobody", what)
            .await
            .problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_paused_schedule_fires_nothing_whoever_starts_meanwhile() {
    let mut clockwork = Clockwork::open().await;
    clockwork.apply(&clockwork.config).await;
    wait_for("it fires", async || clockwork.fired("beat").await > 0).await;
    clockwork
        .act("resume", "resume")
        .await
        .problem(404, "not-found");
    clockwork
        .act("beat", "resume")
        .await
        .problem(409, "refused");
    clockwork.act("beat", "pause").await.ok_json();
    let before = clockwork.fired("beat").await;
    clockwork.act("beat", "pause").await.problem(409, "refused");
    let beat = clockwork.one("beat").await;
    assert_eq!(
        (&beat["standing"], &beat["next"], &beat["rule"]),
        (&json!("paused"), &json!([]), &json!("@every 1s"))
    );
    assert_eq!(beat["pause"]["by"], "ann@127.0.0.1");
    // Neither who applies the file again, nor a server that starts anew, makes it fire.
    let done = clockwork.apply(&clockwork.config).await;
    let paused = ScheduleChange::Paused("schedule beat @every 1s".to_owned());
    assert_eq!(done, [paused]);
    clockwork.console.cluster.restart_nats().await;
    let views = clockwork.fired("views").await;
    wait_for("the others fire", async || {
        clockwork.fired("views").await > views + 2
    })
    .await;
    assert_eq!(clockwork.fired("beat").await, before);
    clockwork.act("beat", "resume").await.ok_json();
    wait_for("it fires again", async || {
        clockwork.fired("beat").await > before
    })
    .await;
    assert_eq!(clockwork.one("beat").await["standing"], "set");
}

#[tokio::test]
async fn a_left_over_schedule_is_paused_and_nothing_else() {
    let clockwork = Clockwork::open().await;
    let old = Config::parse(&named(&format!("{SCHEDULES}{OLD}")), None, |_| None);
    clockwork.apply(&old.expect("a file")).await;
    assert_eq!(clockwork.one("old").await["standing"], "left_over");
    let why = clockwork.act("old", "fire").await.problem(409, "refused");
    assert!(why.contains("--prune"), "{why}");
    clockwork.act("old", "pause").await.ok_json();
    let left = clockwork.one("old").await;
    assert_eq!(
        (&left["standing"], &left["declared"], &left["pause"]["by"]),
        (&json!("left_over"), &json!(false), &json!("ann@127.0.0.1"))
    );
    clockwork.act("old", "resume").await.problem(409, "refused");
}

/// Between two who change a schedule at once the second one is refused: what it has read is not there any more.
#[tokio::test]
async fn a_schedule_that_has_changed_since_is_not_paused() {
    let clockwork = Clockwork::open().await;
    clockwork.apply(&clockwork.config).await;
    let bus = &clockwork.console.bus;
    let standing = bus.standing_schedules().await.expect("NATS");
    let read = standing.iter().find(|one| one.name == "yearly");
    let read = read.expect("it is there");
    let other = SCHEDULES.replace("@yearly", "@monthly");
    let other = Config::parse(&named(&other), None, |_| None).expect("a file");
    clockwork.apply(&other).await;
    let late = bus.pause_schedule(read, "bob").await;
    assert!(matches!(late, Err(PublishError::Outdated(_))), "{late:?}");
    let schedule = &clockwork.config.schedules[2];
    let late = bus.resume_schedule(schedule, read).await;
    assert!(matches!(late, Err(PublishError::Outdated(_))), "{late:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let now = clockwork.one("yearly").await;
    assert_eq!(
        (&now["standing"], &now["pause"]),
        (&json!("different"), &json!(null)),
        "it fires as the other one has set it"
    );
}

fn oncue(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    format!("{}: {text}", output.status.code().unwrap_or(-1))
}

#[tokio::test]
async fn the_command_line_does_the_same() {
    let clockwork = Clockwork::open().await;
    clockwork.apply(&clockwork.config).await;
    let cluster = &clockwork.console.cluster;
    for (args, said) in [
        (&["schedule", "pause", "beat"][..], "0: beat is paused"),
        (&["schedule", "pause", "beat"], "is paused already"),
        (&["schedule", "next", "beat"], "oncue schedule resume beat"),
        (&["apply"], "schedule beat @every 1s, paused"),
        (&["schedule", "fire", "beat"], "0: beat is fired"),
        (&["schedule", "resume", "beat"], "0: beat fires again"),
        (&["schedule", "resume", "beat"], "is not paused"),
        (&["schedule", "fire", "nobody"], "2: "),
    ] {
        let text = oncue(cluster, args);
        assert!(text.contains(said), "{args:?}: {text}");
    }
}
