//! Processes of a function are replaced from the console, as `oncue restart` does it.

use std::path::PathBuf;

use oncue_tests::cluster::{Cluster, SMALL_STREAMS, built, free_port, until};
use oncue_tests::http::{Answer, JSON, request};
use serde_json::{Value, json};

use super::{Console, TOKEN, login};

/// Folder with the programs that `oncue up` needs, so that one of them can be replaced.
fn programs(cluster: &Cluster) -> PathBuf {
    let folder = cluster.dir.join("bin");
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["oncue-gateway", "oncue-console", "count-views"] {
        std::fs::copy(built(name), folder.join(name)).expect("copied");
    }
    folder
}

/// `oncue up` with its console, and somebody who is logged in.
struct Running {
    at: std::net::SocketAddr,
    cookie: String,
}

impl Running {
    async fn get(&self, path: &str) -> Answer {
        request(self.at, "GET", path, &[("cookie", &self.cookie)], "").await
    }

    async fn post(&self, path: &str) -> Answer {
        let headers = [JSON, ("cookie", self.cookie.as_str())];
        request(self.at, "POST", path, &headers, "{}").await
    }

    /// Ids of the workers, once there are so many and none is of `others`.
    async fn workers(&self, count: usize, others: &[String]) -> Vec<String> {
        until("the workers", async || {
            let said = self.get("/api/functions/count-views").await.json();
            let workers = said["instances"].as_array()?.iter();
            let ids: Vec<String> = workers
                .filter_map(|one| Some(one["id"].as_str()?.to_owned()))
                .collect();
            let is_new = !ids.iter().any(|id| others.contains(id));
            (ids.len() == count && is_new).then_some(ids)
        })
        .await
    }

    async fn restart(&self) -> Value {
        let begun = self.post("/api/functions/count-views/restart").await;
        let job = begun.ok_json()["job"].clone();
        until("the end of it", async || {
            let how = self.get(&format!("/api/jobs/{job}")).await.ok_json();
            (how["ended"] == true).then_some(how)
        })
        .await
    }
}

#[tokio::test]
async fn a_function_is_restarted_and_one_that_does_not_become_ready_ends_it() {
    let config = format!(
        "{SMALL_STREAMS}[console]\nwrite = true\n[functions.count-views]\nmin = 2\nmax = 2\n"
    );
    let mut cluster = Cluster::new(&config).await;
    let bin = programs(&cluster);
    let port = free_port();
    cluster.set("ONCUE_BIN_DIR", &bin.display().to_string());
    cluster.set("ONCUE_CONSOLE_LISTEN", &format!("127.0.0.1:{port}"));
    cluster.set("ONCUE_CONSOLE_TOKEN", TOKEN);
    let mut up = cluster.up().await;
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    oncue_tests::cluster::wait_for_port(port).await;
    let cookie = login(at).await;
    let running = Running { at, cookie };
    let before = running.workers(2, &[]).await;
    let unknown = running.post("/api/functions/nobody/restart").await;
    unknown.problem(404, "not-found");

    // What is let in is what there is now, as by `oncue restart`.
    let file = cluster.dir.join("oncue.toml");
    let written = std::fs::read_to_string(&file).expect("written");
    std::fs::write(
        &file,
        written.replace("max = 2", "max = 2\nack_wait = \"77s\""),
    )
    .expect("written");
    let how = running.restart().await;
    assert_eq!(
        (&how["done"], &how["who"]),
        (&json!(2), &json!("ann@127.0.0.1")),
        "{how}"
    );
    assert!(how["remarks"].to_string().contains("ack_wait"), "{how}");
    let after = running.workers(2, &before).await;

    // One that does not say what it is is not let in.
    let program = bin.join("count-views");
    std::fs::remove_file(&program).expect("there");
    std::fs::copy("/bin/false", &program).expect("copied");
    let how = running.restart().await;
    assert_eq!(how["done"], 0, "{how}");
    let remarks = how["remarks"].to_string();
    assert!(remarks.contains("replaces nothing"), "{remarks}");
    // A program that ends at once: the first process of it is the last, and those that run go on.
    let good = oncue_tests::cluster::built("count-views");
    let good = good.display();
    let ends = format!("#!/bin/sh\ncase \"$1\" in --*) exec {good} \"$1\";; esac\nexit 3\n");
    std::fs::write(&program, ends).expect("written");
    let how = running.restart().await;
    assert_eq!(how["done"], 0, "{how}");
    let remarks = how["remarks"].to_string();
    assert!(remarks.contains("ended before it was ready"), "{remarks}");
    let still = running.workers(2, &before).await;
    assert!(still.iter().all(|id| after.contains(id)), "{still:?}");
    assert_eq!(up.stop().await, Some(0));
}

#[tokio::test]
async fn bounds_of_workers_are_set_for_a_reason_and_taken_away() {
    let console = Console::with(Some(TOKEN), true).await;
    let cookie = console.login().await;
    console.pretend("f", &["web.page.viewed"], &[]).await;
    let function = "/api/functions/f";
    until("the function is known", async || {
        let found = console.get_as(&cookie, function).await;
        (found.status == 200).then_some(())
    })
    .await;
    let path = "/api/functions/f/bounds";
    for (wanted, words) in [
        (json!({ "min": 1, "max": 2 }), "say why"),
        (json!({ "min": 3, "max": 2, "why": "x" }), "more than max"),
        (json!({ "min": 0, "max": 0, "why": "x" }), "oncue pause"),
        (
            json!({ "min": 0, "max": 1000, "why": "x" }),
            "more than 256",
        ),
        (json!({ "min": -1, "max": 1, "why": "x" }), ""),
    ] {
        let refused = console.post_as(&cookie, path, &wanted).await;
        let why = refused.problem(400, "malformed");
        assert!(why.contains(words), "{wanted}: {why}");
    }
    let wanted = json!({ "min": 1, "max": 4, "why": "a sale" });
    for unknown in ["nobody", "%2A", "a.b"] {
        let path = format!("/api/functions/{unknown}/bounds");
        let refused = console.post_as(&cookie, &path, &wanted).await;
        refused.problem(404, "not-found");
    }
    console.post_as(&cookie, path, &wanted).await.ok_json();
    let set = console.get_as(&cookie, function).await.ok_json()["bounds"]["set"].clone();
    assert_eq!(
        (&set["min"], &set["max"], &set["by"], &set["reason"]),
        (
            &json!(1),
            &json!(4),
            &json!("ann@127.0.0.1"),
            &json!("a sale")
        )
    );
    let reset = format!("{path}/reset");
    console.post_as(&cookie, &reset, &json!({})).await.ok_json();
    let after = console.get_as(&cookie, function).await.ok_json();
    assert_eq!(after["bounds"]["set"], Value::Null);
}

#[tokio::test]
async fn where_no_oncue_up_runs_it_says_so() {
    let console = Console::with(Some(TOKEN), true).await;
    let cookie = console.login().await;
    console.pretend("f", &["web.page.viewed"], &[]).await;
    until("the function is known", async || {
        let found = console.get_as(&cookie, "/api/functions/f").await;
        (found.status == 200).then_some(())
    })
    .await;
    let path = "/api/functions/f/restart";
    let refused = console.post_as(&cookie, path, &json!({})).await;
    let why = refused.problem(409, "refused");
    assert!(why.contains("no `oncue up` of this app runs"), "{why}");
}
