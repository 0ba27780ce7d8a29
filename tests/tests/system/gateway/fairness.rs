//! One client leaves to others what is theirs, and nobody hears for longer than they may.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oncue_core::model::api_key::{ApiKey, IssuedKey};
use oncue_core::store::Keys;
use oncue_gateway::server::Guards;
use oncue_proto::event;
use oncue_tests::cluster::wait_for;
use oncue_tests::http::{ANSWER_TIMEOUT, Answer, JSON};
use oncue_tests::skip::skip;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Gateway, VIEWED};

const VIEW: &str = r#"{"page":"/home","visitor":"v1"}"#;
const BY_KEY: &str = "[auth.clients]\nkeys = true\n[gateway]\nauth = \"clients\"\nexpose = [\"pages\"]\n\
                      stream = [\"web.page.viewed\"]\n";

async fn key(gateway: &Gateway, expires: Option<u64>) -> IssuedKey {
    let issued = ApiKey::issue("shop", BTreeSet::new(), expires).expect("a key");
    let store = gateway.cluster.store().await;
    store.add_api_key(&issued.key).await.expect("kept");
    issued
}

async fn view(gateway: &Gateway, token: &str) -> Answer {
    let headers = [JSON, ("x-api-key", token)];
    gateway.send("POST", VIEWED, &headers, VIEW).await
}

/// Answer that goes on, from its first bytes.
async fn listen(gateway: &Gateway, path: &str, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.at).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {token}\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200", "{path}");
    stream
}

async fn ends(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let read = timeout(ANSWER_TIMEOUT, stream.read_to_end(&mut rest)).await;
    read.expect("it ends").expect("it can be read");
}

#[tokio::test]
async fn whoever_listens_is_sent_away_with_the_key() {
    let gateway = Gateway::with(BY_KEY, Guards::default()).await;
    let row = Keys::default().row("pages", "home");
    gateway.cluster.redis_ok(&["HSET", &row, "views", "1"]);
    let good = key(&gateway, None).await;
    let revoked = key(&gateway, None).await;
    let expiring = key(&gateway, Some(event::now_ms() + 5_000)).await;
    let mut stays = listen(&gateway, "/v1/stream?type=web.page.viewed", &good.token).await;
    let mut leave = Vec::new();
    for token in [&revoked.token, &expiring.token] {
        for path in ["/v1/stream?type=web.page.viewed", "/v1/state/pages/home"] {
            leave.push(listen(&gateway, path, token).await);
        }
    }
    let store = gateway.cluster.store().await;
    assert!(store.remove_api_key(&revoked.key.id).await.expect("Redis"));
    for stream in leave {
        ends(stream).await;
    }
    assert_eq!(view(&gateway, &good.token).await.status, 202);
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("event: web.page.viewed") {
        let read = timeout(ANSWER_TIMEOUT, stays.read_buf(&mut heard)).await;
        assert_ne!(read.expect("news").unwrap(), 0, "the good key goes on");
    }
}

/// A key that was good is asked for in Redis whatever others behind its address send: until it is revoked it opens, and is never
/// held up.
#[tokio::test]
async fn a_good_key_is_not_held_up_by_the_guesses_of_others() {
    let gateway = Gateway::with(BY_KEY, Guards::default()).await;
    let good = key(&gateway, None).await;
    assert_eq!(view(&gateway, &good.token).await.status, 202);
    // Wrong without a question, so that each counts.
    let brake = async || while view(&gateway, "a guess").await.status != 429 {};
    brake().await;
    let store = gateway.cluster.store().await;
    assert!(store.remove_api_key(&good.key.id).await.expect("Redis"));
    wait_for("Redis is asked again", async || {
        brake().await;
        let status = view(&gateway, &good.token).await.status;
        assert!([202, 401].contains(&status), "{status}");
        status == 401
    })
    .await;
}

#[tokio::test]
async fn one_address_cannot_hold_the_memory_for_bodies() {
    const SENT: usize = 300_000;
    let config = "[gateway]\nproxies = [\"127.0.0.1\"]\n";
    let guards = Guards {
        memory: 4 << 20,
        ..Guards::default()
    };
    let gateway = Gateway::with(config, guards).await;
    let mut held = Vec::new();
    // More than there is in all.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(gateway.at).await.unwrap();
        let head = format!(
            "POST {VIEWED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-forwarded-for: 192.0.2.1\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            SENT + 1
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; SENT]).await.unwrap();
        held.push(stream);
    }
    let answers = held.iter_mut().map(async |stream| {
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.map(|_| start)
    });
    let mut answers: FuturesUnordered<_> = answers.collect();
    // Three fit into a quarter.
    for _ in 0..17 {
        let start = timeout(ANSWER_TIMEOUT, answers.next())
            .await
            .expect("an answer");
        assert_eq!(&start.unwrap().unwrap(), b"HTTP/1.1 429");
    }
    let body = format!(r#"{{"page":"/home","visitor":"{}"}}"#, "v".repeat(SENT));
    let headers = [JSON, ("x-forwarded-for", "192.0.2.2")];
    let other = gateway.send("POST", VIEWED, &headers, body).await;
    assert_eq!(other.status, 202, "{}", other.text());
}

/// The module for browsers, told a credential, sends it with what it sends and hears.
#[tokio::test]
async fn the_module_for_browsers_sends_a_credential() {
    const PAGE: &str = r#"
import { Oncue } from "./client.mjs";
const [base, key] = process.argv.slice(2);
const oncue = new Oncue(base, { token: async () => key });
const refused = await new Oncue(base).send("web.page.viewed", { page: "/a" }).catch((problem) => problem.code);
const heard = new Promise((done) => {
  const stop = oncue.listen("web.page.viewed", (event) => { stop(); done(event.data.page); }, {
    connection: (connected) => connected && oncue.send("web.page.viewed", { page: "/b" }),
  });
});
console.log(refused, await heard);
"#;
    let gateway = Gateway::with(BY_KEY, Guards::default()).await;
    let dir = &gateway.cluster.dir;
    let module = gateway.get("/v1/client.js").await.text();
    std::fs::write(dir.join("client.mjs"), module).expect("a file");
    std::fs::write(dir.join("page.mjs"), PAGE).expect("a file");
    let good = key(&gateway, None).await;
    let base = format!("http://{}", gateway.at);
    let mut node = Command::new("node");
    node.current_dir(dir).args(["page.mjs", &base, &good.token]);
    let output = timeout(ANSWER_TIMEOUT, node.kill_on_drop(true).output()).await;
    let Ok(output) = output.expect("it ends") else {
        return skip("node", "there is none here to run the module");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "unauthenticated /b", "{output:?}");
}
