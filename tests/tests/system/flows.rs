//! The flow ledger as workers write it: never stuck, never early, whoever is killed. `make flows` does it with more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, free_port, until, wait_for_port};
use oncue_tests::pictures;
use reqwest::Response;
use serde_json::Value;

const WORKERS: [&str; 7] = [
    "count-views",
    "rank-pages",
    "inspect-file",
    "enforce-quota",
    "make-thumbnails",
    "remove-file",
    "track-file",
];

struct Site {
    cluster: Cluster,
    client: Client,
    workers: Vec<Process>,
    _gateway: Process,
}

impl Site {
    async fn open(copies: usize) -> Self {
        let toml =
            "[gateway]\nexpose = [\"pages\", \"files\", \"owners\"]\n[flows]\nmax_wait = \"60s\"\n"
                .to_owned();
        let functions =
            WORKERS.map(|name| format!("[functions.{name}]\n{QUICK_REDELIVERY}\nattempts = 50\n"));
        let toml = toml + &functions.concat();
        let mut cluster = Cluster::new(&toml).await;
        let port = free_port();
        cluster.set("ONCUE_GATEWAY_LISTEN", &format!("127.0.0.1:{port}"));
        let gateway = cluster.spawn("oncue-gateway", &[]);
        wait_for_port(port).await;
        let names: Vec<&str> = WORKERS
            .iter()
            .flat_map(|name| vec![*name; copies])
            .collect();
        let workers = cluster.start_all(&names).await;
        Self {
            cluster,
            client: Client {
                url: format!("http://127.0.0.1:{port}"),
                http: reqwest::Client::new(),
            },
            workers,
            _gateway: gateway,
        }
    }
}

/// A client of its own, so that the killer can have the workers.
#[derive(Clone)]
struct Client {
    url: String,
    http: reqwest::Client,
}

impl Client {
    async fn click(&self, page: &str, wish: (&str, &str)) -> Response {
        let body = serde_json::json!({ "page": page, "visitor": "v" }).to_string();
        let request = self
            .http
            .post(format!("{}/v1/events/web.page.viewed", self.url))
            .body(body);
        let request = request
            .header("content-type", "application/json")
            .header(wish.0, wish.1);
        request.send().await.expect("the gateway answers")
    }

    async fn upload(&self, name: &str, bytes: Vec<u8>, wish: (&str, &str)) -> Response {
        let request = self
            .http
            .put(format!("{}/v1/files/{name}", self.url))
            .body(bytes);
        request
            .header("oncue-owner", name)
            .header(wish.0, wish.1)
            .send()
            .await
            .expect("the gateway answers")
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("the gateway answers");
        answer.json().await.expect("JSON")
    }

    async fn flow(&self, id: &str) -> Value {
        self.json(&format!("/v1/flows/{id}")).await
    }
}

/// Kills one worker after another with -9 and starts it again, until told to stop; how many it killed.
async fn killing(site: &mut Site, stop: &AtomicBool) -> usize {
    let mut killed = 0;
    while !stop.load(Ordering::Relaxed) {
        let victim = fastrand::usize(..site.workers.len());
        let name = site.workers[victim].name.clone();
        site.workers[victim].kill();
        killed += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        site.workers[victim] = site.cluster.start(&name).await;
    }
    killed
}

/// Uploads of one test: `ONCUE_TEST_FLOWS`, or fewer where nobody has asked for more.
fn uploads(few: usize) -> usize {
    std::env::var("ONCUE_TEST_FLOWS")
        .ok()
        .map_or(few, |text| text.parse().expect("a number of uploads"))
}

/// As many clicks as uploads, tracked, while workers are killed; what the gateway said of each.
async fn begin(client: &Client, uploads: usize) -> Vec<Value> {
    let track = ("oncue-track", "1");
    let mut flows = Vec::new();
    for n in 0..uploads {
        let click = client.click(&format!("/p{}", n % 10), track).await;
        let upload = client
            .upload(
                &format!("p{n}.jpg"),
                pictures::jpeg_with_orientation((n % 8 + 1) as u8),
                track,
            )
            .await;
        for answer in [click, upload] {
            assert_eq!(answer.status(), 202);
            let flow: Value = answer.json().await.expect("JSON");
            assert_eq!(flow["tracked"], true);
            flows.push(flow);
        }
    }
    flows
}

#[tokio::test]
async fn flows_under_kill_9_become_complete_or_say_what_they_wait_for() {
    let mut site = Site::open(2).await;
    let (client, stop, began) = (
        site.client.clone(),
        Arc::new(AtomicBool::new(false)),
        Instant::now(),
    );
    let watching = {
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            let flows = begin(&client, uploads(100)).await;
            for flow in &flows {
                let id = flow["flow"].as_str().expect("an id");
                until(&format!("flow {id} is complete"), async || {
                    let shown = client.flow(id).await;
                    let complete = shown["status"] == "complete";
                    assert_eq!(
                        complete,
                        shown["waits_for"].is_null(),
                        "it says what it waits for: {shown}"
                    );
                    assert_eq!(complete, shown["open"] == 0, "{shown}");
                    complete.then_some(())
                })
                .await;
            }
            stop.store(true, Ordering::Relaxed);
            flows
        }
    };
    let (flows, killed) = tokio::join!(watching, killing(&mut site, &stop));
    assert!(killed > 0, "nobody was killed");
    println!(
        "{} flows complete after {:.1?}, {killed} workers killed",
        flows.len(),
        began.elapsed()
    );
    // Complete means that all of it is there, and only once.
    let mut views: BTreeMap<String, u64> = BTreeMap::new();
    for flow in &flows {
        let shown = client.flow(flow["flow"].as_str().unwrap_or_default()).await;
        let steps = shown["events"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|event| event["steps"].as_array().into_iter().flatten());
        assert!(
            steps.clone().count() > 0 && steps.clone().all(|step| step["state"] == "done"),
            "{shown}"
        );
        match flow["file"].as_str() {
            Some(file) => {
                let row = client.json(&format!("/v1/state/files/{file}")).await;
                assert_eq!(
                    (&row["status"], row["thumbnails"].as_array().map(Vec::len)),
                    (&"accepted".into(), Some(2)),
                    "{row}"
                );
            }
            None => {
                *views
                    .entry(flow["key"].as_str().unwrap_or_default().to_owned())
                    .or_default() += 1;
            }
        }
    }
    for (page, sent) in views {
        let row = client
            .json(&format!("/v1/state/pages/{}", page.replace('/', "%2F")))
            .await;
        assert_eq!(row["views"], sent, "{page}");
    }
}

#[tokio::test]
async fn prefer_wait_answers_when_the_last_hop_has_committed_and_never_before() {
    let mut site = Site::open(1).await;
    let Client { url, http } = site.client.clone();
    let (stop, began, all) = (
        Arc::new(AtomicBool::new(false)),
        Instant::now(),
        uploads(40),
    );
    let waiting = {
        let stop = stop.clone();
        async move {
            let one = |n: usize| {
                let (url, http) = (url.clone(), http.clone());
                async move {
                    let request = http
                        .put(format!("{url}/v1/files/w{n}.jpg"))
                        .header("prefer", "wait=60");
                    let request = request
                        .header("oncue-owner", format!("w{n}"))
                        .body(pictures::jpeg_with_orientation((n % 8 + 1) as u8));
                    let answer = request.send().await.expect("the gateway answers");
                    assert_eq!(
                        answer.status(),
                        200,
                        "complete within a minute: {}",
                        answer.text().await.unwrap_or_default()
                    );
                    let flow: Value = answer.json().await.expect("JSON");
                    // Read at once: had it answered before the last hop, the row would lack what that brings.
                    let file = flow["events"][0]["key"]
                        .as_str()
                        .expect("a file")
                        .to_owned();
                    let row = http
                        .get(format!("{url}/v1/state/files/{file}"))
                        .send()
                        .await
                        .expect("an answer");
                    let row: Value = row.json().await.expect("JSON");
                    let thumbnails = row["thumbnails"].as_array().map(Vec::len);
                    assert_eq!(
                        (&row["status"], thumbnails),
                        (&"accepted".into(), Some(2)),
                        "{row}\n{flow}"
                    );
                }
            };
            for round in 0..all.div_ceil(8) {
                let uploads: tokio::task::JoinSet<()> =
                    (0..8).map(|n| one(round * 8 + n)).collect();
                uploads.join_all().await; // panics of theirs are passed on
            }
            stop.store(true, Ordering::Relaxed);
        }
    };
    let ((), killed) = tokio::join!(waiting, killing(&mut site, &stop));
    assert!(killed > 0, "nobody was killed");
    println!(
        "{all} uploads waited for, none answered early, {:.1?}, {killed} workers killed",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_frozen_function_is_named_and_the_answer_comes_once_it_goes_on() {
    let site = Site::open(1).await;
    let client = &site.client;
    let thumbnails = site
        .workers
        .iter()
        .find(|worker| worker.name == "make-thumbnails")
        .expect("it runs");
    thumbnails.signal("STOP");
    let answer = client
        .upload(
            "frozen.jpg",
            pictures::jpeg_with_orientation(1),
            ("prefer", "wait=4"),
        )
        .await;
    assert_eq!(answer.status(), 202);
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(body["waits_for"]["function"], "make-thumbnails", "{body}");
    thumbnails.signal("CONT");
    let path = format!(
        "{}/v1/flows/{}",
        client.url,
        body["flow"].as_str().expect("an id")
    );
    let answer = client
        .http
        .get(path)
        .header("prefer", "wait=60")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    let row = client
        .json(&format!(
            "/v1/state/files/{}",
            body["file"].as_str().expect("a file")
        ))
        .await;
    assert_eq!(row["thumbnails"].as_array().map(Vec::len), Some(2), "{row}");
}
