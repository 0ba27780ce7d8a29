//! Tokens of a certified OpenID provider, whose keys are replaced under load. It is a program of others, which `make oidc`
//! installs; where it is not, this test says so and does nothing. What a token must be is tried in the gateway's own tests.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oncue_gateway::server::Guards;
use oncue_tests::cluster::{Cluster, Process};
use oncue_tests::http::JSON;
use oncue_tests::skip::skip;
use serde_json::Value;

use super::{Gateway, VIEWED};

/// Clients at a time.
const CLIENTS: usize = 4;
/// New keys, of three kinds in turn.
const ROTATIONS: usize = 4;

/// The provider, if it is installed.
pub fn provider(cluster: &Cluster) -> Option<Process> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc");
    if !folder.join("node_modules").is_dir() {
        skip("oidc", "`make oidc` installs the OpenID provider");
        return None;
    }
    let mut command = Command::new("node");
    command.arg(folder.join("provider.mjs"));
    Some(Process::spawn(
        "provider",
        command,
        cluster.dir.join("provider.log"),
    ))
}

async fn token(client: &reqwest::Client, issuer: &str) -> String {
    let asked = client
        .post(format!("{issuer}/token"))
        .basic_auth("load", Some("not-a-secret"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials&scope=events");
    let answer = asked.send().await.expect("an answer");
    let text = answer.text().await.expect("a body");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let token = answer["access_token"].as_str();
    token
        .unwrap_or_else(|| panic!("no token: {text}"))
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_replaced_under_load_and_nobody_is_refused() {
    let cluster = Cluster::new("").await;
    let Some(provider) = provider(&cluster) else {
        return;
    };
    provider.wait_for_line("issuer http://").await;
    let log = provider.log();
    let issuer = log
        .split("issuer ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let issuer = issuer.expect("an address").to_owned();
    let file = cluster.dir.join("oncue.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let auth = format!(
        "[auth.a]\nissuer = \"{issuer}\"\naudience = [\"shop\"]\nscopes = [\"events\"]\n[gateway]\nauth = \"a\"\n"
    );
    std::fs::write(&file, format!("{text}\n{auth}")).unwrap();
    let gateway = Gateway::on(cluster, Guards::default()).await;
    let client = reqwest::Client::new();
    let done = AtomicBool::new(false);
    let taken = AtomicU64::new(0);
    let load = async |number: usize| {
        let mut sent = 0;
        while !done.load(Ordering::Relaxed) {
            let token = token(&client, &issuer).await;
            let bearer = format!("Bearer {token}");
            for _ in 0..5 {
                sent += 1;
                let view = format!(r#"{{"page":"/{number}-{sent}","visitor":"v"}}"#);
                let headers = [JSON, ("authorization", bearer.as_str())];
                let answer = gateway.send("POST", VIEWED, &headers, view).await;
                assert_eq!(answer.status, 202, "{}", answer.text());
                taken.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let rotate = async {
        for _ in 0..ROTATIONS {
            let before = taken.load(Ordering::Relaxed);
            while taken.load(Ordering::Relaxed) < before + 20 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let rotated = client.post(format!("{issuer}/rotate")).send().await;
            assert!(rotated.expect("an answer").status().is_success());
        }
        let before = taken.load(Ordering::Relaxed);
        while taken.load(Ordering::Relaxed) < before + 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        rotate,
        futures_util::future::join_all((0..CLIENTS).map(load))
    );
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken >= 100, "{taken}");
    assert_eq!(gateway.messages("web").await, taken);
    // Tokens that it has not made, and none at all.
    let other = token(&client, &issuer).await;
    let (head, signature) = other.rsplit_once('.').unwrap();
    let turned: String = signature.chars().rev().collect();
    let forged = format!("Bearer {head}.{turned}");
    let headers = [JSON, ("authorization", forged.as_str())];
    let refused = gateway.send("POST", VIEWED, &headers, "{}").await;
    refused.problem(401, "unauthenticated");
    gateway
        .send("POST", VIEWED, &[JSON], "{}")
        .await
        .problem(401, "unauthenticated");
}
