//! Those who leave a console open: browsers, whose streams end with their login, and scrapers, whom nobody blinds; and texts
//! that reach it as they are, however long a key and however large a number.

use std::time::Duration;

use oncue_proto::event::now_ms;
use oncue_tests::cluster::wait_for;
use oncue_tests::http::{Answer, JSON, request};
use serde_json::{Value, json};

use super::{Console, TOKEN, viewed};

/// News as they come to somebody with this cookie, until there are no more.
async fn watch(console: &Console, cookie: &str) -> Answer {
    let stream = request(console.at, "GET", "/api/live", &[("cookie", cookie)], "").await;
    assert_eq!(stream.status, 200, "{}", stream.text());
    stream
}

#[tokio::test]
async fn a_stream_ends_with_its_login_wherever_that_was_ended() {
    let console = Console::with(Some(TOKEN), true).await;
    console.pretend("count", &["web.page.viewed"], &[]).await;
    let here = console.login().await;
    let elsewhere = console.login().await;
    let stays = console.login().await;
    let endings = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        console.post_as(&here, "/api/logout", &json!({})).await;
        let id = elsewhere.split('.').nth(2).expect("an id");
        let until = now_ms() + 3_600_000;
        let revoked = console.store.revoke_session(id, until).await;
        revoked.expect("Redis");
    };
    let watching = watch(&console, &stays);
    tokio::pin!(watching);
    let ended =
        async { tokio::join!(watch(&console, &here), watch(&console, &elsewhere), endings) };
    tokio::select! {
        _ = &mut watching => panic!("nobody has ended this one"),
        (here, elsewhere, ()) = ended => {
            for stream in [here, elsewhere] {
                assert!(stream.text().contains("event: tick"), "{}", stream.text());
            }
        }
    }
}

async fn scrape(console: &Console, from: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-for", from),
    ];
    console.send("GET", "/metrics", &headers, "").await
}

#[tokio::test]
async fn nobody_blinds_a_scraper_by_guessing() {
    let console = Console::with(Some(TOKEN), true).await;
    assert_eq!(scrape(&console, "192.0.2.1", TOKEN).await.status, 200);
    let mut looked_at = 0;
    for round in 0..40 {
        let from = format!("198.51.100.{}", round % 12);
        let answer = scrape(&console, &from, "another-token-of-length").await;
        if answer.status == 401 {
            answer.problem(401, "login");
            looked_at += 1;
        } else {
            answer.problem(429, "too-many-logins");
            assert!(answer.header("retry-after").is_some(), "{}", answer.head);
        }
    }
    assert!((20..40).contains(&looked_at), "{looked_at}");
    assert_eq!(scrape(&console, "192.0.2.1", TOKEN).await.status, 200);
    // Nor anybody who logs in; and a stranger waits, right or wrong.
    console.login().await;
    let stranger = scrape(&console, "198.51.100.1", TOKEN).await;
    stranger.problem(429, "too-many-logins");
    // Whoever guesses at the scraper's own address holds it up: there they cannot be told apart.
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let answer = scrape(&console, "192.0.2.1", "another-token-of-length").await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses[..5], [401; 5], "{statuses:?}");
    assert_eq!(statuses[7], 429, "{statuses:?}");
}

/// Numbers of the events and letters that a search finds by key.
async fn found(console: &Console, query: &str) -> Vec<String> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let said = console.get(&format!("/api/search?q={encoded}")).await;
    let said = said.ok_json();
    let events = said["keyed"].as_array().expect("events").iter();
    events.map(|one| one["id"].to_string()).collect()
}

#[tokio::test]
async fn a_key_of_any_length_is_searched_with_the_blanks_at_its_ends() {
    let console = Console::open().await;
    let long = "k".repeat(1000);
    for (id, key) in [("e-1", long.as_str()), ("e-2", " padded "), ("e-3", "bare")] {
        let payload = json!({ "page": key, "visitor": "v" });
        console.publish(&viewed(id), key, payload).await;
    }
    wait_for("the stream", async || {
        !found(&console, "bare").await.is_empty()
    })
    .await;
    assert_eq!(found(&console, &long).await, [r#""e-1""#]);
    assert_eq!(found(&console, " padded ").await, [r#""e-2""#]);
    assert_eq!(found(&console, "bare").await, [r#""e-3""#]);
    assert_eq!(found(&console, " bare\n").await, [r#""e-3""#], "copied");
    assert!(found(&console, "padded").await.is_empty(), "another key");
    let longest = "k".repeat(4096);
    assert!(found(&console, &longest).await.is_empty());
    let longer = console.get(&format!("/api/search?q={longest}k")).await;
    longer.problem(400, "malformed");
}

#[tokio::test]
async fn a_large_number_is_published_as_it_was_written() {
    let console = Console::with(Some(TOKEN), true).await;
    let cookie = console.login().await;
    let body = r#"{"data":{"page":"/big","views":9007199254740993},"type":"web.page.milestone"}"#;
    let headers = [JSON, ("cookie", cookie.as_str())];
    let published = console.send("POST", "/api/publish", &headers, body).await;
    assert_eq!(published.status, 200, "{}", published.text());
    let path = "/api/events?type=web.page.milestone";
    let events: Value = console.get_as(&cookie, path).await.ok_json();
    let data = &events["events"][0]["data"];
    assert_eq!(data["views"], "9007199254740993", "{data}");
}
