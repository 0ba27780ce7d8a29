//! Children that are forked from one that has imported the function's file.

use std::path::Path;

use oncue_tests::cluster::{Cluster, Process, children, descendants, send, until};
use oncue_tests::events::{letters, told};

use super::{cluster, command_line, counted, start, tally};

/// Children side by side.
const CHILDREN: usize = 3;

/// Puts lines into the function's file that run when it is imported; each import is a line in `imports`.
fn imports_say(cluster: &Cluster, more: &str) {
    let file = cluster.dir.join("functions/tally.py");
    let text = std::fs::read_to_string(&file).expect("the function");
    let more = format!(
        "{text}\nwith open(\"imports\", \"a\") as imports:\n    imports.write(f\"{{os.getpid()}}\\n\")\n{more}\n"
    );
    std::fs::write(file, more).expect("written");
}

/// Processes of a host that have imported the file.
fn importers(cluster: &Cluster, host: &Process) -> Vec<u32> {
    let text = std::fs::read_to_string(cluster.dir.join("imports")).unwrap_or_default();
    let mut all: Vec<u32> = descendants(host.pid());
    all.retain(|pid| text.lines().any(|line| line == pid.to_string()));
    all
}

/// The process that children are forked from, and they.
async fn family(host: &Process) -> (u32, Vec<u32>) {
    until("a fork server with its children", async || {
        let [server] = host.children()[..] else {
            return None;
        };
        let forked = children(server);
        (forked.len() == CHILDREN).then_some((server, forked))
    })
    .await
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !command_line(pid).is_empty()
}

#[tokio::test]
async fn children_are_forked_from_one_that_has_imported_the_file() {
    const PAGES: usize = 20;
    let cluster = cluster(&format!("processes = {CHILDREN}\nattempts = 100")).await;
    imports_say(&cluster, "");
    let bus = cluster.bus().await;
    let mut host = start(&cluster).await;
    let (server, forked) = family(&host).await;
    assert_eq!(importers(&cluster, &host), [server], "{}", host.log());
    cluster.plain_publish((0..PAGES).map(|page| told(&format!("/{page}"), "say")));
    cluster.drained(&bus, "web", "tally").await;
    // One that dies is replaced without another import, and its own end is what is told of it.
    assert!(send(forked[0], "KILL"));
    let end = format!("the child {} was ended by signal 9 (SIGKILL)", forked[0]);
    host.wait_for_line(&end).await;
    let (same, others) = family(&host).await;
    assert_eq!(same, server);
    assert!(!others.contains(&forked[0]));
    assert_eq!(importers(&cluster, &host), [server]);
    // What they write on their descriptors is theirs.
    cluster.plain_publish([told("/abort", "abort")]);
    let aborted = "was ended by signal 6 (SIGABRT): last words of an aborting child";
    host.wait_for_line(aborted).await;
    // With the fork server its children end, and another one has others.
    let (server, forked) = family(&host).await;
    assert!(send(server, "KILL"));
    until("they end with it", async || {
        forked.iter().all(|child| !is_there(*child)).then_some(())
    })
    .await;
    let (another, _) = family(&host).await;
    assert_ne!(another, server);
    assert_eq!(importers(&cluster, &host), [another]);
    cluster.plain_publish((0..PAGES).map(|page| told(&format!("/{page}"), "plain")));
    until("each is counted", async || {
        let (counts, _) = counted(&cluster, &bus, PAGES).await;
        counts.values().all(|count| *count == 2).then_some(())
    })
    .await;
    let log = host.log();
    assert!(log.contains("printed by a function"), "{log}");
    assert!(log.contains("written by a function"), "{log}");
    let letters = letters(&cluster, &bus).await;
    assert!(
        letters.iter().all(|letter| letter.key == "/abort"),
        "{letters:?}"
    );
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
}

#[tokio::test]
async fn forked_children_end_with_a_host_that_is_killed() {
    let cluster = cluster(&format!("processes = {CHILDREN}")).await;
    let mut host = start(&cluster).await;
    let (server, forked) = family(&host).await;
    // A frozen one cannot see that its socket is at its end.
    assert!(send(forked[0], "STOP"));
    host.kill();
    until("all have ended", async || {
        let mut all = forked.iter().chain([&server]);
        all.all(|child| !is_there(*child)).then_some(())
    })
    .await;
}

/// What the file does in each child comes behind what makes a child one that can be ended.
#[tokio::test]
async fn a_child_that_hangs_as_soon_as_it_is_forked_is_ended() {
    let cluster = cluster(&format!("processes = {CHILDREN}")).await;
    let hang =
        "os.register_at_fork(after_in_child=lambda: os.path.exists(\"hang\") and time.sleep(3600))";
    imports_say(&cluster, hang);
    let bus = cluster.bus().await;
    let mut host = start(&cluster).await;
    let (server, forked) = family(&host).await;
    std::fs::write(cluster.dir.join("hang"), "").expect("written");
    assert!(send(forked[0], "KILL"));
    let hanging = until("another takes its place", async || {
        let mut now = children(server).into_iter();
        now.find(|child| !forked.contains(child))
    })
    .await;
    // It is given events, and is ended when their time is over.
    cluster.plain_publish((0..20).map(|page| told(&format!("/{page}"), "plain")));
    until("it is ended", async || (!is_there(hanging)).then_some(())).await;
    std::fs::remove_file(cluster.dir.join("hang")).expect("removed");
    cluster.drained(&bus, "web", "tally").await;
    let (counts, _) = counted(&cluster, &bus, 20).await;
    assert!(
        counts.values().all(|count| *count == 1),
        "{counts:?}\n{}",
        host.log()
    );
    // One that hangs ends with a host that is killed.
    std::fs::write(cluster.dir.join("hang"), "").expect("written");
    let (_, forked) = family(&host).await;
    assert!(send(forked[1], "KILL"));
    let hanging = until("another takes its place", async || {
        let mut now = children(server).into_iter();
        now.find(|child| !forked.contains(child))
    })
    .await;
    host.kill();
    until("it has ended", async || (!is_there(hanging)).then_some(())).await;
}

#[tokio::test]
async fn a_frozen_fork_server_is_given_up_without_its_children() {
    const PAGES: usize = 20;
    let cluster = cluster(&format!("processes = {CHILDREN}\nattempts = 100")).await;
    let bus = cluster.bus().await;
    let mut host = start(&cluster).await;
    let (server, forked) = family(&host).await;
    assert!(send(server, "STOP"));
    assert!(send(forked[0], "KILL"));
    host.wait_for_line("that children are forked from does not answer")
        .await;
    until("another has filled the place", async || {
        let found = descendants(host.pid());
        (found.len() > CHILDREN + 1).then_some(())
    })
    .await;
    assert!(forked[1..].iter().all(|child| is_there(*child)));
    cluster.plain_publish((0..PAGES).map(|page| told(&format!("/{page}"), "plain")));
    cluster.drained(&bus, "web", "tally").await;
    let (counts, _) = counted(&cluster, &bus, PAGES).await;
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
    assert!(!is_there(server), "the frozen one is left behind");
}

/// A thread would be missing in a child, and a connection would be the same in all.
#[tokio::test]
async fn children_import_the_file_themselves_where_it_leaves_threads_or_connections() {
    for (left, said) in [
        (
            "import threading\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()",
            "it runs 1 threads besides the main one",
        ),
        (
            "import socket\nkept_open = socket.socketpair()",
            "it holds open socket:",
        ),
        (
            "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
            "it sees to the ends of processes by itself",
        ),
    ] {
        let cluster = Cluster::new(&format!(
            "{}{}",
            oncue_tests::cluster::SMALL_STREAMS,
            tally(&format!("processes = {CHILDREN}"))
        ))
        .await;
        super::write_functions(&cluster);
        imports_say(&cluster, left);
        let mut host = start(&cluster).await;
        until("each has imported it", async || {
            (importers(&cluster, &host).len() == CHILDREN).then_some(())
        })
        .await;
        assert_eq!(host.children().len(), CHILDREN, "{}", host.log());
        let log = host.log();
        assert_eq!(log.matches(said).count(), 1, "{log}");
        assert_eq!(host.stop().await, Some(0), "{}", host.log());
    }
}
