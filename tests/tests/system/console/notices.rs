//! Notices: told once, signed, again until they are taken, and over when it is over; by one console of two.

use std::sync::Arc;
use std::time::Duration;

use oncue_tests::cluster::{Process, free_port, until};
use oncue_tests::http::receiver::{KEY, Received, Receiver, assert_signed, say, secret};
use oncue_tests::http::request;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

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

    // Alerts rest on the same list.
    let text = console.get("/metrics").await.text();
    for (kind, count) in [("letters", 1), ("store", 0), ("certificates", 0)] {
        let line = format!("oncue_notices{{oncue_app=\"app\",oncue_kind=\"{kind}\"}} {count}");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }

    // Both consoles know that it is told, and neither tells it again.
    for at in [console.at, at] {
        until("it is known to be told", async || {
            let said = request(at, "GET", "/api/notices", &[], "").await.json();
            (said["notices"][0]["told"] == serde_json::json!(["ops"])).then_some(())
        })
        .await;
    }
    console.set_aside("f", "e-3", "a.rs:1").await;

    // Another cause is another notice, of whichever console. What is told next is that alone.
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

/// Nobody runs who could have found it out.
#[tokio::test]
async fn a_nats_that_comes_back_empty_is_told_with_the_way_out() {
    let mut console = Console::open().await;
    console.set_aside("f", "e-1", "a.rs:1").await;
    let tended = console.cluster.output("oncue", &["tend", "--once"]);
    assert!(tended.status.success(), "{tended:?}");
    console.cluster.nats.kill();
    std::fs::remove_dir_all(console.cluster.dir.join("nats")).expect("its folder");
    console.cluster.restart_nats().await;
    let notice = until("it is told", async || {
        let said = console.get("/api/notices").await.json();
        let notices = said["notices"].as_array()?;
        notices.iter().find(|one| one["kind"] == "store").cloned()
    })
    .await;
    let text = notice["text"].as_str().unwrap();
    assert!(text.contains("run `oncue recover nats`"), "{text}");
    let text = console.get("/metrics").await.text();
    let line = "oncue_notices{oncue_app=\"app\",oncue_kind=\"store\"} 1";
    assert!(text.contains(line), "{line} is not in\n{text}");
}

/// A mail server that refuses the first mail for now, and takes the others.
async fn mail_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let taken = Arc::<Mutex<Vec<String>>>::default();
    let mails = taken.clone();
    tokio::spawn(async move {
        let mut is_first = true;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut mail = String::new();
            let mut in_data = false;
            let (reader, mut writer) = stream.split();
            let mut lines = BufReader::new(reader).lines();
            writer.write_all(b"220 here\r\n").await.expect("written");
            while let Ok(Some(line)) = lines.next_line().await {
                let answer = if in_data && line == "." {
                    in_data = false;
                    if std::mem::take(&mut is_first) {
                        "451 later"
                    } else {
                        mails.lock().push(std::mem::take(&mut mail));
                        "250 taken"
                    }
                } else if in_data {
                    mail.push_str(&line);
                    mail.push('\n');
                    continue;
                } else if line == "DATA" {
                    in_data = true;
                    "354 go on"
                } else {
                    "250 fine"
                };
                let answered = writer.write_all(format!("{answer}\r\n").as_bytes()).await;
                if answered.is_err() {
                    break;
                }
            }
        }
    });
    (port, taken)
}

#[tokio::test]
async fn a_mail_says_the_same_and_is_sent_again_until_it_is_taken() {
    let (port, taken) = mail_server().await;
    let config = format!(
        "[console]\nurl = \"https://console.example\"\n[notice.night]\nevery = \"1s\"\n\
         mail = {{ server = \"smtp://127.0.0.1:{port}\", from = \"Oncue <oncue@example.org>\", to = [\"ops@example.org\"] }}\n"
    );
    let console = Console::of(&config).await;
    console.set_aside("f", "e-1", "a.rs:1").await;
    let mail = until("a mail", async || taken.lock().first().cloned()).await;
    for part in [
        "From: Oncue <oncue@example.org>",
        "To: ops@example.org",
        "Subject: [app] f sets events aside",
        "https://console.example/#/letters/",
    ] {
        assert!(mail.contains(part), "no {part:?} in {mail}");
    }
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(taken.lock().len(), 1, "told once");
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
