//! Functions in other languages, with real servers and real children: what Python and a shell script are promised.

mod forked;
mod service;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_tests::cluster::{
    Cluster, Process, SMALL_STREAMS, built, children, descendants, send, until,
};
use oncue_tests::events::{letters, told};

use crate::elastic::until_asleep;

/// Limits that let a test see a timeout and redelivery within seconds.
const QUICK: &str = "ack_wait = \"2s\"\ntimeout = \"1s\"";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

/// Python with what the package needs, which `make test` installs.
fn python() -> String {
    let python = root().join(".oncue/venv/bin/python");
    assert!(
        python.is_file(),
        "{} is not there: run `deploy/install.sh python`",
        python.display()
    );
    python.display().to_string()
}

/// `[functions.tally]` as a Python function, with more settings.
fn tally(more: &str) -> String {
    let package = root().join("services/runtime/python");
    format!(
        "[functions.tally]\nrun = [{:?}, \"-m\", \"oncue\", \"functions/tally.py\"]\n\
         env = {{ PYTHONPATH = {:?} }}\n{QUICK}\n{more}\n",
        python(),
        package.display().to_string()
    )
}

/// A cluster whose app has the function `tally`.
async fn cluster(more: &str) -> Cluster {
    let cluster = Cluster::new(&format!("{SMALL_STREAMS}{}", tally(more))).await;
    write_functions(&cluster);
    cluster
}

fn write_functions(cluster: &Cluster) {
    let folder = cluster.dir.join("functions");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("tally.py"), include_str!("tally.py")).expect("written");
}

async fn start(cluster: &Cluster) -> Process {
    let host = cluster.spawn("oncue-host", &["tally"]);
    host.wait_for_line("\"message\":\"ready\"").await;
    host
}

/// Exit code and what was printed.
fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Sums what each page was viewed, and how many milestones followed.
async fn counted(cluster: &Cluster, bus: &Bus, pages: usize) -> (BTreeMap<String, u64>, u64) {
    let store = cluster.store().await;
    let mut counts = BTreeMap::new();
    for page in 0..pages {
        let page = format!("/{page}");
        let count = cluster.field(&store, "tallies", &page, "count").await;
        counts.insert(page, count.parse().unwrap_or(0));
    }
    let messages = cluster.messages(bus, "web").await;
    let milestones = messages
        .iter()
        .filter(|message| message.subject.starts_with("web.page.milestone"));
    (counts, milestones.count() as u64)
}

/// Children and hosts die by the dozen under `oncue up`, and each event counts once.
#[tokio::test]
async fn a_python_function_counts_exactly_while_its_processes_are_killed() {
    const PAGES: usize = 20;
    const VIEWS: usize = 100;
    let mut cluster = cluster("processes = 2\nattempts = 1000").await;
    let bus = cluster.bus().await;
    let mut up = cluster.up().await;
    let deaths = async {
        let mut killed = [0, 0];
        let mut turn = 0;
        loop {
            let hosts: Vec<u32> = children(up.pid())
                .into_iter()
                .filter(|pid| command_line(*pid).contains("oncue-host tally"))
                .collect();
            let workers: Vec<u32> = hosts.iter().flat_map(|host| descendants(*host)).collect();
            let is_host = turn % 4 == 3;
            let victims = if is_host { &hosts } else { &workers };
            if let Some(victim) = victims.get(turn % victims.len().max(1))
                && send(*victim, "KILL")
            {
                killed[usize::from(is_host)] += 1;
            }
            turn += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
            if killed[0] >= 8 && killed[1] >= 3 {
                return killed;
            }
        }
    };
    let load = async {
        for view_of_each in 0..VIEWS {
            cluster.plain_publish((0..PAGES).map(|page| told(&format!("/{page}"), "plain")));
            if view_of_each % 5 == 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    let (killed, ()) = tokio::join!(deaths, load);
    assert!(killed[0] >= 8 && killed[1] >= 3, "{killed:?}");
    cluster.drained(&bus, "web", "tally").await;
    let (counts, milestones) = counted(&cluster, &bus, PAGES).await;
    let wrong: Vec<_> = counts
        .iter()
        .filter(|(_, count)| **count != VIEWS as u64)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{}", up.log());
    // Outputs that a killed host left are published by the next.
    until("every milestone is in its stream", async || {
        let (_, milestones) = counted(&cluster, &bus, PAGES).await;
        (milestones >= (PAGES * VIEWS / 10) as u64).then_some(())
    })
    .await;
    assert!(
        milestones <= (PAGES * VIEWS / 10) as u64,
        "doubled: {milestones}"
    );
    assert_eq!(letters(&cluster, &bus).await.len(), 0);
    let (code, map) = oncue(&cluster, &["map"]);
    assert!(code == 0 && map.contains("tally"), "{map}");
    let (code, ps) = oncue(&cluster, &["ps"]);
    assert!(code == 0 && ps.contains("tally"), "{ps}");
    // Outputs of a host that was killed are published by their event's next delivery, and are known to be by the next round.
    until("the audit is clean", async || {
        let (code, audit) = oncue(&cluster, &["audit", "tally"]);
        (code == 0).then_some(audit)
    })
    .await;
    let (code, check) = oncue(&cluster, &["check"]);
    assert!(code == 0, "{check}");
    let (code, restarted) = oncue(&cluster, &["restart", "tally"]);
    assert!(code == 0, "{restarted}");
    assert_eq!(up.stop().await, Some(0), "{}", up.log());
}

#[tokio::test]
async fn failures_of_a_python_function_end_as_letters_with_file_and_line() {
    let cluster = cluster("").await;
    let bus = cluster.bus().await;
    let mut host = start(&cluster).await;
    cluster.plain_publish([
        told("/reject", "reject"),
        told("/fail", "fail"),
        told("/sleep", "sleep"),
        told("/once", "fail-once"),
        told("/row", "wrong-row"),
    ]);
    cluster.drained(&bus, "web", "tally").await;
    let letters = letters(&cluster, &bus).await;
    let found = |key: &str| {
        let letter = letters.iter().find(|letter| letter.key == key);
        letter.unwrap_or_else(|| panic!("no letter of {key}:\n{}", host.log()))
    };
    let line = |text: &str| {
        let source = include_str!("tally.py").lines();
        let at = source.map(str::trim).position(|line| line == text);
        format!("functions/tally.py:{}", at.expect("a line") + 1)
    };
    let reject = found("/reject");
    assert_eq!(reject.reason, "rejected");
    assert_eq!(reject.message, "told to reject");
    assert_eq!(reject.site, line("raise reject(\"told to reject\")"));
    assert_eq!(reject.attempts, 1);
    let fail = found("/fail");
    assert_eq!(fail.reason, "attempts");
    assert_eq!(fail.message, "KeyError: '/fail'");
    assert_eq!(fail.site, line("return {\"/\": \"home\"}[page]"));
    assert_eq!(fail.attempts, 3);
    let sleep = found("/sleep");
    assert_eq!(sleep.message, "still running after 1000 ms");
    assert_eq!(sleep.site, line("time.sleep(60)"));
    assert_eq!(found("/row").message, "RowError: field last: 7 is no text");
    assert_eq!(letters.len(), 4, "{letters:?}");
    let store = cluster.store().await;
    let once = cluster.row(&store, "tallies", "/once").await;
    assert_eq!(once["count"], "1", "the failed attempt left nothing");
    assert_eq!(cluster.field(&store, "tallies", "/fail", "count").await, "");
    let id = &reject.event_id;
    let (code, tried) = oncue(&cluster, &["dlq", "redrive", "--dry-run", id]);
    assert!(tried.contains("told to reject"), "{code} {tried}");
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
}

#[tokio::test]
async fn a_child_that_dies_or_hangs_costs_its_own_event_and_no_other() {
    const NEIGHBOURS: usize = 40;
    const BESIDE: usize = 5;
    for (what, words) in [
        (
            "abort",
            "was ended by signal 6 (SIGABRT): last words of an aborting child",
        ),
        ("frozen", "still running after 1s; its process was killed"),
        // The half of a frame that it leaves is nobody's answer.
        ("tear", "ended with exit code 3"),
    ] {
        let cluster = cluster("processes = 2").await;
        let bus = cluster.bus().await;
        let mut host = start(&cluster).await;
        let neighbours = (0..NEIGHBOURS).map(|page| told(&format!("/{page}"), "plain"));
        // Some on the row of the poison, so that they go to the child with it, in one run.
        let beside = (0..BESIDE).map(|_| told("/poison", "plain"));
        let poison = std::iter::once(told("/poison", what));
        cluster.plain_publish(poison.chain(beside).chain(neighbours));
        cluster.drained(&bus, "web", "tally").await;
        let (counts, _) = counted(&cluster, &bus, NEIGHBOURS).await;
        assert!(
            counts.values().all(|count| *count == 1),
            "{what}: {counts:?}"
        );
        let letters = letters(&cluster, &bus).await;
        assert_eq!(letters.len(), 1, "{what}: {letters:?}\n{}", host.log());
        assert_eq!(letters[0].key, "/poison");
        assert_eq!(letters[0].attempts, 3);
        let store = cluster.store().await;
        let beside = cluster.field(&store, "tallies", "/poison", "count").await;
        assert_eq!(beside, BESIDE.to_string(), "{what}");
        assert!(
            letters[0].message.ends_with(words),
            "{}",
            letters[0].message
        );
        assert!(host.is_alive(), "the host is well: {}", host.log());
        assert_eq!(host.stop().await, Some(0), "{}", host.log());
    }
}

/// An event that was in the hands of a child when it died runs alone from then on: a busy child has others as well, and they
/// must not die with it a second time.
#[tokio::test]
async fn a_poison_event_is_tried_alone_however_busy_its_child_is() {
    let cluster = cluster("").await;
    let bus = cluster.bus().await;
    let host = start(&cluster).await;
    let mut pages = 0;
    let mut neighbours = || {
        pages += 100;
        (pages - 100..pages).map(|page| told(&format!("/{page}"), "nap"))
    };
    cluster.plain_publish(neighbours());
    cluster.plain_publish([told("/poison", "abort")]);
    until("the poison is set aside", async || {
        cluster.plain_publish(neighbours());
        tokio::time::sleep(Duration::from_millis(150)).await;
        (cluster.count(&bus, "dlq").await > 0).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "tally").await;
    let letters = letters(&cluster, &bus).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let log = host.log();
    let deaths: Vec<&str> = log.split("another one takes its place").collect();
    assert_eq!(deaths.len() - 1, 3, "{log}");
    // By the death that came before.
    let lost: Vec<usize> = deaths
        .iter()
        .map(|after| {
            let lines = after
                .lines()
                .filter(|line| line.contains("will be tried again"));
            lines
                .filter(|line| !line.contains(&letters[0].event_id))
                .count()
        })
        .collect();
    assert!(lost[1] > 0, "the child was busy: {lost:?}\n{log}");
    assert_eq!(lost[2..], [0, 0], "{log}");
}

/// Whatever a child holds that has no memory left, it goes on holding: one that was kept would fail event after event.
#[tokio::test]
async fn a_child_that_leaks_is_replaced_before_its_events_are_given_up() {
    const AFTER: usize = 100;
    let cluster = cluster("memory = \"256MiB\"").await;
    let bus = cluster.bus().await;
    let mut host = start(&cluster).await;
    let leak = std::iter::once(told("/leak", "leak"));
    let plain = (0..AFTER).map(|page| told(&format!("/{page}"), "plain"));
    cluster.plain_publish(leak.chain(plain));
    cluster.drained(&bus, "web", "tally").await;
    let log = host.log();
    let (counts, _) = counted(&cluster, &bus, AFTER).await;
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    let letters = letters(&cluster, &bus).await;
    assert!(letters.is_empty(), "{letters:?}\n{log}");
    let replaced = log.matches("has run out of memory; another one takes its place");
    assert_eq!(replaced.count(), 1, "{log}");
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
}

#[tokio::test]
async fn a_child_has_its_memory_its_lines_and_no_password() {
    let cluster = cluster("memory = \"256MiB\"").await;
    let bus = cluster.bus().await;
    let mut host = start(&cluster).await;
    // One after the other: a line from a descriptor belongs to an event where the child has only that one.
    cluster.plain_publish([told("/say", "say")]);
    let store = cluster.store().await;
    // Its consumer may not have seen it yet, and seem to have nothing to do.
    until("it has said so", async || {
        let count = cluster.field(&store, "tallies", "/say", "count").await;
        (count == "1").then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "tally").await;
    cluster.plain_publish([told("/hog", "hog")]);
    let letters = until("it is given up", async || {
        let letters = letters(&cluster, &bus).await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_eq!(letters.len(), 1, "{letters:?}\n{}", host.log());
    assert_eq!(letters[0].key, "/hog");
    assert!(letters[0].message.contains("MemoryError"), "{letters:?}");
    let log = host.log();
    for line in [
        "printed by a function",
        "logged by a function",
        "written by a function",
    ] {
        let found = log.lines().find(|logged| logged.contains(line));
        let found = found.unwrap_or_else(|| panic!("{line} is not in\n{log}"));
        assert!(found.contains("\"flow_id\""), "without its flow: {found}");
    }
    assert!(log.contains("environment holds []"), "{log}");
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
}

/// Processes of Python that run in the folder of a cluster.
fn pythons(cluster: &Cluster) -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_here = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == cluster.dir)
            && command_line(*pid).contains("tally.py")
    };
    pids.filter(is_here).count()
}

/// Without work there is no process, neither of the host nor of its children, and an event brings them.
#[tokio::test]
async fn a_host_sleeps_with_its_children_and_is_woken() {
    let mut cluster = cluster("min = 0\nidle = \"2s\"\nprocesses = 2").await;
    let bus = cluster.bus().await;
    let mut up = cluster.up().await;
    for turn in 1..=2 {
        until_asleep(&cluster, "tally").await;
        until("its children are gone", async || {
            (pythons(&cluster) == 0).then_some(())
        })
        .await;
        cluster.plain_publish([told("/0", "plain")]);
        until("both children are up", async || {
            (pythons(&cluster) >= 2).then_some(())
        })
        .await;
        cluster.drained(&bus, "web", "tally").await;
        let (counts, _) = counted(&cluster, &bus, 1).await;
        assert_eq!(counts["/0"], turn, "{}", up.log());
        let woken = up.log().matches("tally is woken by").count();
        assert_eq!(woken, turn as usize, "{}", up.log());
    }
    until_asleep(&cluster, "tally").await;
    assert_eq!(up.stop().await, Some(0), "{}", up.log());
}

#[test]
fn tests_of_the_python_package_pass() {
    let package = root().join("services/runtime/python");
    let tested = Command::new(python())
        .args(["-m", "unittest", "discover", "-s", "tests"])
        .env("PYTHONPATH", &package)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ONCUE_HOST", built("oncue-host"))
        .current_dir(&package)
        .output()
        .expect("Python runs");
    let said = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{said}");
    assert!(!said.contains("Ran 0 tests"), "{said}");
}

/// `py.typed` promises it: every name has its type, by the strict rules of mypy.
#[test]
fn the_python_package_is_typed() {
    let checked = Command::new(python())
        .args(["-m", "mypy", "--cache-dir=/dev/null"])
        .current_dir(root().join("services/runtime/python"))
        .output()
        .expect("Python runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("no issues found in 1"), "{said}");
}

/// Events that are slow, given to a child while it was fast, take no time of each other's; and answers that are too many for one
/// frame go in several.
#[tokio::test]
async fn a_busy_child_is_not_taken_for_one_that_hangs_or_breaks_rules() {
    const PAGES: usize = 150;
    for processes in [1, 2] {
        let cluster = cluster(&format!("processes = {processes}")).await;
        let bus = cluster.bus().await;
        let mut host = start(&cluster).await;
        for (pages, word) in [(PAGES, "plain"), (12, "doze:400"), (PAGES, "bulky")] {
            cluster.plain_publish((0..pages).map(|page| told(&format!("/{page}"), word)));
            cluster.drained(&bus, "web", "tally").await;
        }
        let (counts, _) = counted(&cluster, &bus, PAGES).await;
        let log = host.log();
        for (page, count) in counts {
            let is_slow = page[1..].parse::<usize>().is_ok_and(|page| page < 12);
            assert_eq!(count, 2 + u64::from(is_slow), "{page}\n{log}");
        }
        for word in ["still running", "was killed", "will be tried again"] {
            assert!(!log.contains(word), "{word}\n{log}");
        }
        assert_eq!(host.stop().await, Some(0), "{}", host.log());
    }
}

/// What comes for a child that has just died waits for the next one. It was not begun, so even where an event runs at most once it
/// is not given up.
#[tokio::test]
async fn an_event_is_not_given_to_a_child_that_is_dead() {
    let package = root().join("services/runtime/python");
    let cluster = Cluster::new(&format!(
        "{SMALL_STREAMS}[functions.once]\nrun = [{:?}, \"-m\", \"oncue\", \"functions/once.py\"]\n\
         env = {{ PYTHONPATH = {:?} }}\n{QUICK}\n",
        python(),
        package.display().to_string()
    ))
    .await;
    let folder = cluster.dir.join("functions");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("once.py"), include_str!("once.py")).expect("written");
    let bus = cluster.bus().await;
    let host = cluster.spawn("oncue-host", &["once"]);
    host.wait_for_line("\"message\":\"ready\"").await;
    for round in 0..3 {
        cluster.plain_publish([told(&format!("/die{round}"), "die")]);
        host.wait_for_line(&format!("ran for /die{round}")).await;
        for n in 0..8 {
            cluster.plain_publish([told(&format!("/{round}.{n}"), "")]);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cluster.drained(&bus, "web", "once").await;
    }
    let log = host.log();
    for round in 0..3 {
        for n in 0..8 {
            let runs = log.matches(&format!("ran for /{round}.{n}\"")).count();
            assert_eq!(runs, 1, "/{round}.{n}\n{log}");
        }
    }
    let letters = letters(&cluster, &bus).await;
    assert_eq!(letters.len(), 3, "{letters:?}\n{log}");
}

/// A shell script that knows nothing of us, through its own failures and the deaths of its processes.
#[tokio::test]
async fn lines_of_json_are_enough_for_a_function() {
    const PAGES: usize = 5;
    const VIEWS: usize = 30;
    let config = format!(
        "{SMALL_STREAMS}[functions.count]\nrun = [\"bash\", \"functions/count.sh\"]\nprotocol = \"lines\"\n\
         on = [\"web.page.viewed\"]\nemits = [\"web.page.milestone\"]\ntable = \"tallies\"\nattempts = 3\n{QUICK}\n"
    );
    let cluster = Cluster::new(&config).await;
    let folder = cluster.dir.join("functions");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("count.sh"), include_str!("count.sh")).expect("written");
    let bus = cluster.bus().await;
    let mut host = cluster.spawn("oncue-host", &["count"]);
    host.wait_for_line("\"message\":\"ready\"").await;
    let mut killed = 0;
    for turn in 0..VIEWS {
        cluster.plain_publish((0..PAGES).map(|page| told(&format!("/{page}"), "plain")));
        if turn % 10 == 9 {
            // One that is about to end by the last signal is not there any more.
            until("a child", async || {
                let child = children(host.pid()).pop()?;
                send(child, "KILL").then_some(())
            })
            .await;
            killed += 1;
        }
    }
    assert_eq!(killed, 3);
    cluster.plain_publish([
        told("/reject", "reject"),
        told("/retry", "retry"),
        told("/silent", "silent"),
        told("/nonsense", "nonsense"),
    ]);
    cluster.drained(&bus, "web", "count").await;
    cluster.plain_publish([told("/twice", "twice")]);
    cluster.drained(&bus, "web", "count").await;
    // Each has its own answer, and not the one that was too many.
    cluster.plain_publish((0..3).map(|n| told(&format!("/after{n}"), "plain")));
    cluster.drained(&bus, "web", "count").await;
    let (counts, milestones) = counted(&cluster, &bus, PAGES).await;
    assert!(
        counts.values().all(|count| *count == VIEWS as u64),
        "{counts:?}\n{}",
        host.log()
    );
    assert_eq!(milestones, (PAGES * VIEWS / 10) as u64);
    let store = cluster.store().await;
    let retried = cluster.row(&store, "tallies", "/retry").await;
    assert_eq!(retried["count"], "1");
    assert_eq!(retried["last"], "/retry");
    for page in ["/twice", "/after0", "/after1", "/after2"] {
        let row = cluster.row(&store, "tallies", page).await;
        assert_eq!(row.get("last").map(String::as_str), Some(page), "{row:?}");
    }
    assert!(
        host.log().contains("broke the rules of its protocol"),
        "{}",
        host.log()
    );
    let mut letters = letters(&cluster, &bus).await;
    letters.sort_by(|a, b| a.key.cmp(&b.key));
    let said: Vec<(&str, &str)> = letters
        .iter()
        .map(|letter| (letter.key.as_str(), letter.message.as_str()))
        .collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].0 == "/nonsense" && said[0].1.contains("which is no answer"),
        "{said:?}"
    );
    assert_eq!(said[1], ("/reject", "told to reject"));
    assert!(
        said[2].0 == "/silent" && said[2].1.starts_with("still running after 1s"),
        "{said:?}"
    );
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
}
