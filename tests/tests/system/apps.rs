//! Two apps on one NATS and one Redis, with functions and tables of the same names: neither touches what is the other's.

use std::path::PathBuf;

use oncue_core::app::AppName;
use oncue_core::bus::{Bus, Slice};
use oncue_core::store::Store;
use oncue_proto::oncue::v1::Envelope;
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, must_fail, until};
use serde_json::{Value, json};

const SCHEDULE: &str = "[[schedule]]\nfunction = \"count-views\"\nevery = \"60s\"\n";
const VIEWS: u64 = 200;
const PAGES: u64 = 4;

/// A second app beside the one of the cluster.
struct Second {
    name: AppName,
    config: PathBuf,
}

impl Second {
    /// With `more` in its `oncue.toml`.
    fn new(cluster: &Cluster, name: &str, more: &str) -> Self {
        let folder = cluster.dir.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("oncue.toml");
        let text = format!(
            "[app]\nname = \"{name}\"\n[functions.count-views]\n{QUICK_REDELIVERY}\n{more}"
        );
        std::fs::write(&config, text).expect("written");
        Self {
            name: name.parse().expect("a name"),
            config,
        }
    }

    async fn start(&self, cluster: &Cluster, program: &str) -> Process {
        let config = self.config.display().to_string();
        let worker = cluster.spawn_with(program, &[], &[("ONCUE_CONFIG", config)]);
        worker.wait_for_line("ready").await;
        worker
    }

    fn oncue(&self, cluster: &Cluster, args: &[&str]) -> (i32, String) {
        let config = self.config.display().to_string();
        oncue(cluster, &[&["--config", config.as_str()], args].concat())
    }

    async fn store(&self, cluster: &Cluster) -> Store {
        let url = format!("redis://127.0.0.1:{}", cluster.redis_port);
        Store::connect(&url, &self.name).await.expect("Redis")
    }
}

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

async fn first(more: &str) -> Cluster {
    Cluster::new(&format!(
        "[functions.count-views]\n{QUICK_REDELIVERY}\n{more}"
    ))
    .await
}

fn view(n: u64) -> (&'static str, String) {
    let page = n % PAGES;
    (
        "web.page.viewed",
        format!(r#"{{"page":"/p{page}","visitor":"v{n}"}}"#),
    )
}

/// Sum of the views in the rows of an app.
async fn views(cluster: &Cluster, store: &Store) -> u64 {
    let mut sum = 0;
    for page in 0..PAGES {
        let views = cluster
            .field(store, "pages", &format!("/p{page}"), "views")
            .await;
        sum += views.parse::<u64>().unwrap_or_default();
    }
    sum
}

/// Both apps have counted everything, each for itself.
async fn both_count_all(cluster: &Cluster, stores: [&Store; 2], of: u64) {
    until("both have counted", async || {
        let [one, other] = stores;
        let counted = [views(cluster, one).await, views(cluster, other).await];
        assert!(counted.iter().all(|views| *views <= of), "{counted:?}");
        (counted == [of, of]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_apps_do_not_touch_each_other() {
    let cluster = first("").await;
    let _mine = cluster.start("count-views").await;
    let shop = Second::new(&cluster, "shop", "");
    let _theirs = shop.start(&cluster, "count-views").await;
    let bus = cluster.bus().await;
    let stores = [&cluster.store().await, &shop.store(&cluster).await];
    cluster.plain_publish((0..VIEWS).map(view));
    both_count_all(&cluster, stores, VIEWS).await;
    // An event that neither can read: a letter for each, and each sees its own.
    cluster.plain_publish([("web.page.viewed", "{".to_owned())]);
    for app in [AppName::default(), shop.name.clone()] {
        let bus = cluster.bus().await.of_app(&app);
        until("the letter is there", async || {
            let counts = oncue_admin::dead_letters::counts(&bus).await.ok()?;
            (counts.get("count-views") == Some(&1)).then_some(())
        })
        .await;
    }
    let (code, text) = shop.oncue(&cluster, &["dlq", "ls", "--json"]);
    let letters: Value =
        serde_json::from_str(text.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("count-views").count(), 1, "{letters}");
    // Dropping one leaves the other's.
    let drop = ["dlq", "drop", "--all", "--yes", "--why", "a test"];
    assert_eq!(shop.oncue(&cluster, &drop).0, 0);
    assert_eq!(letters_of(&bus).await, 1);
    assert_eq!(letters_of(&bus.clone().of_app(&shop.name)).await, 0);
    // Milestones of both are different events, though they follow from the same ones.
    let messages = cluster.messages(&bus, "web").await;
    let ids: std::collections::BTreeSet<String> = messages
        .iter()
        .filter(|message| message.subject.starts_with("web.page.milestone"))
        .map(|message| message.header("ce-id").expect("an id").to_owned())
        .collect();
    assert_eq!(ids.len() as u64, 2 * PAGES * (VIEWS / PAGES / 10));
    // Who is asked for workers tells of its own.
    for app in [AppName::default(), shop.name.clone()] {
        let bus = cluster.bus().await.of_app(&app);
        let gap = std::time::Duration::from_millis(300);
        let workers = bus.service_instances("$SRV.PING", gap).await;
        assert_eq!(workers.expect("answers").len(), 1, "{app}");
    }
}

async fn letters_of(bus: &Bus) -> u64 {
    let counts = oncue_admin::dead_letters::counts(bus)
        .await
        .expect("counts");
    counts.values().sum()
}

/// Streams that apps share are in the backup of each, which brings back its own part and leaves that of the other: after the loss
/// of everything in either order, and in place.
#[tokio::test]
async fn backups_of_two_apps_are_put_back_beside_each_other() {
    let cluster = first(SCHEDULE).await;
    let shop = Second::new(&cluster, "shop", SCHEDULE);
    assert_eq!(oncue(&cluster, &["apply"]).0, 0);
    assert_eq!(shop.oncue(&cluster, &["apply"]).0, 0);
    cluster.plain_publish([("web.page.viewed", "{".to_owned())]);
    let own = cluster.bus().await;
    let other = own.clone().of_app(&shop.name);
    let mut workers = [
        cluster.start("count-views").await,
        shop.start(&cluster, "count-views").await,
    ];
    until("a letter of each", async || {
        ((letters_of(&own).await, letters_of(&other).await) == (1, 1)).then_some(())
    })
    .await;
    for worker in &mut workers {
        worker.stop().await;
    }
    let dir = |name: &str| cluster.dir.join(name).display().to_string();
    let (code, text) = oncue(&cluster, &["backup", &dir("of-first")]);
    assert!(code == 0 && text.contains("shop_count-views"), "{text}");
    let (code, text) = shop.oncue(&cluster, &["backup", &dir("of-second")]);
    assert_eq!(code, 0, "{text}");
    let before = shared(&own).await;
    assert!(
        before.len() >= 8,
        "each has letters, schedules and values: {before:?}"
    );

    for is_first_first in [true, false] {
        crate::backup::lose_everything(&cluster, &own).await;
        for is_first in [is_first_first, !is_first_first] {
            let text = restore_one(&cluster, &shop, is_first);
            // Only what is its own came, and what was there stayed.
            let there = shared(&own).await;
            let is_whole = is_first != is_first_first;
            assert_eq!(there == before, is_whole, "{text}\n{there:?}");
        }
    }
    let replace = ["restore", &dir("of-second"), "--replace", "--yes"];
    let (code, text) = shop.oncue(&cluster, &replace);
    assert!(
        code == 0 && text.contains("beside those of other apps"),
        "{text}"
    );
    assert_eq!(shared(&own).await, before, "{text}");
    // Another app's consumer would go with the stream.
    let replace = ["restore", &dir("of-first"), "--replace", "--yes"];
    let (code, text) = oncue(&cluster, &replace);
    assert!(code != 0 && text.contains("nothing was removed"), "{text}");
    assert_eq!(shared(&own).await, before, "{text}");
}

/// An event that a schedule has fired comes once into the stream of its domain: what that had taken before does not come again, and
/// what it had no room for comes after the restore, whichever app's is the first.
#[tokio::test]
async fn what_is_due_comes_once_through_a_restore() {
    due_comes_once(2).await;
}

#[tokio::test]
async fn what_is_due_comes_to_a_stream_that_has_taken_nothing() {
    due_comes_once(0).await;
}

/// Goes on while a schedule fires: each firing is in the stream of its domain once, those during the restore as well.
#[tokio::test]
async fn a_schedule_goes_on_after_a_restore() {
    let cluster = first(
        "[[schedule]]\ntype = \"web.page.viewed\"\nevery = \"1s\"\ndata = { page = \"/due\", visitor = \"v\" }\n",
    )
    .await;
    assert_eq!(oncue(&cluster, &["apply"]).0, 0);
    let bus = cluster.bus().await;
    let taken_are = async |count: usize| {
        until("some are taken", async || {
            (taken(&bus).await.len() >= count).then_some(())
        })
        .await;
    };
    taken_are(2).await;
    let dir = cluster.dir.join("backup").display().to_string();
    assert_eq!(oncue(&cluster, &["backup", &dir]).0, 0);
    let before = taken(&bus).await.len();
    crate::backup::lose_everything(&cluster, &bus).await;
    let (code, text) = oncue(&cluster, &["restore", &dir]);
    assert_eq!(code, 0, "{text}");
    taken_are(before + 2).await;
    let fired = Slice {
        from: 1,
        since: None,
        subject: "timer.due.web.page.viewed",
        messages: 10_000,
        bytes: 0,
    };
    let fired = bus.read_slice("timer", &fired).await.expect("messages");
    // The last may be under way.
    until("all that was fired is taken", async || {
        let taken = taken(&bus).await;
        let mut once = fired.iter().map(|message| {
            let sequence = message.sequence.to_string();
            taken.iter().filter(|one| **one == sequence).count()
        });
        once.all(|count| count == 1).then_some(())
    })
    .await;
    let all = taken(&bus).await;
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "{all:?}");
}

async fn due_comes_once(taken_before: usize) {
    let fired = "[streams.web]\nmax_bytes = \"1MiB\"\n[[schedule]]\ntype = \"web.page.viewed\"\nevery = \"1s\"\n\
                 data = { page = \"/due\", visitor = \"v\" }\n";
    let cluster = first(fired).await;
    let shop = Second::new(&cluster, "shop", SCHEDULE);
    assert_eq!(oncue(&cluster, &["apply"]).0, 0);
    assert_eq!(shop.oncue(&cluster, &["apply"]).0, 0);
    let bus = cluster.bus().await;
    until("some are taken", async || {
        (taken(&bus).await.len() >= taken_before).then_some(())
    })
    .await;
    // No room for those that come now.
    let large = Envelope {
        subject: "web.page.viewed".to_owned(),
        payload: format!(
            r#"{{"page":"/","visitor":"v","referrer":"{}"}}"#,
            "x".repeat(60_000)
        )
        .into(),
        ..Envelope::default()
    };
    while bus.publish(&large).await.is_ok() {}
    let small = Envelope {
        payload: format!(
            r#"{{"page":"/","visitor":"v","referrer":"{}"}}"#,
            "x".repeat(200)
        )
        .into(),
        ..large
    };
    while bus.publish(&small).await.is_ok() {}
    let due = async || {
        let subjects = bus.stream_subjects("timer", "timer.due.>").await;
        subjects.expect("subjects").values().sum::<u64>()
    };
    until("two are due that it has not taken", async || {
        (due().await >= taken(&bus).await.len() as u64 + 2).then_some(())
    })
    .await;
    let stopped = bus
        .api(
            "STREAM.PURGE.timer",
            &json!({ "filter": "timer.schedule.app.>" }),
        )
        .await;
    stopped.expect("it fires no more");
    let before = taken(&bus).await;
    let open = due().await - before.len() as u64;
    assert!(
        open >= 2 && before.len() >= taken_before,
        "{open} {before:?}"
    );
    assert!(taken_before > 0 || before.is_empty(), "{before:?}");
    let dir = |name: &str| cluster.dir.join(name).display().to_string();
    let (code, text) = oncue(&cluster, &["backup", &dir("of-first")]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = shop.oncue(&cluster, &["backup", &dir("of-second")]);
    assert_eq!(code, 0, "{text}");

    for is_first_first in [true, false] {
        crate::backup::lose_everything(&cluster, &bus).await;
        for is_first in [is_first_first, !is_first_first] {
            restore_one(&cluster, &shop, is_first);
        }
        assert_eq!(taken(&bus).await, before, "what it had");
        let made = bus.api("STREAM.PURGE.web", &Value::Null).await;
        made.expect("room");
        until("what was due comes", async || {
            (taken(&bus).await.len() as u64 >= open).then_some(())
        })
        .await;
        // Each of them once, and none of those from before.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(taken(&bus).await.len() as u64, open);
    }
}

/// Sequences of `timer` from which events of `web` have come.
async fn taken(bus: &Bus) -> Vec<String> {
    let all = Slice {
        from: 1,
        since: None,
        subject: "web.page.viewed",
        messages: 10_000,
        bytes: 0,
    };
    let stored = bus.read_slice("web", &all).await.expect("messages");
    let sources = stored
        .iter()
        .filter_map(|message| message.header("Nats-Stream-Source"));
    let sequences = sources.filter_map(|source| source.split(' ').nth(1));
    sequences.map(str::to_owned).collect()
}

/// Puts the backup of one of both apps back; returns what was said.
fn restore_one(cluster: &Cluster, shop: &Second, is_first: bool) -> String {
    let name = if is_first { "of-first" } else { "of-second" };
    let dir = cluster.dir.join(name).display().to_string();
    let (code, text) = if is_first {
        oncue(cluster, &["restore", &dir])
    } else {
        shop.oncue(cluster, &["restore", &dir])
    };
    assert_eq!(code, 0, "{text}");
    text
}

/// Subjects of the streams that apps share, with their numbers of messages.
async fn shared(bus: &Bus) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for stream in ["dlq", "timer", "KV_oncue"] {
        let subjects = bus.stream_subjects(stream, ">").await.expect(stream);
        // A schedule may fire meanwhile.
        let lasting = subjects
            .into_iter()
            .filter(|(subject, _)| !subject.contains(".fired"));
        all.extend(lasting);
    }
    all
}

/// Twin: without names of their own they are one app, and share what they count.
#[tokio::test]
async fn two_apps_of_one_name_are_found_out() {
    let cluster = first("").await;
    let _mine = cluster.start("count-views").await;
    let same = Second::new(&cluster, "app", "");
    let _theirs = same.start(&cluster, "count-views").await;
    // Both read the same rows: the check that holds for two apps must not hold here, or it proves nothing.
    let store = cluster.store().await;
    cluster.plain_publish((0..VIEWS).map(view));
    until("all is counted", async || {
        (views(&cluster, &store).await == VIEWS).then_some(())
    })
    .await;
    let bus = cluster.bus().await;
    let consumers = bus.consumers("web").await.expect("consumers");
    let said = must_fail("two apps, two consumers", async {
        assert_eq!(consumers.len(), 2);
    })
    .await;
    assert!(said.contains("left: 1"), "{said}");
}

/// `apply`, with all it may do, changes and removes nothing of another app.
#[tokio::test]
async fn an_app_changes_only_its_own() {
    let cluster = first(SCHEDULE).await;
    let (code, text) = oncue(&cluster, &["apply"]);
    assert_eq!(code, 0, "{text}");
    // Another wish about the same stream, and no schedule.
    let shop = Second::new(&cluster, "shop", "[streams.web]\nmax_bytes = \"8MiB\"\n");
    let (code, text) = shop.oncue(&cluster, &["apply", "--prune"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(". stream web: of app app, left as it is"),
        "{text}"
    );
    assert!(text.contains("+ consumer web/shop_count-views"), "{text}");
    assert!(!text.contains("schedule"), "{text}");
    let (code, text) = oncue(&cluster, &["apply", "--dry-run"]);
    assert_eq!(code, 0, "nothing has changed for the first: {text}");
    let bus = cluster.bus().await;
    let web = bus.stream_info("web").await.expect("a stream");
    assert_eq!(web.config.max_bytes, 1 << 30);

    // What is left over of an app's own is told of, and goes when somebody asks for it.
    std::fs::write(cluster.dir.join("oncue.toml"), "[app]\nname = \"app\"\n").expect("written");
    let (code, text) = oncue(&cluster, &["apply"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("? schedule timer.schedule.app.count-views: not in oncue.toml"),
        "{text}"
    );
    assert!(
        text.contains("? consumer web/app_count-views: no function of oncue.toml"),
        "{text}"
    );
    let (_, text) = oncue(&cluster, &["apply", "--prune"]);
    assert!(
        text.contains("- schedule timer.schedule.app.count-views"),
        "{text}"
    );
    let (code, text) = oncue(&cluster, &["remove", "count-views", "--yes"]);
    assert_eq!(code, 0, "{text}");
    let (_, text) = oncue(&cluster, &["apply"]);
    assert!(!text.contains('?'), "{text}");
    let consumers = bus.consumers("web").await.expect("consumers");
    let names: Vec<&str> = consumers.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["shop_count-views"]);
}

/// The broken twin: an app that goes by the name of the first takes away what it does not know of.
#[tokio::test]
async fn an_app_of_the_same_name_prunes_the_other() {
    let cluster = first(SCHEDULE).await;
    assert_eq!(oncue(&cluster, &["apply"]).0, 0);
    let same = Second::new(&cluster, "app", "");
    let (code, text) = same.oncue(&cluster, &["apply", "--prune"]);
    assert_eq!(code, 0, "{text}");
    let said = must_fail("the schedule is gone", async {
        let (code, text) = oncue(&cluster, &["apply", "--dry-run"]);
        assert_eq!(code, 0, "nothing has changed for the first: {text}");
    })
    .await;
    assert!(said.contains("+ schedule count-views"), "{said}");
}

/// A stream that oncue.toml says is another app's is not made here.
#[tokio::test]
async fn a_stream_of_another_app_is_waited_for() {
    let cluster = first("").await;
    let shop = Second::new(&cluster, "shop", "[streams.web]\napp = \"app\"\n");
    let config = shop.config.display().to_string();
    let mut early = cluster.spawn_with("count-views", &[], &[("ONCUE_CONFIG", config)]);
    assert_eq!(early.exit().await, Some(1));
    assert!(early.log().contains("stream web"), "{}", early.log());
    let _mine = cluster.start("count-views").await;
    cluster.apply_with(
        "count-views",
        &[("ONCUE_CONFIG", shop.config.display().to_string())],
    );
    let _theirs = shop.start(&cluster, "count-views").await;
}

/// Removing a function loses nothing unasked, and leaves rows and letters.
#[tokio::test]
async fn a_function_is_removed_on_purpose() {
    let cluster = first("").await;
    let mut worker = cluster.start("count-views").await;
    cluster.plain_publish((0..VIEWS).map(view));
    let store = cluster.store().await;
    until("all is counted", async || {
        (views(&cluster, &store).await == VIEWS).then_some(())
    })
    .await;
    let (code, text) = oncue(&cluster, &["remove", "count-views", "--yes"]);
    assert!(code == 1 && text.contains("runs in 1 processes"), "{text}");
    worker.stop().await;
    cluster.plain_publish((0..3).map(view));
    let (code, text) = oncue(&cluster, &["remove", "count-views", "--yes"]);
    assert!(
        code == 1 && text.contains("3 events wait for count-views"),
        "{text}"
    );
    let (code, text) = oncue(&cluster, &["remove", "count-views", "--yes", "--discard"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Rows of the table pages stay"), "{text}");
    assert_eq!(views(&cluster, &store).await, VIEWS);
    assert!(store.functions().await.expect("functions").is_empty());
    let kept = cluster.redis_cli(&["TTL", "app:d:count-views"]);
    assert!(
        kept.parse::<i64>().is_ok_and(|seconds| seconds > 70 * 3600),
        "{kept}"
    );
    // It comes back, and hears again all that its stream holds: only those that it had not applied count.
    assert_eq!(oncue(&cluster, &["apply"]).0, 0);
    let mut worker = cluster.start("count-views").await;
    until("those that waited are counted", async || {
        (views(&cluster, &store).await >= VIEWS + 3).then_some(())
    })
    .await;
    cluster
        .drained(&cluster.bus().await, "web", "count-views")
        .await;
    assert_eq!(views(&cluster, &store).await, VIEWS + 3);
    assert_eq!(cluster.redis_cli(&["TTL", "app:d:count-views"]), "-1");
    worker.stop().await;
    let (code, text) = oncue(&cluster, &["remove", "count-views", "--yes", "--forget"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(cluster.redis_cli(&["EXISTS", "app:d:count-views"]), "0");
    let (code, text) = oncue(&cluster, &["remove", "count-views", "--yes"]);
    assert!(
        code == 1 && text.contains("has no function count-views"),
        "{text}"
    );
}

/// What changes an app needs to know which.
#[tokio::test]
async fn without_a_file_nothing_is_changed() {
    let cluster = first("").await;
    let empty = cluster.dir.join("empty");
    std::fs::create_dir_all(&empty).expect("a folder");
    let run = |args: &[&str]| {
        let program = oncue_tests::cluster::built("oncue");
        let mut command = std::process::Command::new(program);
        command.args(args).current_dir(&empty);
        for (name, value) in cluster.env().filter(|(name, _)| name != "ONCUE_CONFIG") {
            command.env(name, value);
        }
        let output = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    // The nearest one above is the cluster's own.
    assert_eq!(run(&["apply", "--dry-run"]).0, Some(3));
    std::fs::remove_file(cluster.dir.join("oncue.toml")).expect("removed");
    for args in [
        &["apply"][..],
        &["remove", "count-views", "--yes"],
        &["recover", "nats", "--yes"],
        &["dlq", "drop", "--all", "--yes", "--why", "x"],
        &["up"],
    ] {
        let (code, text) = run(args);
        assert!(
            code == Some(2) && text.contains("there is no oncue.toml here"),
            "{args:?}: {text}"
        );
    }
    assert_ne!(run(&["ps"]).0, Some(2), "who only looks may");
    // A file that does not say whose it is, is none.
    std::fs::write(empty.join("oncue.toml"), "[streams.web]\n").expect("written");
    let (code, text) = run(&["apply"]);
    assert!(
        code == Some(2) && text.contains("[app] name is missing"),
        "{text}"
    );
}

/// What comes to nobody is told of: events of a mistyped type, a function whose consumer is paused, a schedule of nobody.
#[tokio::test]
async fn what_is_heard_by_nobody_is_told_of() {
    let cluster = first("").await;
    let _worker = cluster.start("count-views").await;
    let bus = cluster.bus().await;
    let (_, text) = oncue(&cluster, &["doctor"]);
    assert!(
        !text.contains("viewd") && !text.contains("paused"),
        "{text}"
    );
    cluster.plain_publish([("web.page.viewd", r#"{"page":"/","visitor":"v"}"#.to_owned())]);
    let pause = serde_json::json!({ "pause_until": "2100-01-01T00:00:00Z" });
    let paused = bus.api("CONSUMER.PAUSE.web.app_count-views", &pause).await;
    paused.expect("paused");
    let rogue = oncue_core::bus::Outbound {
        subject: "timer.schedule.rogue".to_owned(),
        headers: [
            ("Nats-Schedule", "@every 1h"),
            ("Nats-Schedule-Target", "timer.due.web.page.viewed"),
        ]
        .into_iter()
        .collect(),
        payload: "{}".into(),
    };
    let published = bus.publish_each(vec![rogue]).await.remove(0);
    published.expect("stored");
    let (code, text) = oncue(&cluster, &["doctor"]);
    assert_ne!(code, 0, "{text}");
    for part in [
        "1 events of the type web.page.viewd",
        "the consumer of count-views on web is paused",
        "timer.schedule.rogue fires, and is of no app",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (_, text) = oncue(&cluster, &["ps"]);
    assert!(text.contains("paused"), "{text}");
    let (code, text) = oncue(&cluster, &["map", "--drift"]);
    assert!(
        code != 0 && text.contains("web.page.viewd, which somebody has published"),
        "{text}"
    );
    assert!(!text.contains("not used for"), "a young app: {text}");
}

/// Flows know who listens from `apply` on: one that begins before a function has ever run waits for it.
#[tokio::test]
async fn a_function_that_never_ran_is_waited_for() {
    let cluster = first("").await;
    let listeners = || cluster.redis_cli(&["SMEMBERS", "app:l:web.page.viewed"]);
    assert_eq!(listeners(), "");
    let (code, text) = oncue(&cluster, &["apply", "--dry-run"]);
    assert!(
        code == 3 && listeners().is_empty(),
        "looking changes nothing: {text}"
    );
    assert_eq!(oncue(&cluster, &["apply"]).0, 0);
    assert_eq!(listeners(), "count-views");
    assert_eq!(oncue(&cluster, &["remove", "count-views", "--yes"]).0, 0);
    assert_eq!(listeners(), "", "what has left is not waited for");
}

/// A stream that is nearly full gives back what everybody is done with, before its time, and says so.
#[tokio::test]
async fn space_that_is_short_is_given_back() {
    let cluster = first("[streams.web]\nmax_bytes = \"128KiB\"\nreserve = \"64KiB\"\n").await;
    let _worker = cluster.start("count-views").await;
    let bus = cluster.bus().await;
    let long = |n: u64| {
        let visitor = format!("{n}-{}", "x".repeat(2000));
        (
            "web.page.viewed",
            serde_json::json!({ "page": "/p0", "visitor": visitor }).to_string(),
        )
    };
    cluster.plain_publish((0..45).map(long));
    cluster.drained(&bus, "web", "count-views").await;
    assert!(bus.stream_info("web").await.expect("a stream").state.bytes > 64 << 10);
    let tend = cluster.spawn("oncue", &["tend"]);
    until("space is given back", async || {
        let info = bus.stream_info("web").await.ok()?;
        (info.state.bytes < 32 << 10).then_some(())
    })
    .await;
    tend.wait_for_line("is nearly full: purged").await;
}
