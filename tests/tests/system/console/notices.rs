//! Notices: told once, signed, again until they are taken, and over when it is over; by one console of two.

use std::time::Duration;

use oncue_tests::cluster::{Process, free_port, until};
use oncue_tests::http::receiver::{KEY, Received, Receiver, assert_signed, say, secret};
use oncue_tests::http::request;
use serde_json::Value;

use super::Console;

/// A console as a program, beside the one of the test; both know the receiver.
fn second(console: &Console) -> (Process, std::net::SocketAddr) {
    let port = free_port();
    let env = [("ONCUE_CONSOLE_LISTEN", format!("127.0.0.1:{port}"))];
    let process = console.cluster.spawn_with("oncue-console", &[], &env);
    (process, ([127, 0, 0, 1], port).into())
}

fn config(receiver: &Receiver) -> String {
    let file = format!(
        "{}/ops-{}.secret",
        env!("CARGO_TARGET_TMPDIR"),
        receiver.port
    );
    std::fs::write(&file, secret(&KEY)).expect("written");
    format!(
        "[console]\nurl = \"https://console.example/\"\n[notice.ops]\nurl = \"http://127.0.0.1:{}/hook\"\n\
         secrets = [\"file:{file}\"]\nabout = [\"letters\"]\nevery = \"1s\"\n",
        receiver.port
    )
}

fn notices(request: &Received) -> Vec<Value> {
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!(body["type"], "oncue.notices", "{body}");
    body["data"]["notices"].as_array().cloned().expect("a list")
}

#[tokio::test]
async fn a_new_cause_of_letters_is_told_once_and_again_until_it_is_taken() {
    let receiver = Receiver::start(vec![say("503 Busy", ""), say("204 No Content", "")]).await;
    let console = Console::of(&config(&receiver)).await;
    let (other, at) = second(&console);
    other.wait_for_line("listening on http://").await;
    let number = console.set_aside("f", "e-1", "a.rs:1").await;
    console.set_aside("f", "e-2", "a.rs:1").await;
    let received = receiver.wait_for(2).await;
    // Refused once, and then the same again, under the same id.
    assert_signed(&received[0], &[&KEY]);
    assert_eq!(
        received[0].header("webhook-id"),
        received[1].header("webhook-id")
    );
    let told = notices(&received[1]);
    assert_eq!(told.len(), 1, "{told:?}");
    let notice = &told[0];
    assert_eq!(
        (&notice["kind"], &notice["state"]),
        (&"letters".into(), &"began".into())
    );
    let text = notice["text"].as_str().unwrap();
    assert!(text.contains("f sets events aside, rejected"), "{text}");
    let link = notice["link"].as_str().unwrap();
    assert!(
        link.starts_with("https://console.example/#/letters/"),
        "{link}"
    );

    // Both consoles know that it is told, and neither tells it again.
    for at in [console.at, at] {
        until("it is known to be told", async || {
            let said = request(at, "GET", "/api/notices", &[], "").await.json();
            (said["notices"][0]["told"] == serde_json::json!(["ops"])).then_some(())
        })
        .await;
    }
    console.set_aside("f", "e-3", "a.rs:1").await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(receiver.received().len(), 2, "{:#?}", receiver.received());

    // Another cause is another notice, of whichever console.
    console.set_aside("g", "e-4", "b.rs:2").await;
    let received = receiver.wait_for(3).await;
    let told = notices(&received[2]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]["text"].as_str().unwrap().contains("g sets"),
        "{told:?}"
    );

    // Over: all letters of the first are dropped.
    let _ = number;
    let dropped = console.cluster.output(
        "oncue",
        &["dlq", "drop", "--function", "f", "--why", "x", "--yes"],
    );
    assert_eq!(dropped.status.code(), Some(0));
    let received = tokio::time::timeout(Duration::from_mins(2), async {
        loop {
            let received = receiver.received();
            if received.len() > 3 {
                return received;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("it is told that it is over");
    let told = notices(&received[3]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (&told[0]["state"], &told[0]["name"]),
        (&"ended".into(), &notice["name"])
    );
    until("it is forgotten", async || {
        let said = request(at, "GET", "/api/notices", &[], "").await.json();
        let left = said["notices"].as_array()?.len();
        (left == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_receiver_that_cannot_be_told_safely_is_refused_at_the_start() {
    let console = Console::open().await;
    for (section, words) in [
        (
            "url = \"http://hooks.example/x\"\nsecrets = [\"env:S\"]",
            "in the open",
        ),
        (
            "url = \"https://hooks.example/x\"\nsecrets = []",
            "has one secret",
        ),
        (
            "url = \"https://u:p@hooks.example/x\"\nsecrets = [\"env:S\"]",
            "holds a password",
        ),
        (
            "url = \"https://hooks.example/x\"\nsecrets = [\"env:S\"]\nabout = [\"news\"]",
            "news",
        ),
        (
            "url = \"https://hooks.example/x\"\nsecrets = [\"env:NONE_SUCH\"]",
            "NONE_SUCH is not set",
        ),
    ] {
        let path = console.cluster.dir.join("other.toml");
        let text = format!("[app]\nname = \"app\"\n[notice.ops]\n{section}\n");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let env = [
            ("ONCUE_CONFIG", path),
            ("ONCUE_CONSOLE_LISTEN", "127.0.0.1:0".into()),
        ];
        let mut refused = console.cluster.spawn_with("oncue-console", &[], &env);
        refused.wait_for_line(words).await;
        assert_ne!(refused.exit().await, Some(0), "{section}");
    }
}
