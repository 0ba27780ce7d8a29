//! `oncue up` runs as many workers as there is work for, and none where there is none.

use oncue_tests::cluster::{Cluster, Process, SMALL_STREAMS, free_port, until};
use oncue_tests::events::told;
use serde_json::{Value, json};

/// A cluster for `oncue up`.
async fn small_cluster(functions: &str) -> Cluster {
    Cluster::new(&format!("{SMALL_STREAMS}{functions}")).await
}

/// What `oncue ps --json` says of a function.
fn ps(cluster: &Cluster, function: &str) -> Value {
    let output = cluster.output("oncue", &["ps", "--json"]);
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    lines
        .into_iter()
        .find(|line| line["function"] == function)
        .unwrap_or_default()
}

pub async fn until_asleep(cluster: &Cluster, function: &str) {
    until(&format!("{function} is asleep"), async || {
        (ps(cluster, function)["state"] == "asleep").then_some(())
    })
    .await;
    let line = ps(cluster, function);
    assert_eq!(
        (&line["replicas"], &line["instances"]),
        (&json!(0), &json!([])),
        "asleep is no process at all"
    );
}

/// How often `oncue up` has said something.
fn times(up: &Process, what: &str) -> usize {
    up.log().matches(what).count()
}

#[tokio::test]
async fn up_on_lag_down_when_idle_to_zero_and_woken_again() {
    let mut cluster =
        small_cluster("[functions.misbehave]\nmin = 0\nmax = 3\nidle = \"2s\"\nconcurrency = 1\n[functions.record]\n")
            .await;
    let mut up = cluster.up().await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    until_asleep(&cluster, "misbehave").await;
    let record = ps(&cluster, "record");
    assert_eq!(
        (&record["state"], &record["min"], &record["max"]),
        (&json!("running"), &json!(1), &json!(1))
    );
    assert_eq!(ps(&cluster, "misbehave")["max"], 3);

    cluster.plain_publish((0..40).map(|n| told(&format!("/a{n}"), "slow:250")));
    up.wait_for_line("-> 3 workers").await;
    cluster.drained(&bus, "web", "misbehave").await;
    up.wait_for_line("workers, asleep").await;
    until_asleep(&cluster, "misbehave").await;
    assert_eq!(
        times(&up, "misbehave is woken by web.page.viewed"),
        1,
        "{}",
        up.log()
    );

    cluster.plain_publish([told("/again", "")]);
    until("woken again", async || {
        (times(&up, "misbehave is woken by") == 2).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    for page in (0..40)
        .map(|n| format!("/a{n}"))
        .chain(["/again".to_owned()])
    {
        assert_eq!(
            cluster.field(&store, "tallies", &page, "count").await,
            "1",
            "{page}"
        );
    }
    let info = bus
        .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
        .await
        .expect("a consumer");
    assert_eq!(
        info["delivered"]["consumer_seq"], 41,
        "nothing was given twice, so nothing was cut off"
    );
    assert_eq!(times(&up, "-> 4 workers"), 0, "{}", up.log());
    assert_eq!(up.stop().await, Some(0), "{}", up.log());
}

/// What came before anybody listened, and what no plain subscription hears: an event that was due.
#[tokio::test]
async fn events_that_come_another_way_wake_as_well() {
    let functions =
        ["misbehave", "record"].map(|name| format!("[functions.{name}]\nmin = 0\nidle = \"2s\"\n"));
    let mut cluster = small_cluster(&functions.concat()).await;
    assert!(cluster.output("oncue", &["apply"]).status.success());
    cluster.plain_publish([told("/later", "later:4000")]);
    let mut up = cluster.up().await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    until("the second stage has it", async || {
        (cluster.field(&store, "records", "/later", "count").await == "1").then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "record").await;
    for name in ["misbehave", "record"] {
        assert!(
            times(&up, &format!("{name} 0 -> 1 workers")) >= 1,
            "{}",
            up.log()
        );
        assert_eq!(
            times(&up, &format!("{name} is woken by")),
            0,
            "{}",
            up.log()
        );
        until_asleep(&cluster, name).await;
    }
    assert_eq!(up.stop().await, Some(0));
}

/// A server that was started anew has forgotten who listened.
#[tokio::test]
async fn a_sleeper_outlives_nats() {
    let mut cluster = small_cluster("[functions.misbehave]\nmin = 0\nidle = \"2s\"\n").await;
    let mut up = cluster.up().await;
    until_asleep(&cluster, "misbehave").await;
    cluster.nats.kill();
    cluster.restart_nats().await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    cluster.plain_publish([told("/after", "")]);
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(
        cluster.field(&store, "tallies", "/after", "count").await,
        "1"
    );
    until_asleep(&cluster, "misbehave").await;
    cluster.plain_publish([told("/later", "")]);
    until("heard again", async || {
        up.log().contains("woken by web.page.viewed").then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(up.stop().await, Some(0));
}

#[tokio::test]
async fn a_busy_worker_is_not_the_one_that_goes() {
    let config =
        "[functions.misbehave]\nmax = 2\nidle = \"1s\"\nconcurrency = 1\ntimeout = \"30s\"\n";
    let mut cluster = small_cluster(config).await;
    let mut up = cluster.up().await;
    let bus = cluster.bus().await;
    // The first worker has the short one, so that the second, the last to come, has the long one.
    cluster.plain_publish([told("/short", "slow:2500"), told("/long", "slow:12000")]);
    up.wait_for_line("1 -> 2 workers").await;
    up.wait_for_line("2 -> 1 workers").await;
    up.wait_for_line("INFO stopping in_flight=").await;
    assert_eq!(
        times(&up, "INFO stopping in_flight=0"),
        1,
        "the wrong one was chosen: {}",
        up.log()
    );
    let info = bus
        .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
        .await
        .expect("a consumer");
    assert_eq!(
        info["num_ack_pending"], 1,
        "the long one is in hand, or this shows nothing"
    );
    cluster.drained(&bus, "web", "misbehave").await;
    let info = bus
        .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
        .await
        .expect("a consumer");
    assert_eq!(
        info["delivered"]["consumer_seq"],
        2,
        "each was given once: {}",
        up.log()
    );
    assert_eq!(up.stop().await, Some(0));
}

/// Scaling and starting again what dies do not get into each other's way.
#[tokio::test]
async fn a_worker_that_dies_is_started_again_and_sleeps_in_the_end() {
    let config = "[functions.misbehave]\nmin = 0\nmax = 3\nidle = \"2s\"\nconcurrency = 1\nack_wait = \"1s\"\n";
    let mut cluster = small_cluster(config).await;
    let mut up = cluster.up().await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    cluster.plain_publish([told("/bad", "abort")]);
    cluster.plain_publish((0..10).map(|n| told(&format!("/good{n}"), "slow:100")));
    until("it is set aside", async || {
        (cluster.count(&bus, "dlq").await == 1).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    for n in 0..10 {
        assert_eq!(
            cluster
                .field(&store, "tallies", &format!("/good{n}"), "count")
                .await,
            "1"
        );
    }
    assert_eq!(
        times(&up, "starting it again"),
        3,
        "one end for each attempt: {}",
        up.log()
    );
    until_asleep(&cluster, "misbehave").await;
    assert!(up.is_alive());
    assert_eq!(up.stop().await, Some(0));
}

#[tokio::test]
async fn ps_works_without_up() {
    let cluster = small_cluster("[functions.misbehave]\nmin = 0\nmax = 2\n").await;
    let output = cluster.output("oncue", &["ps", "--json"]);
    assert_eq!(output.status.code(), Some(4), "nobody answers");
    let _worker = cluster.start("misbehave").await;
    let line = ps(&cluster, "misbehave");
    assert_eq!(
        (&line["state"], &line["replicas"]),
        (&json!("running"), &json!(1))
    );
    let line = ps(
        &small_cluster("[functions.misbehave]\nmin = 0\n").await,
        "misbehave",
    );
    assert_eq!(line["state"], "stopped", "nobody there who would wake it");
}

/// What a function's process has in its environment, by the name of the function.
fn environment(cluster: &Cluster, function: &str) -> Vec<String> {
    let line = ps(cluster, function);
    let instance = line["instances"][0].as_str().expect("an instance");
    let pid = instance.rsplit('-').next().expect("a process id");
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).expect("it runs");
    let variables = bytes.split(|byte| *byte == 0);
    variables
        .map(|variable| String::from_utf8_lossy(variable).into_owned())
        .filter(|variable| !variable.is_empty())
        .collect()
}

/// A function sees the servers, what is its own, and no secret of anybody else.
#[tokio::test]
async fn a_function_sees_no_secret_of_others() {
    let functions = "[functions.misbehave]\ninherit = [\"OWN_SECRET\"]\n[functions.record]\nenv = { COLOUR = \"blue\" }\n";
    let mut cluster = small_cluster(functions).await;
    cluster.set("OWN_SECRET", "one");
    cluster.set("ONCUE_CONSOLE_TOKEN", &"t".repeat(40));
    let mut up = cluster.up().await;
    for (function, has) in [("misbehave", "OWN_SECRET=one"), ("record", "COLOUR=blue")] {
        let found = environment(&cluster, function);
        let is_there = |start: &str| found.iter().any(|variable| variable.starts_with(start));
        assert!(
            is_there(has) && is_there("ONCUE_NATS_URL=") && is_there("PATH="),
            "{found:?}"
        );
        assert!(!is_there("ONCUE_CONSOLE_TOKEN"), "{found:?}");
        assert_eq!(is_there("OWN_SECRET"), function == "misbehave", "{found:?}");
        assert!(!is_there("CARGO_"), "of this test's own: {found:?}");
    }
    assert_eq!(up.stop().await, Some(0));
}

fn scale(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.output("oncue", &[&["scale"], args].concat());
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    format!("{}: {text}", output.status.code().unwrap_or(-1))
}

async fn until_replicas(cluster: &Cluster, count: u64) {
    until(&format!("{count} workers"), async || {
        (ps(cluster, "misbehave")["replicas"] == count).then_some(())
    })
    .await;
}

/// Bounds that somebody sets hold at once, over a restart of `oncue up`, and until they are taken away; workers that are too many lose
/// nothing of what they have in flight.
#[tokio::test]
async fn bounds_that_are_set_hold_until_they_are_taken_away() {
    let mut cluster =
        small_cluster("[functions.misbehave]\nconcurrency = 1\n[functions.record]\n").await;
    let mut up = cluster.up().await;
    until_replicas(&cluster, 1).await;
    for (args, said) in [
        (&["nobody", "--max", "2", "--reason", "x"][..], "2: "),
        (&["misbehave", "--reason", "x"], "say --min"),
        (&["misbehave", "--max", "2"], "--reason"),
        (&["misbehave", "--max", "0", "--reason", "x"], "2: "),
        (
            &["misbehave", "--min", "3", "--max", "2", "--reason", "x"],
            "more than max",
        ),
        (
            &["misbehave", "--max", "257", "--reason", "x"],
            "more than 256",
        ),
    ] {
        let text = scale(&cluster, args);
        assert!(text.contains(said), "{args:?}: {text}");
    }
    let text = scale(&cluster, &["misbehave", "--min", "3", "--reason", "a sale"]);
    assert!(
        text.starts_with("0: ") && text.contains("3 to 3 workers"),
        "{text}"
    );
    until_replicas(&cluster, 3).await;
    let line = ps(&cluster, "misbehave");
    assert_eq!(
        (&line["min"], &line["max"], &line["set_bounds"]["reason"]),
        (&json!(3), &json!(3), &json!("a sale"))
    );
    assert_eq!(ps(&cluster, "record")["set_bounds"], Value::Null);
    let shown = cluster.output("oncue", &["ps"]);
    let shown = [shown.stdout, shown.stderr].concat();
    assert!(String::from_utf8_lossy(&shown).contains("oncue scale misbehave --reset"));
    assert_eq!(up.stop().await, Some(0));

    // They are known before the first worker starts.
    let mut up = cluster.up().await;
    up.wait_for_line("misbehave has 3 to 3 workers").await;
    until_replicas(&cluster, 3).await;

    // Fewer, while all of them are busy: what they have in flight is done once.
    let bus = cluster.bus().await;
    cluster.plain_publish((0..30).map(|n| told(&format!("/s{n}"), "slow:400")));
    up.wait_for_line("ready in").await;
    let text = scale(
        &cluster,
        &[
            "misbehave",
            "--min",
            "1",
            "--max",
            "1",
            "--reason",
            "enough",
        ],
    );
    assert!(text.starts_with("0: "), "{text}");
    up.wait_for_line("3 -> 1 workers: no more are allowed")
        .await;
    until_replicas(&cluster, 1).await;
    cluster.drained(&bus, "web", "misbehave").await;
    let store = cluster.store().await;
    for n in 0..30 {
        let page = format!("/s{n}");
        assert_eq!(
            cluster.field(&store, "tallies", &page, "count").await,
            "1",
            "{page}"
        );
    }
    let info = bus.consumer_info("web", "misbehave").await;
    let delivered = info.expect("a consumer").delivered.consumer_seq;
    assert_eq!(
        delivered, 30,
        "nothing was given twice, so nothing was cut off"
    );
    let text = scale(
        &cluster,
        &["misbehave", "--max", "2", "--min", "2", "--reason", "more"],
    );
    assert!(text.starts_with("0: "), "{text}");
    until_replicas(&cluster, 2).await;
    let text = scale(&cluster, &["misbehave", "--reset"]);
    assert!(text.starts_with("0: "), "{text}");
    up.wait_for_line("as oncue.toml says").await;
    until_replicas(&cluster, 1).await;
    assert_eq!(ps(&cluster, "misbehave")["set_bounds"], Value::Null);
    assert_eq!(up.stop().await, Some(0));
}

/// `oncue up` as on another machine: with a folder for data and a gateway of its own.
async fn up_elsewhere(cluster: &mut Cluster, machine: &str) -> Process {
    let gateway = format!("127.0.0.1:{}", free_port());
    cluster.set("ONCUE_GATEWAY_LISTEN", &gateway);
    let data = cluster.dir.join(machine);
    let data = data.to_str().expect("a path");
    let process = cluster.spawn("oncue", &["up", "--data", data]);
    process.wait_for_line("Ctrl-C finishes").await;
    process
}

/// Bounds count on each machine: every `oncue up` of the app takes them, also one that comes later.
#[tokio::test]
async fn bounds_hold_on_each_machine() {
    let mut cluster = small_cluster("[functions.misbehave]\n").await;
    let mut first = cluster.up().await;
    let mut second = up_elsewhere(&mut cluster, "second").await;
    until_replicas(&cluster, 2).await;
    let more = ["misbehave", "--min", "2", "--max", "2", "--reason", "more"];
    let text = scale(&cluster, &more);
    assert!(text.starts_with("0: "), "{text}");
    until_replicas(&cluster, 4).await;
    let mut third = up_elsewhere(&mut cluster, "third").await;
    until_replicas(&cluster, 6).await;
    let bus = cluster.bus().await;
    cluster.plain_publish((0..60).map(|n| told(&format!("/s{n}"), "slow:50")));
    assert_eq!(third.stop().await, Some(0), "{}", third.log());
    let text = scale(&cluster, &["misbehave", "--reset"]);
    assert!(text.starts_with("0: "), "{text}");
    until_replicas(&cluster, 2).await;
    cluster.drained(&bus, "web", "misbehave").await;
    let store = cluster.store().await;
    for n in 0..60 {
        let page = format!("/s{n}");
        let count = cluster.field(&store, "tallies", &page, "count").await;
        assert_eq!(count, "1", "{page}");
    }
    for up in [&mut first, &mut second] {
        assert_eq!(up.stop().await, Some(0), "{}", up.log());
    }
}

/// Folder with the programs that `oncue up` of these functions needs, so that one of them can be replaced.
fn programs(cluster: &Cluster, functions: &[&str]) -> std::path::PathBuf {
    let folder = cluster.dir.join("bin");
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in [&["oncue-gateway", "oncue-console"], functions].concat() {
        std::fs::copy(oncue_tests::cluster::built(name), folder.join(name)).expect("copied");
    }
    folder
}

fn pids(cluster: &Cluster, function: &str) -> Vec<String> {
    let line = ps(cluster, function);
    let instances = line["instances"].as_array().cloned().unwrap_or_default();
    let ids = instances.iter().filter_map(Value::as_str);
    let mut ids: Vec<String> = ids.map(str::to_owned).collect();
    ids.sort();
    ids
}

fn restart(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let output = cluster.output("oncue", &[&["restart"], args].concat());
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// A program that says what it is and then ends keeps no other function from being woken, scaled and restarted; and one that sleeps
/// is not removed under an `oncue up` that would wake it.
#[tokio::test]
async fn one_function_that_never_gets_ready_holds_up_no_other() {
    let mut cluster = small_cluster(
        "[functions.count-views]\n[functions.rank-pages]\nmin = 0\n[functions.record]\n",
    )
    .await;
    let bin = programs(&cluster, &["rank-pages", "record"]);
    let real = oncue_tests::cluster::built("count-views");
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in --*) exec {} \"$@\";; esac\nexit 1\n",
        real.display()
    );
    let broken = bin.join("count-views");
    std::fs::write(&broken, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&broken, mode).expect("executable");
    cluster.set("ONCUE_BIN_DIR", &bin.display().to_string());
    let gateway = format!("127.0.0.1:{}", free_port());
    cluster.set("ONCUE_GATEWAY_LISTEN", &gateway);
    cluster.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let up = cluster.spawn("oncue", &["up"]);
    until_asleep(&cluster, "rank-pages").await;
    let removed = cluster.output("oncue", &["remove", "rank-pages", "--yes"]);
    let text = String::from_utf8_lossy(&removed.stderr).into_owned();
    assert!(
        !removed.status.success() && text.contains("sleeps"),
        "{text}"
    );
    let milestone = json!({ "page": "/a", "views": 10 }).to_string();
    cluster.plain_publish([("web.page.milestone", milestone)]);
    let store = cluster.store().await;
    until("it is woken", async || {
        let rank = cluster.field(&store, "rankings", "all", "/a").await;
        (!rank.is_empty()).then_some(())
    })
    .await;
    let (code, text) = restart(&cluster, &["record"]);
    assert!(code == Some(0) && text.contains("is ready"), "{text}");
    assert!(!up.log().contains("ready in"), "{}", up.log());
}

/// Processes are replaced under load, one after the other: nothing is lost, nothing counts twice. One that does not become
/// ready ends it, and those that run go on.
#[tokio::test]
async fn a_rolling_restart_loses_and_doubles_nothing() {
    const ROUNDS: u64 = 40;
    const VIEWS: u64 = 50;
    let mut cluster = small_cluster("[functions.count-views]\nmin = 2\nmax = 2\n").await;
    let bin = programs(&cluster, &["count-views"]);
    cluster.set("ONCUE_BIN_DIR", &bin.display().to_string());
    let mut up = cluster.up().await;
    let store = cluster.store().await;
    let before = pids(&cluster, "count-views");
    assert_eq!(before.len(), 2);
    let view = |n: u64| {
        let page = n % 4;
        (
            "web.page.viewed",
            json!({ "page": format!("/p{page}"), "visitor": n.to_string() }).to_string(),
        )
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                cluster.plain_publish((round * VIEWS..(round + 1) * VIEWS).map(view));
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        for _ in 0..3 {
            let (code, text) = restart(&cluster, &["count-views"]);
            assert!(
                code == Some(0) && text.contains("2 processes are replaced"),
                "{text}"
            );
            assert_eq!(text.matches("is ready").count(), 2, "{text}");
        }
    });
    let views = async || {
        let mut sum = 0;
        for page in 0..4 {
            let views = cluster
                .field(&store, "pages", &format!("/p{page}"), "views")
                .await;
            sum += views.parse::<u64>().unwrap_or_default();
        }
        sum
    };
    until("every view is counted", async || {
        (views().await >= ROUNDS * VIEWS).then_some(())
    })
    .await;
    assert_eq!(views().await, ROUNDS * VIEWS);
    let after = pids(&cluster, "count-views");
    assert_eq!(after.len(), 2, "{after:?}");
    assert!(
        after.iter().all(|pid| !before.contains(pid)),
        "{before:?} {after:?}"
    );

    // A program that says what it is, and ends at once.
    std::fs::remove_file(bin.join("count-views")).expect("removed");
    let good = oncue_tests::cluster::built("count-views");
    let good = good.display();
    let broken = format!(
        "#!/bin/sh\ncase \"$1\" in --*) exec {good} \"$1\";; esac\necho this is broken >&2\nexit 3\n"
    );
    std::fs::write(bin.join("count-views"), broken).expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bin.join("count-views"), executable).expect("executable");
    let (code, text) = restart(&cluster, &[]);
    assert!(code == Some(1) && text.contains("this is broken"), "{text}");
    assert!(text.contains("0 processes were replaced"), "{text}");
    assert_eq!(
        pids(&cluster, "count-views"),
        after,
        "those that ran run on"
    );
    cluster.plain_publish((0..4).map(view));
    until("they count on", async || {
        (views().await == ROUNDS * VIEWS + 4).then_some(())
    })
    .await;
    // The broken twin: a restart that went on would have ended those too, and that is seen.
    let children = up.children().into_iter();
    let workers = children.filter(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim() == "count-views")
    });
    for pid in workers {
        assert!(oncue_tests::cluster::send(pid, "KILL"));
    }
    until("they are missed", async || {
        (pids(&cluster, "count-views") != after).then_some(())
    })
    .await;
    let (code, text) = restart(&cluster, &["nobody"]);
    assert!(
        code == Some(2) && text.contains("no function \"nobody\""),
        "{text}"
    );
    assert_eq!(up.stop().await, Some(0));
    let (code, text) = restart(&cluster, &[]);
    assert!(
        code == Some(1) && text.contains("no `oncue up` of the app app runs"),
        "{text}"
    );
}

/// `oncue dev` has `oncue up` as a child, and who stops it (a service manager, say) may tell it alone.
#[tokio::test]
async fn dev_that_is_stopped_stops_what_it_has_started() {
    let mut cluster =
        small_cluster("[build]\ncommand = []\nprograms = \"bin\"\n[functions.record]\n").await;
    let bin = programs(&cluster, &["record"]);
    cluster.set("ONCUE_BIN_DIR", &bin.display().to_string());
    let gateway = format!("127.0.0.1:{}", free_port());
    cluster.set("ONCUE_GATEWAY_LISTEN", &gateway);
    cluster.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let mut dev = cluster.spawn("oncue", &["dev"]);
    dev.wait_for_line("ready in").await;
    assert_eq!(dev.stop().await, Some(0), "{}", dev.log());
    assert!(dev.log().contains("stopped in"), "{}", dev.log());
    assert!(
        std::net::TcpStream::connect(&gateway).is_err(),
        "the gateway runs on: {}",
        dev.log()
    );
}
