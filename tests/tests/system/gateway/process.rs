//! The binary itself: exit codes, signals, spans.

use std::process::Stdio;
use std::time::Duration;

use oncue_tests::cluster::{Cluster, built, free_port, wait_for_port};
use oncue_tests::collector::{Collector, Manners};
use oncue_tests::http::{ANSWER_TIMEOUT, JSON, request};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::VIEWED;

fn gateway() -> Command {
    let mut command = Command::new(built("oncue-gateway"));
    command
        .env_clear()
        .env("OTEL_SDK_DISABLED", "true")
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

struct End {
    code: Option<i32>,
    stderr: String,
}

async fn ended(child: Child) -> End {
    let output = timeout(ANSWER_TIMEOUT, child.wait_with_output()).await;
    let output = output.expect("it ends").unwrap();
    End {
        code: output.status.code(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_exit_code_2() {
    let path =
        std::env::temp_dir().join(format!("oncue-gateway-wrong-{}.toml", std::process::id()));
    std::fs::write(&path, "[gateway]\nlisten = 1\n[nats]\nurll = \"x\"\n").unwrap();
    let end = ended(gateway().env("ONCUE_CONFIG", &path).spawn().unwrap()).await;
    std::fs::remove_file(&path).unwrap();
    let text = end.stderr;
    assert_eq!(end.code, Some(2), "{text}");
    assert!(
        text.contains(":2:") && text.contains(":4:"),
        "every mistake with its line: {text}"
    );
}

#[tokio::test]
async fn a_site_that_is_not_there_is_exit_code_2() {
    let path = std::env::temp_dir().join(format!("oncue-gateway-site-{}.toml", std::process::id()));
    std::fs::write(
        &path,
        "app.name = \"a\"\n[gateway]\nsite = \"no-such-folder\"\n",
    )
    .unwrap();
    let end = ended(gateway().env("ONCUE_CONFIG", &path).spawn().unwrap()).await;
    std::fs::remove_file(&path).unwrap();
    let text = end.stderr;
    assert_eq!(end.code, Some(2), "{text}");
    assert!(
        text.contains(":3: [gateway] site") && text.contains("no-such-folder"),
        "{text}"
    );
}

#[tokio::test]
async fn no_server_is_one_line_and_exit_code_1() {
    let port = free_port();
    let url = format!("nats://user:hush@127.0.0.1:{port}");
    let child = gateway()
        .env("ONCUE_NATS_URL", url)
        .env("ONCUE_GATEWAY_LISTEN", "127.0.0.1:0")
        .current_dir("/")
        .spawn()
        .unwrap();
    let end = ended(child).await;
    let text = end.stderr;
    assert_eq!((end.code, text.lines().count()), (Some(1), 1), "{text}");
    assert!(
        text.contains(&port.to_string()) && !text.contains("hush"),
        "{text}"
    );
}

#[tokio::test]
async fn one_trace_from_the_client_into_the_message_and_a_clean_end() {
    let port = free_port();
    let config = format!("[gateway]\nlisten = \"127.0.0.1:{port}\"\n");
    let cluster = Cluster::new(&config).await;
    cluster.provide_gateway();
    let collector = Collector::start(Manners::Prompt).await;
    let child = gateway()
        .envs(cluster.env())
        .env_remove("OTEL_SDK_DISABLED")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .spawn()
        .unwrap();
    let at = format!("127.0.0.1:{port}").parse().unwrap();
    wait_for_port(port).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = br#"{"page":"/home","visitor":"canary-7f3a"}"#;
    let answer = request(at, "POST", VIEWED, &[JSON, ("traceparent", parent)], body).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let traceparent = answer.header("traceparent").unwrap().to_owned();
    assert_eq!(traceparent[3..35], parent[3..35], "same trace");
    assert_ne!(
        traceparent[36..52],
        parent[36..52],
        "a span of our own in between"
    );
    let plain = request(at, "POST", VIEWED, &[JSON], body).await;
    assert!(
        plain.header("traceparent").unwrap().ends_with("-01"),
        "sampled: {}",
        plain.head
    );

    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .await
            .unwrap()
            .success()
    );
    let end = timeout(Duration::from_secs(15), ended(child)).await;
    let end = end.expect("it ends in time");
    let text = end.stderr;
    assert_eq!(end.code, Some(0), "{text}");
    assert!(
        text.contains("listening on") && !text.contains("canary"),
        "{text}"
    );
    let spans = collector.bytes();
    let has = |wanted: &[u8]| spans.windows(wanted.len()).any(|window| window == wanted);
    for wanted in [
        "POST /v1/events/{type}",
        "send web.page.viewed",
        "messaging.system",
        "http.route",
        "cloudevents.event_id",
    ] {
        assert!(has(wanted.as_bytes()), "{wanted}");
    }
    let hex = |text: &str| {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect::<Vec<_>>()
    };
    assert!(
        has(&hex(&traceparent[36..52])),
        "the span the message names was sent"
    );
    assert!(!has(b"canary"), "nothing of a payload in spans");
}
