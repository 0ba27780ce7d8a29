//! The file flow, from the upload over HTTP to thumbnails and quota.

use std::path::Path;
use std::time::Duration;

use oncue_app_events::web::PageViewed;
use oncue_proto::files::FileUploaded;
use oncue_tests::cluster::{Cluster, Process, free_port, named, until, wait_for_port};
use oncue_tests::pictures;
use prost::Message as _;
use serde_json::{Value, json};

const FLOW: [&str; 5] = [
    "inspect-file",
    "enforce-quota",
    "make-thumbnails",
    "remove-file",
    "track-file",
];

/// The whole file flow behind a gateway.
pub struct Site {
    pub cluster: Cluster,
    pub url: String,
    pub http: reqwest::Client,
    pub processes: Vec<Process>,
}

impl Site {
    pub async fn open(workers: &[&str], env: &[(&str, &str)]) -> Self {
        Self::with("", |_| {}, workers, env).await
    }

    /// A site with more in its `oncue.toml`, and in its folder what `prepare` puts there. A worker that the file says how to run
    /// is in another language.
    pub async fn with(
        more: &str,
        prepare: impl FnOnce(&Path),
        workers: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let toml = format!("[gateway]\nexpose = [\"pages\", \"files\", \"owners\"]\n{more}");
        let mut cluster = Cluster::new(&toml).await;
        prepare(&cluster.dir);
        let port = free_port();
        cluster.set("ONCUE_GATEWAY_LISTEN", &format!("127.0.0.1:{port}"));
        for (name, value) in env {
            cluster.set(name, value);
        }
        let gateway = cluster.spawn("oncue-gateway", &[]);
        wait_for_port(port).await;
        let config = cluster.config();
        let (hosted, own): (Vec<&str>, Vec<&str>) = workers
            .iter()
            .partition(|name| config.function(name).is_hosted());
        let mut processes = cluster.start_all(&own).await;
        for name in hosted {
            let host = cluster.spawn("oncue-host", &[name]);
            host.wait_for_line("\"message\":\"ready\"").await;
            processes.push(host);
        }
        processes.push(gateway);
        Self {
            cluster,
            url: format!("http://127.0.0.1:{port}"),
            http: reqwest::Client::new(),
            processes,
        }
    }

    pub async fn upload(&self, name: &str, owner: &str, bytes: Vec<u8>) -> Value {
        let request = self
            .http
            .put(format!("{}/v1/files/{name}", self.url))
            .header("Oncue-Owner", owner);
        let answer = request
            .body(bytes)
            .send()
            .await
            .expect("the gateway answers");
        assert_eq!(answer.status(), 202, "{:?}", answer.text().await);
        answer.json().await.expect("JSON")
    }

    /// The row of a file, once it satisfies `done`.
    pub async fn file(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        until(&format!("file {id} gets there"), async || {
            let row = self
                .http
                .get(format!("{}/v1/state/files/{id}", self.url))
                .send()
                .await
                .ok()?
                .json::<Value>()
                .await
                .ok()?;
            done(&row).then_some(row)
        })
        .await
    }
}

fn thumbnails(row: &Value) -> Vec<(u64, u64, u64, &str)> {
    let all = row["thumbnails"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let number = |t: &Value, field: &str| t[field].as_u64().unwrap_or(0);
    all.iter()
        .map(|t| {
            (
                number(t, "edge"),
                number(t, "width"),
                number(t, "height"),
                t["media_type"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

#[tokio::test]
#[allow(clippy::too_many_lines)] // one scenario, whose steps build on each other
async fn pictures_become_thumbnails_and_liars_go() {
    let site = Site::open(&FLOW, &[]).await;
    let photo = site
        .upload("photo.jpg", "ann", pictures::photo(3000, 2000))
        .await;
    let alpha = site
        .upload("logo.png", "ann", pictures::png_with_alpha())
        .await;
    let upright: Vec<Value> = {
        let mut uploads = Vec::new();
        for orientation in 1..=8 {
            uploads.push(
                site.upload(
                    &format!("o{orientation}.jpg"),
                    "bob",
                    pictures::jpeg_with_orientation(orientation),
                )
                .await,
            );
        }
        uploads
    };
    let others = [
        ("anim.gif", pictures::gif_of_two_frames()),
        ("lossless.webp", pictures::webp_lossless()),
    ];
    let mut fine = Vec::new();
    for (name, bytes) in others {
        fine.push(site.upload(name, "bob", bytes).await);
    }
    let bad = [
        ("cut.jpg", pictures::truncated_jpeg(), "truncated"),
        ("bomb.png", pictures::png_bomb(), "too-many-pixels"),
        ("note.jpg", pictures::text_named_jpg(), "name-lies"),
    ];
    let mut refused = Vec::new();
    for (name, bytes, reason) in bad {
        refused.push((site.upload(name, "eve", bytes).await, reason));
    }
    let text = site
        .upload("notes.txt", "ann", b"just some words".to_vec())
        .await;

    let row = site
        .file(photo["file"].as_str().expect("id"), |row| {
            thumbnails(row).len() == 3
        })
        .await;
    assert_eq!(
        thumbnails(&row),
        [
            (64, 64, 43, "image/jpeg"),
            (256, 256, 171, "image/jpeg"),
            (1024, 1024, 683, "image/jpeg")
        ]
    );
    let known = ["status", "media_type", "name", "owner", "width", "height"]
        .map(|field| row[field].clone());
    assert_eq!(
        known,
        [
            json!("accepted"),
            json!("image/jpeg"),
            json!("photo.jpg"),
            json!("ann"),
            json!(3000),
            json!(2000)
        ]
    );
    assert_eq!(row["sha256"], photo["sha256"]);
    let row = site
        .file(alpha["file"].as_str().expect("id"), |row| {
            !thumbnails(row).is_empty()
        })
        .await;
    assert!(
        thumbnails(&row).iter().all(|t| t.3 == "image/png"),
        "alpha is kept: {row}"
    );
    for upload in upright.iter().chain(&fine) {
        let row = site
            .file(upload["file"].as_str().expect("id"), |row| {
                !thumbnails(row).is_empty()
            })
            .await;
        assert_eq!(row["status"], "accepted");
    }
    for (upload, reason) in refused {
        let id = upload["file"].as_str().expect("id");
        let row = site.file(id, |row| row["status"] == "removed").await;
        assert!(
            row["reason"].as_str().unwrap_or_default().contains(reason),
            "{reason}: {row}"
        );
        let gone = site
            .http
            .get(format!("{}/v1/files/{id}", site.url))
            .send()
            .await
            .expect("an answer");
        assert_eq!(gone.status(), 404);
    }
    let row = site
        .file(text["file"].as_str().expect("id"), |row| {
            row["status"] == "accepted"
        })
        .await;
    assert_eq!(
        (row["media_type"].as_str(), thumbnails(&row).len()),
        (Some("text/plain"), 0)
    );

    // A turned picture is upright in its thumbnail: the red quadrant is at the top left, whatever the orientation was.
    for upload in &upright {
        let url = format!(
            "{}/v1/files/{}/thumbnails/64",
            site.url,
            upload["file"].as_str().expect("id")
        );
        let answer = site.http.get(url).send().await.expect("an answer");
        assert_eq!(
            (
                answer.status().as_u16(),
                answer.headers()["content-type"].to_str().expect("text")
            ),
            (200, "image/jpeg")
        );
        let picture = image::load_from_memory(&answer.bytes().await.expect("bytes"))
            .expect("a picture")
            .to_rgb8();
        let [red, green, blue] = picture
            .get_pixel(picture.width() / 8, picture.height() / 8)
            .0;
        assert!(
            red > 180 && green < 90 && blue < 90,
            "{upload}: {red} {green} {blue}"
        );
    }
    let bus = site.cluster.bus().await;
    assert_eq!(
        site.cluster.count(&bus, "dlq").await,
        0,
        "{:#?}",
        site.cluster.messages(&bus, "dlq").await
    );
}

#[tokio::test]
async fn a_file_over_quota_is_taken_back() {
    let site = Site::open(&FLOW, &[("QUOTA_BYTES", "1000")]).await;
    let first = site.upload("a.txt", "ann", vec![b'a'; 700]).await;
    let first = first["file"].as_str().expect("id");
    site.file(first, |row| row["status"] == "accepted").await;
    let second = site.upload("b.txt", "ann", vec![b'b'; 700]).await;
    let second = second["file"].as_str().expect("id");
    let row = site.file(second, |row| row["status"] == "removed").await;
    assert_eq!(
        row["reason"],
        "700 bytes, and 300 of the owner's 1000 are free"
    );
    let other = site.upload("b.txt", "bob", vec![b'b'; 700]).await;
    site.file(other["file"].as_str().expect("id"), |row| {
        row["status"] == "accepted"
    })
    .await;
    let bus = site.cluster.bus().await;
    assert!(
        bus.object(second).await.expect("an answer").is_none(),
        "the bytes are gone"
    );
    assert!(bus.object(first).await.expect("an answer").is_some());
    let store = site.cluster.store().await;
    assert_eq!(
        site.cluster.field(&store, "owners", "ann", "bytes").await,
        "700"
    );
}

#[tokio::test]
async fn a_killed_thumbnail_worker_is_made_up_for() {
    let mut site = Site::open(&FLOW, &[]).await;
    let toml = "[gateway]\nexpose = [\"pages\", \"files\", \"owners\"]\n[functions.make-thumbnails]\nack_wait = \"2s\"\n";
    let at = FLOW
        .iter()
        .position(|name| *name == "make-thumbnails")
        .expect("in the flow");
    site.processes[at].stop().await;
    std::fs::write(site.cluster.dir.join("oncue.toml"), named(toml)).expect("written");
    let bus = site.cluster.bus().await;
    bus.api("CONSUMER.DELETE.files.app_make-thumbnails", &Value::Null)
        .await
        .expect("deleted");
    site.cluster.apply("make-thumbnails");
    site.processes[at] = site.cluster.start("make-thumbnails").await;

    let uploads = [
        site.upload("one.jpg", "ann", pictures::photo(3000, 2000))
            .await,
        site.upload("two.jpg", "ann", pictures::photo(2400, 1600))
            .await,
    ];
    until("a picture is in hand", async || {
        let info = bus
            .api("CONSUMER.INFO.files.app_make-thumbnails", &Value::Null)
            .await
            .ok()?;
        (info["num_ack_pending"].as_u64()? > 0).then_some(())
    })
    .await;
    site.processes[at].kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.processes[at] = site.cluster.start("make-thumbnails").await;
    for upload in uploads {
        site.file(upload["file"].as_str().expect("id"), |row| {
            thumbnails(row).len() == 3
        })
        .await;
    }
    let made = site.cluster.messages(&bus, "files").await;
    let ids: std::collections::BTreeSet<&str> = made
        .iter()
        .filter(|m| m.subject.starts_with("files.thumbnail"))
        .filter_map(|m| m.header("ce-id"))
        .collect();
    assert_eq!(ids.len(), 6, "each thumbnail is announced under one id");
}

#[tokio::test]
async fn json_protobuf_and_plain_messages_are_one() {
    let site = Site::open(&["count-views"], &[]).await;
    let url = format!("{}/v1/events/web.page.viewed", site.url);
    let body = PageViewed {
        page: "/x".into(),
        visitor: "v".into(),
        ..PageViewed::default()
    };
    let protobuf = site
        .http
        .post(&url)
        .header("content-type", "application/protobuf")
        .body(body.encode_to_vec());
    assert_eq!(protobuf.send().await.expect("an answer").status(), 202);
    assert_eq!(
        site.http
            .post(&url)
            .json(&json!({ "page": "/x" }))
            .send()
            .await
            .expect("an answer")
            .status(),
        202
    );
    for _ in 0..3 {
        // A client that retries: the id makes it one.
        let again = site
            .http
            .post(&url)
            .header("Idempotency-Key", "order-7")
            .json(&json!({ "page": "/x", "visitor": "w" }));
        assert_eq!(again.send().await.expect("an answer").status(), 202);
    }
    site.cluster.plain_publish([
        ("web.page.viewed", r#"{"page":"/x"}"#.to_owned()),
        ("web.page.viewed.x", r#"{"page":"/x"}"#.to_owned()),
    ]);
    let row = until("five views are counted", async || {
        let row = site
            .http
            .get(format!("{}/v1/state/pages/%2Fx", site.url))
            .send()
            .await
            .ok()?
            .json::<Value>()
            .await
            .ok()?;
        (row["views"].as_u64()? >= 5).then_some(row)
    })
    .await;
    assert_eq!(row["views"], 5);
}

/// An upload whose event was published by somebody who is not the gateway is treated no better.
#[tokio::test]
async fn an_announced_file_that_is_not_there_is_set_aside() {
    let site = Site::open(&FLOW, &[]).await;
    let event = FileUploaded {
        file: "nowhere".into(),
        name: "x.jpg".into(),
        owner: "eve".into(),
        ..FileUploaded::default()
    };
    // Not through the gateway: for the functions' own events it is closed.
    for ty in [
        "files.file.uploaded",
        "files.file.rejected",
        "files.file.inspected",
    ] {
        let answer = site.http.post(format!("{}/v1/events/{ty}", site.url));
        let answer = answer.body("{\"file\":\"x\"}").send().await;
        assert_eq!(answer.expect("an answer").status(), 403, "{ty}");
    }
    let bus = site.cluster.bus().await;
    let payload = event.encode_to_vec().into();
    bus.publish_plain("files.file.uploaded".to_owned(), payload)
        .await
        .expect("published");
    until("it is dead-lettered", async || {
        (site.cluster.count(&bus, "dlq").await == 1).then_some(())
    })
    .await;
}
