//! Logs that `oncue up` keeps: read by `oncue logs` while it runs and after, bounded in a storm.

use oncue_tests::cluster::{Cluster, SMALL_STREAMS, until};
use serde_json::{Value, json};

/// Poison events of the storm; each fails with a text of its own.
const POISON: usize = 60;

/// Lines that `oncue logs --json` prints.
fn logs(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let args = [&["logs", "--json", "-n", "10000"], args].concat();
    let output = cluster.output("oncue", &args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn has(lines: &[Value], text: &str) -> usize {
    let found = lines
        .iter()
        .filter(|line| line["text"].as_str().is_some_and(|t| t.contains(text)));
    found.count()
}

#[tokio::test]
async fn lines_are_kept_by_function_storms_counted_and_last_words_are_errors() {
    let functions = "[functions.misbehave]\nattempts = 1\n[functions.record]\n";
    let mut cluster = Cluster::new(&format!("{SMALL_STREAMS}{functions}")).await;
    let mut up = cluster.up().await;
    let bus = cluster.bus().await;
    assert_eq!(has(&logs(&cluster, &["misbehave"]), "ready"), 1);
    assert_eq!(
        has(&logs(&cluster, &["record"]), "ready"),
        1,
        "each has its own"
    );

    cluster.plain_publish((0..POISON).map(|number| {
        let event = json!({ "page": format!("/{number}"), "referrer": "reject" });
        ("web.page.viewed", event.to_string())
    }));
    until("the letters", async || {
        (cluster.count(&bus, "dlq").await >= POISON as u64).then_some(())
    })
    .await;
    let told = until("the rest of the storm", async || {
        let lines = logs(&cluster, &["misbehave"]);
        (has(&lines, "more lines like this") > 0).then_some(lines)
    })
    .await;
    let complaints = told
        .iter()
        .filter(|line| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap()));
    let complaints: Vec<&Value> = complaints.collect();
    assert!(complaints.len() < POISON / 2, "{complaints:#?}");
    let flow = complaints.iter().find_map(|line| line["flow"].as_str());
    let flow = flow.expect("a line of a flow");
    let of_flow = logs(&cluster, &["--flow", flow]);
    assert!(
        !of_flow.is_empty() && of_flow.iter().all(|line| line["flow"] == flow),
        "{of_flow:#?}"
    );

    // Whoever ends on its own leaves an error behind.
    let output = cluster.output("oncue", &["ps", "--json"]);
    let ps: Value = serde_json::from_slice(&output.stdout).unwrap();
    let line = ps
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["function"] == "record")
        .unwrap();
    let instance = line["instances"][0]
        .as_str()
        .unwrap_or_else(|| panic!("{line}"));
    let pid = instance.rsplit('-').next().unwrap();
    assert!(
        std::process::Command::new("kill")
            .args(["-9", pid])
            .status()
            .unwrap()
            .success()
    );
    let told = until("its end in the log", async || {
        let lines = logs(&cluster, &["record"]);
        (has(&lines, "was killed by signal 9") > 0).then_some(lines)
    })
    .await;
    let end = told
        .iter()
        .find(|line| line["text"].as_str().unwrap().contains("signal 9"))
        .unwrap();
    assert_eq!(end["level"], "ERROR");

    until("the next of its kind", async || {
        (has(&logs(&cluster, &["record"]), "ready") == 2).then_some(())
    })
    .await;
    assert_eq!(up.stop().await, Some(0));
    assert!(
        has(&logs(&cluster, &["record"]), "ready") >= 2,
        "also when nothing runs"
    );
    let unknown = cluster.output("oncue", &["logs", "nobody"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("misbehave"),
        "it names those there are"
    );
}
