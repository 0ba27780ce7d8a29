//! Edges of the command line: results that nobody reads, spans and rates that no clock can count, names that do not exist.

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use oncue_tests::cluster::{Cluster, until};
use serde_json::Value;

const APP: &str = "[functions.count-views]\n";
const VIEW: &str = r#"{"page":"/","visitor":"v"}"#;

fn oncue(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    run(cluster, args, Stdio::piped())
}

/// Exit code of `oncue` with its result written there, and all else that it says.
fn run(cluster: &Cluster, args: &[&str], stdout: Stdio) -> (Option<i32>, String) {
    let output = Command::new(cluster.program("oncue"))
        .args(args)
        .envs(cluster.env())
        .current_dir(&cluster.dir)
        .stdin(Stdio::null())
        .stdout(stdout)
        .output()
        .expect("the binary runs");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Pipe whose reader has gone.
fn unread() -> Stdio {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer.into()
}

fn full_disk() -> Stdio {
    let file = File::options().write(true).open("/dev/full");
    file.expect("a device that is full").into()
}

/// Servers with everything laid out, and nobody who runs.
async fn laid_out() -> Cluster {
    let cluster = Cluster::new(APP).await;
    let (code, said) = oncue(&cluster, &["apply"]);
    assert_eq!(code, Some(0), "{said}");
    cluster
}

fn key_ids(cluster: &Cluster) -> Vec<String> {
    let output = cluster.output("oncue", &["keys", "ls", "--json"]);
    let keys: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let ids = keys.iter().map(|key| key["id"].as_str().expect("an id"));
    ids.map(str::to_owned).collect()
}

fn revoke(cluster: &Cluster, stdout: Stdio) -> (Option<i32>, String) {
    for name in ["a", "b", "c"] {
        assert_eq!(oncue(cluster, &["keys", "add", name]).0, Some(0));
    }
    let ids = key_ids(cluster);
    assert_eq!(ids.len(), 3);
    let mut args = vec!["keys", "revoke"];
    args.extend(ids.iter().map(String::as_str));
    run(cluster, &args, stdout)
}

#[tokio::test]
async fn a_change_goes_on_to_its_end_where_nobody_reads_its_result() {
    let cluster = laid_out().await;
    let (code, said) = revoke(&cluster, unread());
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(key_ids(&cluster).is_empty(), "all are revoked");
    // A result that was to be kept and is not is told of, once.
    let (code, said) = revoke(&cluster, full_disk());
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.matches("the result cannot be written").count(), 1);
    assert!(key_ids(&cluster).is_empty(), "all are revoked");
    // The code is the verb's own.
    let (code, _) = run(&cluster, &["keys", "revoke", "nobody"], unread());
    assert_eq!(code, Some(1));
    assert_eq!(oncue(&cluster, &["pause", "count-views"]).0, Some(0));
    let (read, said) = oncue(&cluster, &["doctor"]);
    assert_eq!(read, Some(1), "one is paused: {said}");
    assert_eq!(run(&cluster, &["doctor"], unread()).0, read);
    // Verbs that only show what comes are over.
    let tail = ["tail", "web", "--from", "start"];
    assert_eq!(
        oncue(&cluster, &["pub", "web.page.viewed", VIEW]).0,
        Some(0)
    );
    assert_eq!(run(&cluster, &tail, unread()).0, Some(0));
}

#[tokio::test]
async fn a_pause_lasts_and_ends_within_the_calendar() {
    let cluster = laid_out().await;
    for span in ["0s", "9000y", "99999999y"] {
        let (code, said) = oncue(&cluster, &["pause", "count-views", "--for", span]);
        assert_eq!(code, Some(2), "{span}: {said}");
    }
    let bus = cluster.bus().await;
    let info = bus.consumer_info("web", "count-views").await;
    assert!(!info.expect("there").paused);
    let (code, said) = oncue(&cluster, &["pause", "count-views", "--for", "30m"]);
    assert!(code == Some(0) && said.contains("is paused"), "{said}");
    let (code, said) = oncue(&cluster, &["resume", "count-views"]);
    assert!(
        code == Some(0) && said.contains("again within some seconds"),
        "{said}"
    );
}

#[tokio::test]
async fn numbers_that_no_clock_can_count_are_refused_before_anything_is_sent() {
    let cluster = laid_out().await;
    let publish: [&[&str]; 4] = [
        &["--wait", "18446744073709551615"],
        &["--wait", "86401"],
        &["--count", "3", "--rate", "1e-20"],
        &["--count", "0"],
    ];
    for wrong in publish {
        let args = [&["pub", "web.page.viewed", VIEW], wrong].concat();
        let (code, said) = oncue(&cluster, &args);
        assert_eq!(code, Some(2), "{wrong:?}: {said}");
    }
    for wrong in [["--rate", "1e-300"], ["--wait", "400000000000y"]] {
        let args = [&["dlq", "redrive", "--all", "--yes"], &wrong[..]].concat();
        let (code, said) = oncue(&cluster, &args);
        assert_eq!(code, Some(2), "{wrong:?}: {said}");
    }
    assert_eq!(cluster.count(&cluster.bus().await, "web").await, 0);
    let (code, said) = oncue(&cluster, &["keys", "add", "x", "--expires", "600000000y"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(key_ids(&cluster).is_empty());
}

#[tokio::test]
async fn names_that_do_not_exist_are_told() {
    let cluster = laid_out().await;
    let verbs: [&[&str]; 4] = [
        &["ls"],
        &["show"],
        &["redrive", "--yes"],
        &["drop", "--yes", "--why", "x"],
    ];
    for verb in verbs {
        let args = [&["dlq"], verb, &["--function", "count-view"]].concat();
        let (code, said) = oncue(&cluster, &args);
        assert!(
            code == Some(2) && said.contains("count-views"),
            "{verb:?}: {said}"
        );
        // One without letters is none.
        let args = [&["dlq"], verb, &["--function", "count-views"]].concat();
        let (code, said) = oncue(&cluster, &args);
        assert!(
            code == Some(0) && said.contains("dead letters"),
            "{verb:?}: {said}"
        );
    }
    let (_, said) = oncue(&cluster, &["find", "--type", "nosuch"]);
    assert!(said.contains("unknown event type \"nosuch\""), "{said}");
    let (_, said) = oncue(&cluster, &["find", "--type", "web.page.viewed"]);
    assert!(!said.contains("unknown"), "{said}");
    let mut tail = cluster.spawn("oncue", &["tail", "web.page.viewd"]);
    tail.wait_for_line("unknown event type \"web.page.viewd\"")
        .await;
    tail.stop().await;
}

/// `oncue pub` of what comes through its pipe.
fn publishing(cluster: &Cluster, args: &[&str]) -> Child {
    Command::new(cluster.program("oncue"))
        .args(["pub", "web.page.viewed", "-"])
        .args(args)
        .envs(cluster.env())
        .current_dir(&cluster.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

/// `oncue pub` of lines, which are views of so many pages.
fn publish_lines(cluster: &Cluster, lines: usize, args: &[&str]) -> Child {
    let mut publishing = publishing(cluster, args);
    let mut stdin = publishing.stdin.take().expect("a pipe");
    let text: String = (0..lines)
        .map(|n| format!("{{\"page\":\"/{n}\",\"visitor\":\"v\"}}\n"))
        .collect();
    std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    publishing
}

fn end(publishing: Child) -> (Option<i32>, String) {
    let output = publishing.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// What was under way when NATS went is published again under its id.
#[tokio::test]
async fn lines_go_on_over_a_nats_that_goes_and_comes() {
    const LINES: usize = 1000;
    let mut cluster = laid_out().await;
    let bus = cluster.bus().await;
    let publishing = publish_lines(&cluster, LINES, &["--rate", "300"]);
    until("some are there", async || {
        (cluster.count(&bus, "web").await > 50).then_some(())
    })
    .await;
    assert!(cluster.count(&bus, "web").await < LINES as u64, "too fast");
    cluster.restart_nats().await;
    let (code, said) = end(publishing);
    assert_eq!(code, Some(0), "{said}");
    let bus = cluster.bus().await;
    assert_eq!(cluster.count(&bus, "web").await, LINES as u64);
}

#[tokio::test]
async fn lines_with_ids_of_their_own_can_be_published_again() {
    let cluster = laid_out().await;
    let bus = cluster.bus().await;
    for _ in 0..2 {
        let (code, said) = end(publish_lines(&cluster, 3, &["--id-prefix", "run"]));
        assert!(code == Some(0) && said.contains("run-3"), "{said}");
    }
    assert_eq!(cluster.count(&bus, "web").await, 3);
    let both = [
        "pub",
        "web.page.viewed",
        VIEW,
        "--id",
        "a",
        "--id-prefix",
        "b",
    ];
    let (code, said) = oncue(&cluster, &both);
    assert_eq!(code, Some(2), "{said}");
}

/// One line that is refused: all else that was begun comes to its end, and is told.
#[tokio::test]
async fn lines_around_a_refused_one_are_accounted_for() {
    let cluster = laid_out().await;
    let bus = cluster.bus().await;
    let mut publishing = publishing(&cluster, &[]);
    let mut stdin = publishing.stdin.take().expect("a pipe");
    stdin
        .write_all(format!("{VIEW}\n{VIEW}\n{{}}\n").as_bytes())
        .expect("written");
    // It ends though the pipe stays open.
    let (code, said) = end(publishing);
    drop(stdin);
    assert_eq!(code, Some(2), "{said}");
    for words in ["line 3: ", "acked: 2 lines", "not stored: lines 3"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(cluster.count(&bus, "web").await, 2);
}

/// A dead letter is on record, and no reason to fail; open letters are those that are there.
#[tokio::test]
async fn audit_says_why_it_fails_and_ps_which_letters_are_open() {
    let cluster = Cluster::new("[functions.misbehave]\nattempts = 1\n").await;
    let mut worker = cluster.start("misbehave").await;
    let view = r#"{"page":"/","visitor":7}"#.to_owned();
    cluster.plain_publish([("web.page.viewed", view)]);
    let bus = cluster.bus().await;
    until("the letter is there", async || {
        let letters = oncue_admin::dead_letters::counts(&bus).await;
        letters.ok()?.contains_key("misbehave").then_some(())
    })
    .await;
    let ps = cluster.output("oncue", &["ps", "--json"]);
    let ps: Value = serde_json::from_slice(&ps.stdout).expect("JSON");
    assert_eq!(ps[0]["open_letters"], 1, "{ps}");
    worker.stop().await;
    let (code, said) = oncue(&cluster, &["audit"]);
    assert!(code == Some(0) && !said.contains("Exit code"), "{said}");
    let (_, help) = oncue(&cluster, &["audit", "--help"]);
    assert!(help.contains("Exit codes:"), "{help}");
    let (code, said) = oncue(
        &cluster,
        &["dlq", "drop", "--all", "--why", "test", "--yes"],
    );
    assert_eq!(code, Some(0), "{said}");
    let ps = cluster.output("oncue", &["ps", "--json"]);
    let ps: Value = serde_json::from_slice(&ps.stdout).expect("JSON");
    assert_eq!(ps[0]["open_letters"], 0, "{ps}");
    // Without its program nothing can be said of a function.
    let (code, said) = oncue(&cluster, &["audit", "never-built"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("Exit code 1: never-built: it could not be audited"),
        "{said}"
    );
}

#[tokio::test]
async fn a_flow_says_that_its_function_is_paused() {
    let cluster = laid_out().await;
    for (pause, words) in [
        (
            &["pause", "count-views"][..],
            "it is paused until `oncue resume`",
        ),
        (
            &["pause", "count-views", "--for", "1h"],
            "it is paused until 20",
        ),
    ] {
        let (code, said) = oncue(&cluster, pause);
        assert_eq!(code, Some(0), "{said}");
        let published = [
            "pub",
            "web.page.viewed",
            VIEW,
            "--id",
            "held",
            "--wait",
            "0",
        ];
        let (code, said) = oncue(&cluster, &published);
        assert!(
            code == Some(4) && said.contains("count-views (it is paused)"),
            "{said}"
        );
        let (code, said) = oncue(&cluster, &["flow", "held"]);
        assert!(code == Some(0) && said.contains(words), "{said}");
    }
}
