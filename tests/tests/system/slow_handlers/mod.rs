//! Handlers that wait for long, or say much: with real children, in each language whose handlers run side by side.

use std::os::unix::fs::symlink;
use std::process::Command;

use oncue_core::bus::Bus;
use oncue_proto::oncue::v1::DeadLetter;
use oncue_tests::cluster::{Cluster, Process, SMALL_STREAMS, built, in_repository, quoted, until};
use oncue_tests::events::{letters, told};

/// Keys whose events wait for each other.
const KEYS: usize = 20;

/// The function `slow` at work.
struct Bench {
    cluster: Cluster,
    bus: Bus,
    host: Process,
}

impl Bench {
    /// `slow.py` or `slow.ts`.
    async fn new(file: &str, timeout: &str) -> Self {
        let is_python = file == "slow.py";
        let run = if is_python {
            python_run("slow.py")
        } else {
            "run = [\"node_modules/.bin/oncue-node\", \"functions/slow.ts\"]\n".to_owned()
        };
        let config = format!(
            "{SMALL_STREAMS}[functions.slow]\n{run}ack_wait = \"2s\"\ntimeout = \"{timeout}\"\n"
        );
        let cluster = Cluster::new(&config).await;
        let source = if is_python {
            include_str!("slow.py")
        } else {
            generate(&cluster);
            include_str!("slow.ts")
        };
        write_function(&cluster, file, source);
        let bus = cluster.bus().await;
        let host = cluster.spawn("oncue-host", &["slow"]);
        host.wait_for_line("\"message\":\"ready\"").await;
        Self { cluster, bus, host }
    }

    fn publish(&self, page: &str, word: &str) {
        self.cluster.plain_publish([told(page, word)]);
    }

    async fn drained(&self) {
        self.cluster.drained(&self.bus, "web", "slow").await;
    }

    /// Letters of one page.
    async fn letters(&self, page: &str) -> Vec<DeadLetter> {
        let mut found = letters(&self.cluster, &self.bus).await;
        found.retain(|letter| letter.key == page);
        found
    }

    /// Ends the host, none of whose children has been ended.
    async fn stop(mut self) {
        let log = self.host.log();
        for word in ["another one takes its place", "against the protocol"] {
            assert!(!log.contains(word), "{log:.9000}");
        }
        assert_eq!(self.host.stop().await, Some(0));
    }
}

/// `run` of a function in Python.
fn python_run(file: &str) -> String {
    format!(
        "run = [{}, \"-m\", \"oncue\", \"functions/{file}\"]\nenv = {{ PYTHONPATH = {} }}\n",
        quoted(&in_repository(".oncue/venv/bin/python")),
        quoted(&in_repository("services/runtime/python"))
    )
}

fn write_function(cluster: &Cluster, file: &str, source: &str) {
    let folder = cluster.dir.join("functions");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(file), source).expect("written");
}

/// Types of the events for TypeScript.
fn generate(cluster: &Cluster) {
    let modules = in_repository(".oncue/typescript/node_modules");
    symlink(modules, cluster.dir.join("node_modules")).expect("linked");
    std::fs::write(cluster.dir.join("package.json"), r#"{"type":"module"}"#).expect("written");
    let made = Command::new("node_modules/.bin/oncue-node")
        .args(["generate", "gen"])
        .current_dir(&cluster.dir)
        .env("ONCUE_HOST", built("oncue-host"))
        .output()
        .expect("node runs");
    assert!(made.status.success(), "{made:?}");
}

/// Handlers that only end once all of them have begun.
async fn events_of_many_keys_are_handled_side_by_side(file: &str) {
    let bench = Bench::new(file, "20s").await;
    let word = format!("meet:{KEYS}");
    for key in 0..KEYS {
        bench.publish(&format!("/{key}"), &word);
    }
    bench.drained().await;
    let letters = letters(&bench.cluster, &bench.bus).await;
    assert!(letters.is_empty(), "{letters:?}");
    let log = bench.host.log();
    assert!(!log.contains("will be tried again"), "{log}");
    bench.stop().await;
}

#[tokio::test]
async fn slow_async_handlers_in_python_run_side_by_side() {
    events_of_many_keys_are_handled_side_by_side("slow.py").await;
}

#[tokio::test]
async fn slow_handlers_in_typescript_run_side_by_side() {
    events_of_many_keys_are_handled_side_by_side("slow.ts").await;
}

/// Answers, lines and failures that are larger than a frame.
async fn a_handler_may_say_more_than_fits_a_frame(file: &str) {
    const EVENTS: u64 = 24;
    let bench = Bench::new(file, "30s").await;
    // While the first of the key is held, the others gather behind it, and are then one run.
    bench.publish("/much", "hold");
    for _ in 0..EVENTS {
        bench.publish("/much", "much:1");
    }
    until("all are in hand", async || {
        let consumer = bench.bus.consumer_info("web", "slow").await.ok()?;
        (consumer.num_ack_pending == 1 + EVENTS).then_some(())
    })
    .await;
    std::fs::write(bench.cluster.dir.join("go"), "").expect("written");
    bench.drained().await;
    assert_eq!(bench.cluster.count(&bench.bus, "web").await, 1 + 2 * EVENTS);
    // More than any frame holds, of one event.
    bench.publish("/more", "much:20");
    bench.publish("/shout", "shout");
    bench.drained().await;
    let [more] = &bench.letters("/more").await[..] else {
        panic!("no letter of /more");
    };
    assert_eq!((more.reason.as_str(), more.attempts), ("rejected", 1));
    assert!(
        more.message.contains("and an answer to the host at most"),
        "{}",
        more.message
    );
    let [shout] = &bench.letters("/shout").await[..] else {
        panic!("no letter of /shout");
    };
    assert!(shout.message.contains("Error: yyy"), "{}", shout.message);
    assert_eq!(letters(&bench.cluster, &bench.bus).await.len(), 2);
    bench.stop().await;
}

#[tokio::test]
async fn a_handler_in_python_may_say_more_than_fits_a_frame() {
    a_handler_may_say_more_than_fits_a_frame("slow.py").await;
}

#[tokio::test]
async fn a_handler_in_typescript_may_say_more_than_fits_a_frame() {
    a_handler_may_say_more_than_fits_a_frame("slow.ts").await;
}

#[tokio::test]
async fn a_delay_without_an_end_is_a_failure_of_its_event() {
    let bench = Bench::new("slow.ts", "30s").await;
    bench.publish("/never", "never");
    bench.drained().await;
    let [never] = &bench.letters("/never").await[..] else {
        panic!("no letter of /never");
    };
    assert!(
        never.message.starts_with("RangeError: a delay of Infinity"),
        "{}",
        never.message
    );
    bench.stop().await;
}

/// What others are answered meanwhile does not prove that it will ever end.
#[tokio::test]
async fn a_handler_that_is_deaf_to_its_cancellation_is_ended_while_others_are_answered() {
    let mut bench = Bench::new("slow.py", "1s").await;
    bench.publish("/deaf", "deaf");
    let mut others = 0;
    let letter = until("it is given up", async || {
        bench.publish(&format!("/{others}"), "");
        others += 1;
        bench.letters("/deaf").await.pop()
    })
    .await;
    let end = "still running after 1s; its process was killed";
    assert!(letter.message.ends_with(end), "{}", letter.message);
    bench.drained().await;
    assert_eq!(letters(&bench.cluster, &bench.bus).await.len(), 1);
    assert_eq!(bench.host.stop().await, Some(0), "{}", bench.host.log());
}

/// What waits, waits in the host, where it is known not to have begun.
#[tokio::test]
async fn with_a_child_that_dies_only_the_event_that_it_was_at_is_lost_where_it_runs_at_most_once() {
    let config = format!(
        "{SMALL_STREAMS}[functions.once]\n{}ack_wait = \"2s\"\ntimeout = \"5s\"\n",
        python_run("once.py")
    );
    let cluster = Cluster::new(&config).await;
    write_function(&cluster, "once.py", include_str!("../foreign/once.py"));
    let bus = cluster.bus().await;
    let mut host = cluster.spawn("oncue-host", &["once"]);
    host.wait_for_line("\"message\":\"ready\"").await;
    let events = (0..40).map(|n| told(&format!("/{n}"), if n % 10 == 0 { "die" } else { "" }));
    cluster.plain_publish(events);
    cluster.drained(&bus, "web", "once").await;
    let letters = letters(&cluster, &bus).await;
    let log = host.log();
    assert_eq!(letters.len(), 4, "{letters:?}\n{log}");
    for n in 0..40 {
        assert_eq!(
            log.matches(&format!("ran for /{n}\"")).count(),
            1,
            "{n}\n{log}"
        );
    }
    assert_eq!(host.stop().await, Some(0), "{log}");
}
