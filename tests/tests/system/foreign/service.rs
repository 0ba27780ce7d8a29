//! Functions whose handler is a web service that knows nothing of us.

use std::path::PathBuf;
use std::process::{Child, Command};

use oncue_tests::cluster::{Cluster, SMALL_STREAMS, free_port, until};
use serde_json::Value;

use super::{QUICK, counted, letters, told};

/// The service as a process, killed with the test.
struct Hook {
    port: u16,
    log: PathBuf,
    process: Child,
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Hook {
    fn start(cluster: &Cluster, port: u16) -> Self {
        let source = cluster.dir.join("hook.py");
        std::fs::write(&source, include_str!("hook.py")).expect("written");
        let log = cluster.dir.join("hook.log");
        let process = Command::new("python3")
            .args([
                source.as_os_str(),
                port.to_string().as_ref(),
                log.as_os_str(),
            ])
            .spawn()
            .expect("Python runs");
        Self { port, log, process }
    }

    /// Kills it and begins anew.
    fn restart(&mut self, cluster: &Cluster) {
        let port = self.port;
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
        *self = Self::start(cluster, port);
    }

    /// Requests about a page, as they came.
    fn requests(&self, page: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let requests = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let about = |request: &Value| {
            [&request["body"]["page"], &request["body"]["data"]["page"]].contains(&&page.into())
        };
        requests.filter(about).collect()
    }
}

/// A section of `oncue.toml`.
fn hooked(name: &str, port: u16, path: &str, more: &str) -> String {
    format!(
        "{SMALL_STREAMS}[functions.{name}]\nhttp = \"http://127.0.0.1:{port}/{path}\"\non = [\"web.page.viewed\"]\n\
         emits = [\"web.page.milestone\"]\n{QUICK}\n{more}\n"
    )
}

/// A service that is killed again and again, and away at first: each event counts once.
#[tokio::test]
async fn a_service_counts_exactly_while_it_is_killed() {
    const PAGES: usize = 8;
    const VIEWS: usize = 30;
    let port = free_port();
    let cluster = Cluster::new(&hooked("hooked", port, "count", "table = \"tallies\"")).await;
    let bus = cluster.bus().await;
    let mut host = cluster.spawn("oncue-host", &["hooked"]);
    host.wait_for_line("\"message\":\"ready\"").await;
    cluster.plain_publish((0..PAGES).map(|page| told(&format!("/{page}"), "")));
    host.wait_for_line("will be tried again").await;
    let mut hook = Hook::start(&cluster, port);
    for turn in 1..VIEWS {
        cluster.plain_publish((0..PAGES).map(|page| told(&format!("/{page}"), "")));
        if turn % 10 == 9 {
            hook.restart(&cluster);
        }
    }
    cluster.drained(&bus, "web", "hooked").await;
    let (counts, milestones) = counted(&cluster, &bus, PAGES).await;
    assert!(
        counts.values().all(|count| *count == VIEWS as u64),
        "{counts:?}\n{}",
        host.log()
    );
    assert_eq!(milestones, (PAGES * VIEWS / 10) as u64);
    assert_eq!(letters(&cluster, &bus).await.len(), 0);
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
}

#[tokio::test]
async fn the_status_of_a_service_says_what_becomes_of_an_event() {
    let port = free_port();
    let cluster = Cluster::new(&hooked("hooked", port, "greet", "attempts = 2")).await;
    let hook = Hook::start(&cluster, port);
    let bus = cluster.bus().await;
    let mut host = cluster.spawn("oncue-host", &["hooked"]);
    host.wait_for_line("\"message\":\"ready\"").await;
    until("the service listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .ok()
    })
    .await;
    let bad = [
        "reject",
        "fail",
        "slow",
        "elsewhere",
        "chatty",
        "unknown",
        "torn",
        "endless",
    ];
    let good = ["binary", "structured", "batch", "busy", "nothing"];
    let views = bad
        .iter()
        .chain(&good)
        .map(|what| told(&format!("/{what} ü"), what));
    cluster.plain_publish(views);
    cluster.drained(&bus, "web", "hooked").await;
    let (_, milestones) = counted(&cluster, &bus, 0).await;
    assert_eq!(milestones, 1 + 1 + 3, "{}", host.log());

    let letters = letters(&cluster, &bus).await;
    assert_eq!(letters.len(), bad.len(), "{letters:?}");
    let found = |what: &str| {
        let letter = letters.iter().find(|l| l.key == format!("/{what} ü"));
        letter.unwrap_or_else(|| panic!("no letter of {what}:\n{}", host.log()))
    };
    let reject = found("reject");
    assert_eq!((reject.reason.as_str(), reject.attempts), ("rejected", 1));
    assert_eq!(reject.site, format!("http://127.0.0.1:{port}/greet"));
    let begins = "answered 422 Unprocessable Entity: {\"why\": \"no\\nsuch page!!!";
    assert!(reject.message.starts_with(begins), "{}", reject.message);
    assert!(reject.message.len() < 1100, "{}", reject.message.len());
    for (what, words) in [
        (
            "fail",
            "answered 500 Internal Server Error: {\"why\": \"out of order\"}",
        ),
        ("slow", "still running after 1000 ms"),
        (
            "elsewhere",
            "answered 307 Temporary Redirect /count: redirects are not followed",
        ),
        ("chatty", "as \"text/plain\", which is no CloudEvent"),
        ("torn", "its answer broke off"),
        ("endless", "its answer is longer than 16777216 bytes"),
    ] {
        let letter = found(what);
        assert!(letter.message.contains(words), "{what}: {}", letter.message);
        assert_eq!(
            (letter.reason.as_str(), letter.attempts),
            ("attempts", 2),
            "{what}"
        );
    }
    let unknown = found("unknown");
    assert!(
        unknown
            .message
            .contains("its manifest names web.page.milestone"),
        "{}",
        unknown.message
    );
    // Not followed: nobody has asked the other path.
    let elsewhere = hook.requests("/elsewhere ü");
    assert!(
        elsewhere.iter().all(|asked| asked["path"] == "/greet"),
        "{elsewhere:?}"
    );

    // Left alone for as long as it has asked, and then asked the same.
    let log = host.log();
    let left = log
        .lines()
        .find(|line| line.contains("will be tried again") && line.contains("\"delay\":\"2s\""));
    assert!(left.is_some_and(|line| line.contains("503")), "{log}");
    are_known_again(&hook, &good);

    // An operator who only looks does not ask the service.
    let before = hook.requests("/reject ü").len();
    let (_, tried) = super::oncue(&cluster, &["dlq", "redrive", "--dry-run", &reject.event_id]);
    assert!(tried.contains("it was not asked"), "{tried}");
    assert_eq!(hook.requests("/reject ü").len(), before);
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
}

/// A service is told who asks, by what a file and a variable hold; the file may be replaced under way.
#[tokio::test]
async fn a_service_is_told_who_asks() {
    let port = free_port();
    let headers = "headers = { authorization = \"file:token\", x-team = \"env:HOOK_TEAM\" }";
    let mut cluster = Cluster::new(&hooked("hooked", port, "greet", headers)).await;
    let token = cluster.dir.join("token");
    let refused = async |cluster: &Cluster, words: &str| {
        let mut host = cluster.spawn("oncue-host", &["hooked"]);
        assert_eq!(host.exit().await, Some(1), "{}", host.log());
        assert!(host.log().contains(words), "{}", host.log());
    };
    refused(&cluster, "headers: authorization: ").await;
    std::fs::write(&token, "Bearer first\n").expect("written");
    refused(
        &cluster,
        "headers: x-team: the variable HOOK_TEAM is not set",
    )
    .await;
    cluster.set("HOOK_TEAM", "blue");
    // A question needs no secrets.
    std::fs::rename(&token, cluster.dir.join("aside")).expect("moved");
    assert!(
        cluster
            .output("oncue-host", &["hooked", "--manifest"])
            .status
            .success()
    );
    std::fs::rename(cluster.dir.join("aside"), &token).expect("moved");

    let hook = Hook::start(&cluster, port);
    let bus = cluster.bus().await;
    let mut host = cluster.spawn("oncue-host", &["hooked"]);
    host.wait_for_line("\"message\":\"ready\"").await;
    for (page, token_now) in [("/1", "Bearer first"), ("/2", "Bearer second")] {
        std::fs::write(&token, token_now).expect("written");
        cluster.plain_publish([told(page, "nothing")]);
        cluster.drained(&bus, "web", "hooked").await;
        let asked = hook.requests(page);
        let last = &asked.last().expect("a request")["headers"];
        assert_eq!(
            (&last["authorization"], &last["x-team"]),
            (&token_now.into(), &"blue".into())
        );
    }
    // One that is gone costs the event an attempt and no more.
    std::fs::remove_file(&token).expect("removed");
    cluster.plain_publish([told("/3", "nothing")]);
    host.wait_for_line("will be tried again").await;
    std::fs::write(&token, "Bearer third").expect("written");
    cluster.drained(&bus, "web", "hooked").await;
    assert_eq!(hook.requests("/3").len(), 1, "asked once it could be");
    assert!(!host.log().contains("Bearer"), "{}", host.log());
    assert_eq!(host.stop().await, Some(0), "{}", host.log());
}

/// A second request about an event carries what the first did, and those about others another key.
fn are_known_again(hook: &Hook, good: &[&str]) {
    let busy = hook.requests("/busy ü");
    assert_eq!(busy.len(), 2, "{busy:?}");
    let header = |turn: usize, name: &str| busy[turn]["headers"][name].as_str().unwrap_or_default();
    for same in ["idempotency-key", "ce-id", "ce-flowid", "ce-time"] {
        assert!(!header(0, same).is_empty(), "{same}: {busy:?}");
        assert_eq!(header(0, same), header(1, same), "{same}");
    }
    assert_eq!(
        [header(0, "ce-attempt"), header(1, "ce-attempt")],
        ["1", "2"]
    );
    assert_eq!(header(0, "ce-specversion"), "1.0");
    assert_eq!(header(0, "ce-type"), "web.page.viewed");
    assert_eq!(header(0, "ce-subject"), "/busy%20%C3%BC");
    assert_eq!(header(0, "content-type"), "application/json");
    let keys: std::collections::BTreeSet<String> = good
        .iter()
        .flat_map(|what| hook.requests(&format!("/{what} ü")))
        .map(|asked| asked["headers"]["idempotency-key"].to_string())
        .collect();
    assert_eq!(keys.len(), good.len(), "a key for each event");
}
