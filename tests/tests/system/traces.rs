//! One trace from the HTTP request to the last hop, asked of the trace viewer as a person's browser would.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use oncue_tests::cluster::{
    Process, built, free_port, in_repository, quoted, until, wait_for_port,
};
use oncue_tests::pictures;
use serde_json::{Value, json};

use crate::files::Site;

/// A site whose spans go to a trace viewer of its own.
async fn traced(workers: &[&str]) -> (Site, Viewer) {
    traced_with("", |_| {}, workers).await
}

/// A traced site with more in its `oncue.toml` and its folder.
async fn traced_with(more: &str, prepare: impl FnOnce(&Path), workers: &[&str]) -> (Site, Viewer) {
    let ports: Vec<String> = (0..4).map(|_| free_port().to_string()).collect();
    let env = [
        ("OTEL_SDK_DISABLED", "false"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://127.0.0.1:{}", ports[1]),
        ),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ];
    let site = Site::with(more, prepare, workers, &env).await;
    let args = [
        "--otlp-grpc-port",
        &ports[0],
        "--otlp-http-port",
        &ports[1],
        "--ui-port",
        &ports[2],
        "--health-port",
        &ports[3],
    ];
    let process = site.cluster.spawn("oncue-trace-viewer", &args);
    wait_for_port(ports[2].parse().expect("a port")).await;
    wait_for_port(ports[1].parse().expect("a port")).await;
    (
        site,
        Viewer {
            url: format!("http://127.0.0.1:{}", ports[2]),
            _process: process,
        },
    )
}

struct Viewer {
    url: String,
    _process: Process,
}

impl Viewer {
    /// The trace, once it holds all of `spans` (service and name) under one root. Every process sends its own, so parts
    /// of a trace may be there before what caused them.
    async fn trace(&self, site: &Site, id: &str, spans: &[(&str, &str)]) -> Spans {
        until(
            &format!("trace {id} holds {spans:?} under one root"),
            async || {
                let answer = site
                    .http
                    .get(format!("{}/api/traces/{id}", self.url))
                    .send()
                    .await
                    .ok()?
                    .json::<Value>()
                    .await
                    .ok()?;
                let found = Spans::read(&answer["data"][0]);
                let whole = spans
                    .iter()
                    .all(|(service, name)| !found.named(service, name).is_empty());
                (whole && found.roots().len() == 1).then_some(found)
            },
        )
        .await
    }
}

struct Spans(Vec<(String, Value)>);

impl Spans {
    fn read(trace: &Value) -> Self {
        let spans = trace["spans"].as_array().cloned().unwrap_or_default();
        let service = |span: &Value| {
            let process = span["processID"].as_str().unwrap_or_default();
            trace["processes"][process]["serviceName"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Self(
            spans
                .into_iter()
                .map(|span| (service(&span), span))
                .collect(),
        )
    }

    fn services(&self) -> BTreeSet<&str> {
        self.0.iter().map(|(service, _)| service.as_str()).collect()
    }

    fn roots(&self) -> Vec<&str> {
        let ids: BTreeSet<&str> = self
            .0
            .iter()
            .filter_map(|(_, span)| span["spanID"].as_str())
            .collect();
        let has_parent = |span: &Value| {
            let references = span["references"].as_array().cloned().unwrap_or_default();
            references.iter().any(|r| {
                r["refType"] == "CHILD_OF" && ids.contains(r["spanID"].as_str().unwrap_or_default())
            })
        };
        self.0
            .iter()
            .filter(|(_, span)| !has_parent(span))
            .map(|(service, _)| service.as_str())
            .collect()
    }

    fn tag(span: &Value, key: &str) -> Value {
        let tags = span["tags"].as_array().cloned().unwrap_or_default();
        tags.iter()
            .find(|tag| tag["key"] == key)
            .map(|tag| tag["value"].clone())
            .unwrap_or_default()
    }

    fn named(&self, service: &str, name: &str) -> Vec<&Value> {
        self.0
            .iter()
            .filter(|(s, span)| s == service && span["operationName"] == name)
            .map(|(_, span)| span)
            .collect()
    }
}

/// Functions of the file flow.
const FLOW: [&str; 5] = [
    "inspect-file",
    "enforce-quota",
    "make-thumbnails",
    "remove-file",
    "track-file",
];

#[tokio::test]
async fn an_upload_is_one_trace_across_all_its_hops() {
    let (site, viewer) = traced(&FLOW).await;
    an_upload_is_one_trace(&site, &viewer).await;
}

/// Rust, Python and TypeScript, as the comments in `oncue.toml` switch them: the page sees no difference, nor does the trace.
#[tokio::test]
async fn a_flow_through_three_languages_is_one_trace() {
    let python = quoted(&in_repository(".oncue/venv/bin/python"));
    let config = format!(
        "[functions.enforce-quota]\nrun = [{python}, \"-m\", \"oncue\", \"functions/enforce_quota.py\"]\n\
         [functions.track-file]\nrun = [\"functions/node_modules/.bin/oncue-node\", \"functions/track-file.ts\"]\n"
    );
    let (site, viewer) = traced_with(&config, demo_functions, &FLOW).await;
    an_upload_is_one_trace(&site, &viewer).await;
    let upload = site.upload("text.txt", "bob", b"text".to_vec()).await;
    let row = site
        .file(upload["file"].as_str().expect("id"), |row| {
            row["status"] == "accepted"
        })
        .await;
    assert_eq!(
        (&row["name"], &row["owner"], &row["size"]),
        (&json!("text.txt"), &json!("bob"), &json!(4))
    );
    let store = site.cluster.store().await;
    let owner = site.cluster.row(&store, "owners", "bob").await;
    assert_eq!((&*owner["files"], &*owner["bytes"]), ("1", "4"));
}

/// Puts the demo's functions in Python and TypeScript into a folder, with the types of their events, which are checked.
fn demo_functions(folder: &Path) {
    let functions = folder.join("functions");
    std::fs::create_dir_all(&functions).expect("a folder");
    let sources = in_repository("services/workers/functions");
    for name in [
        "enforce_quota.py",
        "enforce-quota.ts",
        "track-file.ts",
        "package.json",
    ] {
        std::fs::copy(sources.join(name), functions.join(name)).expect("copied");
    }
    symlink(
        in_repository(".oncue/typescript/node_modules"),
        functions.join("node_modules"),
    )
    .expect("linked");
    let options = in_repository("services/runtime/typescript/tests/tsconfig.json");
    std::fs::copy(options, functions.join("tsconfig.json")).expect("copied");
    let made = Command::new("sh")
        .args([
            "-c",
            "node_modules/.bin/oncue-node generate gen && node_modules/.bin/tsc -p .",
        ])
        .current_dir(functions)
        .env("ONCUE_HOST", built("oncue-host"))
        .env("ONCUE_CONFIG", in_repository("oncue.toml"))
        .output()
        .expect("node runs");
    assert!(made.status.success(), "{made:?}");
}

async fn an_upload_is_one_trace(site: &Site, viewer: &Viewer) {
    let upload = site
        .upload("photo.jpg", "ann", pictures::photo(800, 600))
        .await;
    let id = upload["traceparent"]
        .as_str()
        .and_then(|t| t.split('-').nth(1))
        .expect("a trace id");
    site.file(upload["file"].as_str().expect("id"), |row| {
        row["thumbnails"].as_array().is_some_and(|t| t.len() == 3)
    })
    .await;
    // Each function is there once for each event it acted on, as CONSUMER, and what it sent as PRODUCER.
    let names: BTreeMap<(&str, &str), &str> = BTreeMap::from([
        (("inspect-file", "process files.file.uploaded"), "consumer"),
        (("inspect-file", "send files.file.inspected"), "producer"),
        (
            ("enforce-quota", "process files.file.inspected"),
            "consumer",
        ),
        (("enforce-quota", "send files.file.accepted"), "producer"),
        (
            ("make-thumbnails", "process files.file.accepted"),
            "consumer",
        ),
        (("track-file", "process files.file.accepted"), "consumer"),
        (("track-file", "FCALL"), "client"),
    ]);
    let spans = viewer
        .trace(site, id, &names.keys().copied().collect::<Vec<_>>())
        .await;
    assert_eq!(spans.roots(), ["gateway"], "one root");
    for ((service, name), kind) in names {
        let found = spans.named(service, name);
        assert!(
            found
                .iter()
                .all(|span| Spans::tag(span, "span.kind") == kind),
            "{service}: {name} is no {kind}"
        );
    }
    let inspect = spans.named("inspect-file", "process files.file.uploaded")[0];
    assert_eq!(Spans::tag(inspect, "messaging.system"), "nats");
    assert_eq!(Spans::tag(inspect, "cloudevents.event_id"), upload["id"]);
    assert_eq!(Spans::tag(inspect, "oncue.outcome"), "applied");
}

#[tokio::test]
async fn errors_show_and_a_clients_trace_goes_on() {
    let (site, viewer) = traced(&["misbehave"]).await;
    let id = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{id}-b7ad6b7169203331-01");
    let url = format!("{}/v1/events/web.page.viewed", site.url);
    let answer = site
        .http
        .post(&url)
        .header("traceparent", parent)
        .json(&json!({ "page": "/e", "referrer": "reject" }));
    let answer = answer.send().await.expect("an answer");
    assert_eq!(
        answer.headers()["traceparent"]
            .to_str()
            .expect("text")
            .split('-')
            .nth(1),
        Some(id)
    );
    let spans = viewer
        .trace(&site, id, &[("misbehave", "process web.page.viewed")])
        .await;
    let failed = spans.named("misbehave", "process web.page.viewed");
    assert_eq!(failed.len(), 1);
    assert_eq!(Spans::tag(failed[0], "error"), true);
    assert_eq!(Spans::tag(failed[0], "error.type"), "rejected");
    // The log line of the same failure leads to the same trace.
    let log = site.processes[0].log();
    let line = log
        .lines()
        .find(|line| line.contains("dead-lettered"))
        .expect("it was logged");
    let line: Value = serde_json::from_str(line).expect("a JSON line");
    assert_eq!(
        (line["trace_id"].as_str(), line["service"].as_str()),
        (Some(id), Some("misbehave"))
    );
    assert!(line["flow_id"].is_string(), "{line}");
}

#[tokio::test]
async fn a_plain_message_gets_one_trace_for_all_who_act_on_it() {
    let (site, viewer) = traced(&["misbehave", "count-views"]).await;
    site.cluster
        .plain_publish([("web.page.viewed", r#"{"page":"/plain"}"#.to_owned())]);
    let trace = until("both functions show up in one trace", async || {
        let url = format!("{}/api/traces?service=count-views&lookback=1h", viewer.url);
        let found = site
            .http
            .get(url)
            .send()
            .await
            .ok()?
            .json::<Value>()
            .await
            .ok()?;
        let spans = Spans::read(&found["data"][0]);
        (spans.services() == BTreeSet::from(["count-views", "misbehave"])).then_some(spans)
    })
    .await;
    assert_eq!(
        trace.roots().len(),
        2,
        "nobody sent it, so each of them is a root"
    );
}
