//! Changes of a function, a row or a contract: what they would lose is refused before it happens, with the way around it,
//! and two versions at work at once lose and double nothing.

use std::process::Output;

use oncue_core::contract;
use oncue_core::store::Store;
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, until};
use serde_json::{Value, json};

const PAGES: u64 = 4;

async fn cluster() -> Cluster {
    Cluster::new(&format!(
        "[functions.changing]\n{QUICK_REDELIVERY}\nattempts = 2"
    ))
    .await
}

/// Programs as of one version: their names, and which they are.
struct Version<'c> {
    cluster: &'c Cluster,
    change: &'static str,
}

impl Version<'_> {
    async fn start(&self) -> Process {
        let change = ("ONCUE_TEST_CHANGE", self.change.to_owned());
        let worker = self.cluster.spawn_with("changing", &[], &[change]);
        worker.wait_for_line("ready").await;
        worker
    }

    fn oncue(&self, args: &[&str]) -> Answer {
        let change = format!("ONCUE_TEST_CHANGE={}", self.change);
        let oncue = oncue_tests::cluster::built("oncue").display().to_string();
        let args = [&[change.as_str(), oncue.as_str()], args].concat();
        let output = self.cluster.output("/usr/bin/env", &args);
        output.into()
    }
}

/// Text of a command, and the code it ended with.
#[derive(Debug)]
pub struct Answer {
    code: i32,
    text: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self {
            code: output.status.code().unwrap_or(-1),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}

impl Answer {
    #[track_caller]
    pub fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}", self.text);
        for word in words {
            assert!(
                self.text.contains(word),
                "{word:?} is not in\n{}",
                self.text
            );
        }
    }
}

impl Answer {
    #[track_caller]
    fn lacks(&self, words: &str) {
        assert!(!self.text.contains(words), "{}", self.text);
    }
}

fn version<'c>(cluster: &'c Cluster, change: &'static str) -> Version<'c> {
    Version { cluster, change }
}

fn view(n: u64) -> (&'static str, String) {
    let page = n % PAGES;
    let view = format!(r#"{{"page":"/p{page}","visitor":"v{n}"}}"#);
    ("web.page.viewed", view)
}

/// Sum of the counts of all rows, of whichever version.
async fn counted(cluster: &Cluster, store: &Store) -> u64 {
    let mut sum = 0;
    for page in 0..PAGES {
        let row = cluster.row(store, "changes", &format!("/p{page}")).await;
        let count = row.get("seen").or_else(|| row.get("count"));
        sum += count
            .and_then(|count| count.parse::<u64>().ok())
            .unwrap_or(0);
    }
    sum
}

async fn all_counted(cluster: &Cluster, store: &Store, of: u64) {
    until("all is counted", async || {
        let counted = counted(cluster, store).await;
        assert!(counted <= of, "{counted} of {of}: doubled");
        (counted == of).then_some(())
    })
    .await;
}

fn audit(version: &Version<'_>) -> Value {
    let answer = version.oncue(&["audit", "--json"]);
    let line = answer.text.lines().next().unwrap_or_default();
    let audits: Value = serde_json::from_str(line).expect("JSON");
    audits[0].clone()
}

#[tokio::test]
async fn a_trigger_changes_once_nothing_of_the_old_one_waits() {
    let cluster = cluster().await;
    let store = cluster.store().await;
    let first = version(&cluster, "");
    let trigger = version(&cluster, "trigger");
    first
        .oncue(&["apply"])
        .says(0, &["+ consumer web/app_changing"]);
    let mut worker = first.start().await;
    cluster.plain_publish((0..8).map(view));
    all_counted(&cluster, &store, 8).await;
    worker.stop().await;
    // Three wait, and the new program would never look at them.
    cluster.plain_publish((8..11).map(view));
    let said = ["3 of web.page.viewed", "--set-aside changing"];
    trigger.oncue(&["apply"]).says(1, &said);
    trigger.oncue(&["apply", "--dry-run"]).says(1, &said);
    trigger.oncue(&["check"]).says(1, &said);
    // A worker that does not care about `apply` is refused too.
    let refused = cluster.spawn_with("changing", &[], &[("ONCUE_TEST_CHANGE", "trigger".into())]);
    refused
        .wait_for_line("exists with another configuration")
        .await;
    drop(refused);
    let names = ["apply", "--set-aside", "nobody"];
    trigger.oncue(&names).says(2, &["no such function"]);
    trigger
        .oncue(&["apply", "--set-aside", "changing"])
        .says(0, &["~ consumer"]);
    let letters = trigger.oncue(&["dlq", "ls"]);
    letters.says(0, &["set_aside", "does not act on events of this type"]);
    let mut worker = trigger.start().await;
    let milestone = r#"{"page":"/p0","views":10}"#.to_owned();
    cluster.plain_publish([("web.page.milestone", milestone), view(11)]);
    all_counted(&cluster, &store, 9).await;
    let sums = audit(&trigger);
    assert_eq!(
        (&sums["lost"], &sums["accepted"]),
        (&0.into(), &12.into()),
        "{sums}"
    );
    assert_eq!(
        (&sums["applied"], &sums["dead"]),
        (&9.into(), &3.into()),
        "{sums}"
    );
    worker.stop().await;
    // And back: the view that came in between was nobody's, and nothing is lost.
    first.oncue(&["apply"]).says(0, &["~ consumer"]);
    let mut worker = first.start().await;
    cluster.plain_publish([view(12)]);
    all_counted(&cluster, &store, 10).await;
    let sums = audit(&first);
    assert_eq!(
        (&sums["lost"], &sums["accepted"]),
        (&0.into(), &13.into()),
        "{sums}"
    );
    // What was set aside comes back on demand.
    first
        .oncue(&["dlq", "redrive", "--all", "--yes"])
        .says(0, &[]);
    all_counted(&cluster, &store, 13).await;
    worker.stop().await;
    // What was nobody's has no mark, which is no loss.
    first.start().await.stop().await;
    first.oncue(&["doctor"]).lacks("went back in time");
}

/// A function that moves to another domain would leave its consumer behind with all that waits.
#[tokio::test]
async fn a_function_moves_to_another_domain_once_nothing_is_left_behind() {
    let cluster = cluster().await;
    let store = cluster.store().await;
    let first = version(&cluster, "");
    let moved = version(&cluster, "domain");
    first.oncue(&["apply"]).says(0, &[]);
    cluster.plain_publish((0..3).map(view));
    for command in ["apply", "check"] {
        let said = [
            "domain web so far, of which 3 wait",
            "oncue remove changing",
        ];
        moved.oncue(&[command]).says(1, &said);
    }
    let mut worker = first.start().await;
    all_counted(&cluster, &store, 3).await;
    worker.stop().await;
    moved.oncue(&["apply"]).says(1, &["of which 0 wait"]);
    moved.oncue(&["remove", "changing", "--yes"]).says(0, &[]);
    moved
        .oncue(&["apply"])
        .says(0, &["+ consumer files/app_changing"]);
    moved.start().await.stop().await;
}

/// The broken twin: with the consumer given its new trigger past `oncue apply`, what waited is passed over, and missed.
#[tokio::test]
async fn a_trigger_that_is_changed_by_hand_loses_what_waits() {
    let cluster = cluster().await;
    let store = cluster.store().await;
    let first = version(&cluster, "");
    first.oncue(&["apply"]).says(0, &[]);
    cluster.plain_publish((0..3).map(view));
    edit_trigger(&cluster, "web.page.viewed", "web.page.milestone").await;
    let mut worker = version(&cluster, "trigger").start().await;
    let milestone = r#"{"page":"/p0","views":10}"#.to_owned();
    cluster.plain_publish([("web.page.milestone", milestone)]);
    all_counted(&cluster, &store, 1).await;
    worker.stop().await;
    edit_trigger(&cluster, "web.page.milestone", "web.page.viewed").await;
    // The old program misses their marks, and does not begin.
    let mut refused = cluster.spawn_with("changing", &[], &[("ONCUE_TEST_CHANGE", String::new())]);
    assert_eq!(refused.exit().await, Some(1));
    let sums = audit(&first);
    assert_eq!(sums["lost"], 3, "{sums}");
}

/// Changes what the consumer listens to, as an operator with the tools of NATS would.
async fn edit_trigger(cluster: &Cluster, from: &str, to: &str) {
    let bus = cluster.bus().await;
    let info = bus
        .api("CONSUMER.INFO.web.app_changing", &Value::Null)
        .await;
    let mut config = info.expect("a consumer")["config"].clone();
    let filters = config["filter_subjects"].to_string().replace(from, to);
    config["filter_subjects"] = serde_json::from_str(&filters).expect("a list");
    let body = json!({ "stream_name": "web", "config": config, "action": "update" });
    let edited = bus.api("CONSUMER.CREATE.web.app_changing", &body).await;
    edited.expect("edited");
}

#[tokio::test]
async fn a_key_changes_once_nothing_waits() {
    let cluster = cluster().await;
    let first = version(&cluster, "");
    let key = version(&cluster, "key");
    first.oncue(&["apply"]).says(0, &[]);
    cluster.plain_publish((0..3).map(view));
    let said = ["its key was its own, and is visitor", "3 events wait"];
    key.oncue(&["apply"]).says(1, &said);
    let mut worker = first.start().await;
    let store = cluster.store().await;
    all_counted(&cluster, &store, 3).await;
    cluster
        .drained(&cluster.bus().await, "web", "changing")
        .await;
    worker.stop().await;
    key.oncue(&["apply"]).says(0, &["~ consumer"]);
    let mut worker = key.start().await;
    cluster.plain_publish([view(0)]);
    until("it is counted under its visitor", async || {
        let row = cluster.row(&store, "changes", "v0").await;
        (row.get("count").map(String::as_str) == Some("1")).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn old_and_new_rows_live_side_by_side() {
    let cluster = cluster().await;
    let store = cluster.store().await;
    let first = version(&cluster, "");
    let rows = version(&cluster, "rows");
    let mut old = first.start().await;
    cluster.plain_publish((0..40).map(view));
    all_counted(&cluster, &store, 40).await;
    // Both at once: what the new one has upgraded, the old one leaves to it, at no attempt's cost.
    let mut new = rows.start().await;
    let mut published = 40;
    let upgraded = until("the new one has had a turn at /p0", async || {
        cluster.plain_publish((0..40).map(view));
        published += 40;
        all_counted(&cluster, &store, published).await;
        let row = cluster.row(&store, "changes", "/p0").await;
        row.contains_key("_schema").then_some(row)
    })
    .await;
    assert_eq!(upgraded["_schema"], "2");
    assert!(!upgraded.contains_key("count"), "{upgraded:?}");
    assert!(upgraded["nested"].contains("times"), "{upgraded:?}");
    // With the row upgraded, half of the next ones come to the wrong worker first.
    for n in 0..20 {
        cluster.plain_publish((n * 10..n * 10 + 10).map(view));
    }
    published += 200;
    all_counted(&cluster, &store, published).await;
    new.stop().await;
    // Alone, the old one keeps what it cannot read, longer than its attempts would last, and says why.
    cluster.plain_publish([view(0), view(0), view(0)]);
    old.wait_for_line("the row has version 2, this program knows up to 1")
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let letters = oncue_admin::dead_letters::counts(&cluster.bus().await).await;
    assert!(letters.expect("NATS").is_empty());
    assert_eq!(counted(&cluster, &store).await, published);
    first.oncue(&["ps"]).says(0, &["changing"]);
    let list = ["state", "ls", "changes", "--json"];
    first
        .oncue(&list)
        .says(0, &[r#""key":"/p0""#, r#""_schema":2"#]);
    let row = ["state", "get", "changes", "/p0"];
    first.oncue(&row).says(0, &["seen", "s:changes:/p0"]);
    let nothing = ["state", "get", "changes", "/nobody"];
    first
        .oncue(&nothing)
        .says(1, &["there is nothing under changes//nobody"]);
    for unknown in [
        &["state", "get", "nosuch", "x"][..],
        &["state", "ls", "nosuch"],
    ] {
        let said = ["no function has a table nosuch", "tables: changes"];
        first.oncue(unknown).says(1, &said);
    }
    old.stop().await;
    // Nor is the old one let in again.
    rows.oncue(&["apply"]).says(0, &[]);
    let said = ["has version 2, and this program knows up to 1"];
    first.oncue(&["apply"]).says(1, &said);
    let mut new = rows.start().await;
    all_counted(&cluster, &store, published + 3).await;
    new.stop().await;
}

#[tokio::test]
async fn a_program_that_cannot_read_what_is_there_is_found_before_it_runs() {
    let cluster = cluster().await;
    let store = cluster.store().await;
    let first = version(&cluster, "");
    first.oncue(&["apply"]).says(0, &[]);
    let mut worker = first.start().await;
    cluster.plain_publish((0..8).map(view));
    all_counted(&cluster, &store, 8).await;
    cluster.plain_publish([(
        "web.page.viewed",
        r#"{"page":"/p1","visitor":7}"#.to_owned(),
    )]);
    until("the letter is there", async || {
        let letters = oncue_admin::dead_letters::counts(&cluster.bus().await).await;
        letters.ok()?.contains_key("changing").then_some(())
    })
    .await;
    worker.stop().await;
    cluster.plain_publish((8..10).map(view));
    for change in ["", "rows", "key"] {
        let answer = version(&cluster, change).oncue(&["check", "changing", "--samples", "100"]);
        let refused = i32::from(change == "key");
        answer.says(refused, &["4 ok", "2 ok"]);
    }
    let broken = version(&cluster, "broken").oncue(&["check"]);
    broken.says(1, &["4 of 4", "cannot read changes//p", "field count: "]);
    // What `check` says of `apply` is so.
    let said = [
        "cannot read 4 of 4 rows",
        "changes//p",
        "field count: ",
        "--anyway",
    ];
    version(&cluster, "broken").oncue(&["apply"]).says(1, &said);
    version(&cluster, "broken")
        .oncue(&["apply", "--dry-run"])
        .says(1, &said[..1]);
    let anyway = version(&cluster, "broken").oncue(&["apply", "--anyway"]);
    anyway.says(0, &[]);
    // Without servers, and against a contract of before.
    let saved = cluster.dir.join("contract.bin").display().to_string();
    let save = ["check", "--static", "--save", &saved];
    first.oncue(&save).says(0, &["can take over"]);
    let mut before = std::fs::read(&saved).expect("saved");
    let against = ["check", "--static", "--against", &saved];
    first.oncue(&against).says(0, &[]);
    rename(&mut before);
    std::fs::write(&saved, &before).expect("written");
    let said = ["web.PageViewed.visitxr is called visitor now"];
    first.oncue(&against).says(1, &said);
}

/// The contract with a field of another name.
fn rename(set: &mut [u8]) {
    let name = b"visitor";
    let at = set.windows(name.len()).position(|window| window == name);
    let at = at.expect("a field");
    set[at..at + name.len()].copy_from_slice(b"visitxr");
}

#[tokio::test]
async fn a_contract_that_reads_old_events_wrong_is_refused() {
    let cluster = cluster().await;
    let first = version(&cluster, "");
    first.oncue(&["apply"]).says(0, &[]);
    let bus = cluster.bus().await;
    let stored = contract::stored(&bus).await.expect("NATS");
    let mut before = stored["changing"].clone();
    rename(&mut before);
    contract::store(&bus, "changing", before)
        .await
        .expect("NATS");
    let said = [
        "contract of changing",
        "visitxr is called visitor now",
        "--break-contract",
    ];
    first.oncue(&["apply"]).says(1, &said);
    first.oncue(&["check"]).says(1, &said[..2]);
    first.oncue(&["apply", "--break-contract"]).says(0, &[]);
    first.oncue(&["apply"]).says(0, &[]);
    let now = contract::stored(&bus).await.expect("NATS");
    assert_eq!(now, stored);
}

#[tokio::test]
async fn what_waits_for_a_removed_function_can_be_set_aside() {
    let cluster = cluster().await;
    let store = cluster.store().await;
    let first = version(&cluster, "");
    first.oncue(&["apply"]).says(0, &[]);
    cluster.plain_publish((0..5).map(view));
    first
        .oncue(&["remove", "changing", "--yes"])
        .says(1, &["5 events wait", "--set-aside"]);
    let remove = ["remove", "changing", "--set-aside", "--yes"];
    first.oncue(&remove).says(0, &["5 events that waited"]);
    first
        .oncue(&["dlq", "ls"])
        .says(0, &["the function was removed", "5"]);
    // Back again, it begins with the whole stream; what was set aside comes with a redrive, and once.
    first.oncue(&["apply"]).says(0, &["+ consumer"]);
    let mut worker = first.start().await;
    cluster.plain_publish([view(5)]);
    all_counted(&cluster, &store, 1).await;
    first
        .oncue(&["dlq", "redrive", "--all", "--yes"])
        .says(0, &[]);
    all_counted(&cluster, &store, 6).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_a_removed_function_has_handled_does_not_wait() {
    let cluster = cluster().await;
    let first = version(&cluster, "");
    first.oncue(&["apply"]).says(0, &[]);
    let mut worker = first.start().await;
    let bus = cluster.bus().await;
    bus.publish(&named_view("view-1")).await.expect("acked");
    all_counted(&cluster, &cluster.store().await, 1).await;
    cluster.drained(&bus, "web", "changing").await;
    worker.stop().await;
    // As a function does whose NATS has started anew: the stream holds it twice.
    bus.publish(&named_view("view-1")).await.expect("acked");
    assert_eq!(cluster.count(&bus, "web").await, 2);
    bus.publish(&named_view("view-2")).await.expect("acked");
    first
        .oncue(&["remove", "changing", "--yes"])
        .says(1, &["1 events wait"]);
    let remove = ["remove", "changing", "--set-aside", "--yes"];
    first.oncue(&remove).says(0, &["1 events that waited"]);
}

/// A view with an id, which the stream does not know it by.
fn named_view(id: &str) -> Envelope {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-type", "web.page.viewed"),
        ("ce-source", "/test"),
    ];
    let headers = headers.map(|(name, value)| Header {
        name: name.to_owned(),
        value: value.to_owned(),
    });
    Envelope {
        subject: "web.page.viewed".to_owned(),
        headers: headers.to_vec(),
        payload: view(0).1.into(),
    }
}

/// A program that would read events otherwise does not begin, also where nobody has restarted it but its process has died;
/// the events wait.
#[tokio::test]
async fn a_program_that_was_not_let_in_does_not_begin() {
    let cluster = Cluster::new("proto = \"proto\"\n[functions.count-views]\n").await;
    let folder = cluster.dir.join("proto");
    std::fs::create_dir_all(&folder).expect("a folder");
    let stored = |fields: &str| {
        let text = format!(
            "syntax = \"proto3\";\npackage web;\nimport \"oncue/v1/event.proto\";\n\
             message PageViewed {{ option (oncue.v1.event) = {{ type: \"web.page.viewed\", key: \"page\" }};\n{fields} }}\n"
        );
        std::fs::write(folder.join("web.proto"), text).expect("written");
        let made = cluster.output("oncue-host", &["--contract"]);
        assert!(made.status.success(), "{made:?}");
        made.stdout
    };
    let worker = cluster.start("count-views").await;
    drop(worker);
    let bus = cluster.bus().await;
    // As another version has it, which was let in.
    let other = stored("string page = 1; int64 visitor = 2;");
    contract::store(&bus, "count-views", other)
        .await
        .expect("stored");
    let mut refused = cluster.spawn("count-views", &[]);
    assert_eq!(refused.exit().await, Some(1), "{}", refused.log());
    let log = refused.log();
    for words in [
        "web.PageViewed.visitor was int64, and is string",
        "oncue apply --break-contract",
    ] {
        assert!(log.contains(words), "{log}");
    }
    // Whatever only one of both knows keeps nobody from working: versions run side by side.
    let older = stored("string page = 1; string later = 90;");
    contract::store(&bus, "count-views", older)
        .await
        .expect("stored");
    let worker = cluster.spawn("count-views", &[]);
    worker.wait_for_line("\"message\":\"ready\"").await;
}

/// What `oncue check` finds, a restart finds too, since nobody has to think of the one before the other.
#[tokio::test]
async fn a_restart_lets_no_program_in_that_cannot_read_the_rows() {
    let mut cluster = Cluster::new("[functions.changing]\n").await;
    let store = cluster.store().await;
    let mut up = cluster.up().await;
    cluster.plain_publish((0..4).map(view));
    all_counted(&cluster, &store, 4).await;
    let broken = "[functions.changing]\nenv = { ONCUE_TEST_CHANGE = \"broken\" }\n";
    let file = cluster.dir.join("oncue.toml");
    std::fs::write(file, oncue_tests::cluster::named(broken)).expect("written");
    let restart: Answer = cluster.output("oncue", &["restart"]).into();
    let said = [
        "replaces nothing",
        "changing cannot read 4 of 4 rows, such as changes//p",
        "field count: ",
        "--anyway",
    ];
    restart.says(1, &said);
    cluster.plain_publish((4..8).map(view));
    all_counted(&cluster, &store, 8).await;
    let restart: Answer = cluster.output("oncue", &["restart", "--anyway"]).into();
    restart.says(0, &["1 process is replaced"]);
    assert_eq!(up.stop().await, Some(0), "{}", up.log());
}
