//! How often somebody may come, counted for all gateways together.

use std::time::Duration;

use oncue_gateway::server::Guards;
use oncue_tests::cluster::wait_for;
use oncue_tests::http::{self, Answer, JSON};

use super::{Gateway, VIEWED};

const VIEW: &str = r#"{"page":"/home","visitor":"v1"}"#;
/// Twelve at once, and one more each five minutes: none is earned while a test runs.
const TWELVE: &str =
    "[limit.few]\nrate = 12\nper = \"1h\"\n[gateway]\nlimit = \"few\"\nproxies = [\"127.0.0.1\"]\n";

async fn view(at: std::net::SocketAddr, client: &str) -> Answer {
    let headers = [JSON, ("x-forwarded-for", client)];
    http::request(at, "POST", VIEWED, &headers, VIEW).await
}

/// Number behind `name=` in a header of the draft.
fn parameter(answer: &Answer, header: &str, name: &str) -> u64 {
    let line = answer.header(header).unwrap_or_default();
    let part = line
        .split(';')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    part.and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{header}: {line} has no {name}"))
}

#[tokio::test]
async fn two_gateways_share_one_limit() {
    let gateway = Gateway::with(TWELVE, Guards::default()).await;
    let other = gateway.beside().await;
    let mut left = Vec::new();
    for round in 0..6 {
        for at in [gateway.at, other.at] {
            let answer = view(at, "192.0.2.1").await;
            assert_eq!(answer.status, 202, "round {round}: {}", answer.text());
            assert_eq!(
                answer.header("ratelimit-policy"),
                Some("\"few\";q=12;w=3600")
            );
            left.push(parameter(&answer, "ratelimit", "r"));
        }
    }
    assert_eq!(left, (0..12).rev().collect::<Vec<u64>>());
    for at in [gateway.at, other.at] {
        let refused = view(at, "192.0.2.1").await;
        refused.problem(429, "limited");
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=300).contains(&wait), "{wait}");
        assert_eq!(parameter(&refused, "ratelimit", "r"), 0);
        assert!(parameter(&refused, "ratelimit", "t") <= 3600);
    }
    assert_eq!(
        gateway.messages("web").await,
        12,
        "nothing was taken beyond"
    );
    // Another client has a count of its own, and what is no part of the API none.
    assert_eq!(view(other.at, "192.0.2.2").await.status, 202);
    assert_eq!(gateway.get("/healthz").await.status, 200);
    let keys = gateway
        .cluster
        .redis_ok(&["--scan", "--pattern", "app:*:g:few:*"]);
    assert_eq!(keys.lines().count(), 2, "{keys}");
    assert!(
        !keys.contains("192.0.2"),
        "addresses are not stored: {keys}"
    );
    for key in keys.lines() {
        let ttl: i64 = gateway.cluster.redis_ok(&["pttl", key]).parse().unwrap();
        assert!((1..=3_600_000).contains(&ttl), "{key} stays for {ttl} ms");
    }
    let _ = other.stop.send(());
    other.task.await.unwrap();
}

#[tokio::test]
async fn many_at_once_are_counted_one_by_one() {
    let gateway = Gateway::with(TWELVE, Guards::default()).await;
    let other = gateway.beside().await;
    let asked = (0..60).map(|n| view([gateway.at, other.at][n % 2], "192.0.2.1"));
    let answers = futures_util::future::join_all(asked).await;
    let taken = answers.iter().filter(|answer| answer.status == 202).count();
    let refused = answers.iter().filter(|answer| answer.status == 429).count();
    assert_eq!((taken, refused), (12, 48));
}

/// Far from a limit gateways count for themselves for moments, and near it none does.
#[tokio::test]
async fn what_gateways_count_for_themselves_is_charged() {
    const MOST: usize = 600;
    let limit = format!(
        "[limit.few]\nrate = {MOST}\nper = \"24h\"\n[gateway]\nlimit = \"few\"\nproxies = [\"127.0.0.1\"]\n"
    );
    let gateway = Gateway::with(&limit, Guards::default()).await;
    let other = gateway.beside().await;
    let visits = [gateway.at, other.at, gateway.at, other.at].map(|at| async move {
        let mut taken = 0;
        for _ in 0..MOST / 2 {
            taken += usize::from(view(at, "192.0.2.1").await.status == 202);
        }
        taken
    });
    let taken: usize = futures_util::future::join_all(visits)
        .await
        .into_iter()
        .sum();
    // One for a day's 144 seconds may be earned meanwhile, and of the last 64 none is let through unasked.
    assert!((MOST..=MOST + 64).contains(&taken), "{taken} of {MOST}");
    assert_eq!(gateway.messages("web").await, taken as u64);
    view(gateway.at, "192.0.2.1").await.problem(429, "limited");
}

#[tokio::test]
async fn what_was_refused_comes_through_once_its_time_has_come() {
    let config = "[limit.few]\nrate = 2\nper = \"2s\"\nburst = 1\n[gateway]\nlimit = \"few\"\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    assert_eq!(gateway.get("/v1/flows/x").await.status, 404);
    let refused = gateway.get("/v1/flows/x").await;
    refused.problem(429, "limited");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(wait, 1);
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(gateway.get("/v1/flows/x").await.status, 404);
}

#[tokio::test]
async fn a_clock_that_went_back_locks_nobody_out() {
    let config = "[limit.few]\nrate = 2\nper = \"2s\"\nburst = 1\n[gateway]\nlimit = \"few\"\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    assert_eq!(gateway.get("/v1/flows/x").await.status, 404);
    let key = gateway
        .cluster
        .redis_ok(&["--scan", "--pattern", "app:*:g:few:*"]);
    // All is paid for in a year, says a Redis whose clock was a year ahead.
    let then = 1_000_000 * 3600 * 24 * 365 * 100_u64;
    gateway.cluster.redis_ok(&["set", &key, &then.to_string()]);
    wait_for("it comes through", async || {
        gateway.get("/v1/flows/x").await.status == 404
    })
    .await;
}

#[tokio::test]
async fn gateways_count_for_themselves_while_redis_is_away() {
    let gateway = Gateway::with(TWELVE, Guards::default()).await;
    gateway.cluster.redis.signal("STOP");
    let mut taken = 0;
    for _ in 0..30 {
        let answer = view(gateway.at, "192.0.2.1").await;
        match answer.status {
            202 => taken += 1,
            _ => {
                answer.problem(429, "limited");
            }
        }
    }
    gateway.cluster.redis.signal("CONT");
    assert_eq!(taken, 12);
    // The count in Redis was not touched by those.
    wait_for("Redis counts again", async || {
        view(gateway.at, "192.0.2.1").await.status == 202
    })
    .await;
}

#[tokio::test]
async fn everybody_together_or_each_by_who_they_are() {
    let config = "[auth.a]\nkeys = true\n[limit.few]\nrate = 1\nper = \"1h\"\nby = \"identity\"\n\
                  [gateway]\nauth = \"a\"\nlimit = \"few\"\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    let store = gateway.cluster.store().await;
    let mut tokens = Vec::new();
    for name in ["shop", "shop", "depot"] {
        let issued = oncue_core::model::api_key::ApiKey::issue(name, [].into(), None).unwrap();
        store.add_api_key(&issued.key).await.unwrap();
        tokens.push(issued.token);
    }
    let mut statuses = Vec::new();
    for token in &tokens {
        let headers = [("x-api-key", token.as_str())];
        let answer = gateway.send("GET", "/v1/flows/x", &headers, "").await;
        statuses.push(answer.status);
    }
    assert_eq!(
        statuses,
        [404, 429, 404],
        "two keys of one name are one client"
    );
    // Who is nobody is told so, and counts for nobody.
    gateway
        .get("/v1/flows/x")
        .await
        .problem(401, "unauthenticated");

    let config = "[limit.few]\nrate = 1\nper = \"1h\"\nby = \"route\"\n[gateway]\nlimit = \"few\"\n\
                  proxies = [\"127.0.0.1\"]\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    assert_eq!(view(gateway.at, "192.0.2.1").await.status, 202);
    assert_eq!(view(gateway.at, "192.0.2.2").await.status, 429);
    assert_eq!(gateway.get("/v1/flows/x").await.status, 404);
    assert_eq!(
        gateway.get("/v1/flows/y").await.status,
        429,
        "one route, whatever is asked for"
    );
}

/// What is wrong with a request behind its limit says how things stand as well.
#[tokio::test]
async fn problems_say_how_the_limit_stands() {
    let config = "[auth.a]\nkeys = true\n[limit.few]\nrate = 12\nper = \"1h\"\n\
                  [[route]]\nmethod = \"POST\"\npath = \"/see\"\nevent = \"web.page.viewed\"\nlimit = \"few\"\n\
                  [[route]]\nmethod = \"POST\"\npath = \"/closed\"\nevent = \"web.page.viewed\"\nlimit = \"few\"\nauth = \"a\"\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    for (path, body, status, left) in [
        ("/see", VIEW, 202, 11),
        ("/see", "no JSON", 400, 10),
        ("/closed", VIEW, 401, 9),
    ] {
        let answer = gateway.send("POST", path, &[JSON], body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(parameter(&answer, "ratelimit", "r"), left, "{path}");
    }
}
