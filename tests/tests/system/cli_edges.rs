//! Edges of the command line: results that nobody reads, spans and rates that no clock can count, names that do not exist.

use std::fs::File;
use std::process::{Command, Stdio};

use oncue_tests::cluster::Cluster;
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
