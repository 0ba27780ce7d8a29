//! Who may come in.

use std::collections::BTreeSet;

use oncue_core::model::api_key::{ApiKey, IssuedKey};
use oncue_core::store::Keys;
use oncue_proto::event;
use oncue_proto::files::FileUploaded;
use oncue_tests::cluster::{Cluster, wait_for};
use oncue_tests::http::{Answer, JSON};
use oncue_tests::issuer::TokenIssuer;
use prost::Message as _;
use serde_json::{Value, json};

use super::{Gateway, VIEWED};
use oncue_gateway::server::Guards;

const VIEW: &str = r#"{"page":"/home","visitor":"v1"}"#;
/// API keys only, and those with a scope.
const BY_KEY: &str = "[auth.clients]\nkeys = true\nscopes = [\"events\"]\nowner = \"sub\"\n\
                      [gateway]\nauth = \"clients\"\n";

async fn guarded() -> Gateway {
    Gateway::with(BY_KEY, Guards::default()).await
}

async fn view(gateway: &Gateway, credential: (&str, &str)) -> Answer {
    gateway
        .send("POST", VIEWED, &[JSON, credential], VIEW)
        .await
}

async fn key(gateway: &Gateway, scopes: &[&str], expires: Option<u64>) -> IssuedKey {
    let scopes: BTreeSet<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let issued = ApiKey::issue("shop", scopes, expires).expect("a key");
    let store = gateway.cluster.store().await;
    store.add_api_key(&issued.key).await.expect("kept");
    issued
}

#[tokio::test]
async fn an_api_key_opens_until_it_is_revoked() {
    let gateway = guarded().await;
    let refused = gateway.send("POST", VIEWED, &[JSON], VIEW).await;
    refused.problem(401, "unauthenticated");
    let challenge = refused.header("www-authenticate");
    assert_eq!(challenge, Some("Bearer realm=\"oncue\""));
    for path in ["/v1/flows/x", "/v1/state/pages/x", "/v1/files/x"] {
        gateway.get(path).await.problem(401, "unauthenticated");
    }
    assert_eq!(gateway.get("/healthz").await.status, 200);

    let IssuedKey { key, token } = key(&gateway, &["events", "more"], None).await;
    let bearer = format!("Bearer {token}");
    assert_eq!(view(&gateway, ("authorization", &bearer)).await.status, 202);
    assert_eq!(view(&gateway, ("x-api-key", &token)).await.status, 202);
    let wrong = view(
        &gateway,
        ("x-api-key", &token.replace(&key.id, "0123456789ab")),
    )
    .await;
    wrong.problem(401, "unauthenticated");
    let challenge = wrong.header("www-authenticate").unwrap_or_default();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    let store = gateway.cluster.store().await;
    wait_for("the use is put down", async || {
        let stored = store.api_key(&key.id).await.expect("Redis");
        stored.is_some_and(|stored| stored.used.is_some())
    })
    .await;

    assert!(store.remove_api_key(&key.id).await.expect("Redis"));
    wait_for("the key is refused", async || {
        view(&gateway, ("x-api-key", &token)).await.status == 401
    })
    .await;
    assert!(gateway.messages("web").await >= 2);
    assert_eq!(store.api_keys().await.expect("Redis").len(), 0);
}

/// Routes have a policy of their own, or the gateway's.
#[tokio::test]
async fn routes_are_behind_the_door_too() {
    const ROUTES: &str = "[auth.other]\nkeys = true\nscopes = [\"routes\"]\n[limit.few]\nrate = 1\nper = \"1h\"\nburst = 4\nby = \"route\"\n\
        [[route]]\nmethod = \"POST\"\npath = \"/see/{page}\"\nevent = \"web.page.viewed\"\n\
        [[route]]\nmethod = \"POST\"\npath = \"/other/{page}\"\nevent = \"web.page.viewed\"\nauth = \"other\"\nlimit = \"few\"\n";
    let gateway = Gateway::with(&format!("{BY_KEY}{ROUTES}"), Guards::default()).await;
    for path in ["/see/a", "/other/a"] {
        let refused = gateway.send("POST", path, &[JSON], "{}").await;
        refused.problem(401, "unauthenticated");
    }
    assert_eq!(gateway.messages("web").await, 0, "nothing came in");
    let events = key(&gateway, &["events"], None).await;
    let routes = key(&gateway, &["routes"], None).await;
    let send = async |path: &str, key: &IssuedKey| {
        let headers = [JSON, ("x-api-key", &*key.token)];
        gateway.send("POST", path, &headers, "{}").await.status
    };
    assert_eq!(send("/see/a", &events).await, 202);
    assert_eq!(
        send("/see/a", &routes).await,
        403,
        "the gateway's own scope"
    );
    assert_eq!(send("/other/a", &events).await, 403, "the route's scope");
    assert_eq!(send("/other/a", &routes).await, 202);
    assert_eq!(send("/other/b", &routes).await, 202);
    assert_eq!(
        send("/other/c", &routes).await,
        429,
        "one route, whatever its page"
    );
    assert_eq!(send("/see/b", &events).await, 202);
}

/// What the credential says goes into events and chooses rows; whoever lacks a claim sends nothing.
#[tokio::test]
async fn claims_become_fields_and_keys() {
    const ROUTES: &str = "[[route]]\npath = \"/mine/{page}\"\nevent = \"web.page.viewed\"\nfields = { visitor = \"claim.sub\" }\n\
        [[route]]\npath = \"/of/{page}\"\nevent = \"web.page.viewed\"\nfields = { visitor = \"claim.tenant\" }\n\
        [[route]]\npath = \"/any/{page}\"\nevent = \"web.page.viewed\"\n\
        fields = { visitor = { from = \"claim.tenant\", default = \"nobody\" } }\n\
        [[route]]\npath = \"/me\"\nrow = \"pages\"\nkey = \"claim.sub\"\n\
        [[route]]\npath = \"/us\"\nrow = \"pages\"\nkey = \"claim.tenant\"\n";
    let gateway = Gateway::with(&format!("{BY_KEY}{ROUTES}"), Guards::default()).await;
    let key = key(&gateway, &["events"], None).await;
    let headers = [JSON, ("x-api-key", &*key.token)];
    // A body cannot say what the route takes from the credential.
    let body = r#"{"visitor":"somebody else"}"#;
    for (path, expected) in [
        ("/mine/a", Ok("shop")),
        ("/of/a", Err(403)),
        ("/any/a", Ok("nobody")),
    ] {
        let before = gateway.messages("web").await;
        let answer = gateway.send("POST", path, &headers, body).await;
        let Ok(visitor) = expected else {
            answer.problem(403, "forbidden");
            assert!(answer.text().contains("claim.tenant"), "{}", answer.text());
            assert_eq!(gateway.messages("web").await, before, "nothing came in");
            continue;
        };
        assert_eq!(answer.status, 202, "{}", answer.text());
        let event = gateway.message("web", before + 1).await;
        let event = serde_json::from_slice::<Value>(&event.payload).expect("JSON");
        assert_eq!(event, json!({ "page": "a", "visitor": visitor }));
    }
    let row = Keys::default().row("pages", "shop");
    gateway.cluster.redis_ok(&["HSET", &row, "views", "3"]);
    let mine = gateway.send("GET", "/me", &headers, "").await;
    assert_eq!(mine.ok_json()["views"], 3);
    let ours = gateway.send("GET", "/us", &headers, "").await;
    ours.problem(403, "forbidden");
}

#[tokio::test]
async fn a_key_without_the_right_or_beyond_its_time() {
    let gateway = guarded().await;
    let poor = key(&gateway, &["other"], None).await.token;
    let refused = view(&gateway, ("x-api-key", &poor)).await;
    refused.problem(403, "forbidden");
    let challenge = refused.header("www-authenticate").unwrap_or_default();
    let expected = "error=\"insufficient_scope\", scope=\"events\"";
    assert!(challenge.contains(expected), "{challenge}");
    let old = key(&gateway, &["events"], Some(event::now_ms() - 1))
        .await
        .token;
    view(&gateway, ("x-api-key", &old))
        .await
        .problem(401, "unauthenticated");
    let both = [JSON, ("x-api-key", &*poor), ("authorization", "Bearer x")];
    let both = gateway.send("POST", VIEWED, &both, VIEW).await;
    both.problem(400, "malformed");
    assert_eq!(gateway.messages("web").await, 0);
}

#[tokio::test]
async fn a_file_belongs_to_whoever_sent_it() {
    let gateway = guarded().await;
    let token = key(&gateway, &["events"], None).await.token;
    let credential = ("x-api-key", &*token);
    let theirs = [credential, ("oncue-owner", "ann")];
    let theirs = gateway.send("PUT", "/v1/files/a.txt", &theirs, "x").await;
    theirs.problem(403, "forbidden");
    let sent = gateway
        .send("PUT", "/v1/files/a.txt", &[credential], "x")
        .await;
    assert_eq!(sent.status, 202, "{}", sent.text());
    let stored = gateway.message("files", 1).await;
    let uploaded = FileUploaded::decode(&stored.payload[..]).unwrap();
    assert_eq!(uploaded.owner, "shop");
    // Nobody else is told that it is there, whatever ids can be worked out of a key.
    let path = format!("/v1/files/{}", uploaded.file);
    let own = gateway.send("GET", &path, &[credential], "").await;
    assert_eq!((own.status, &*own.text()), (200, "x"));
    let key = ApiKey::issue("other", ["events".to_owned()].into(), None).expect("a key");
    let store = gateway.cluster.store().await;
    store.add_api_key(&key.key).await.expect("kept");
    let other = ("x-api-key", &*key.token);
    for path in [path.clone(), format!("{path}/derived/thumbnail")] {
        let refused = gateway.send("GET", &path, &[other], "").await;
        refused.problem(404, "not-found");
    }
}

/// A token that was taken before is not held up by the bad ones of others behind the same address, and no other one passes.
#[tokio::test]
async fn bad_tokens_of_others_hold_up_no_good_one() {
    let issuer = TokenIssuer::start().await;
    let auth = format!(
        "[auth.a]\nissuer = \"{}\"\naudience = [\"shop\"]\nscopes = [\"events\"]\n[gateway]\nauth = \"a\"\n",
        issuer.url
    );
    let gateway = Gateway::with(&auth, Guards::default()).await;
    let good = format!("Bearer {}", issuer.token("shop"));
    let credential = ("authorization", good.as_str());
    assert_eq!(view(&gateway, credential).await.status, 202);
    let bad = format!("Bearer {}", issuer.token("another"));
    let mut statuses = BTreeSet::new();
    for _ in 0..60 {
        statuses.insert(view(&gateway, ("authorization", &bad)).await.status);
    }
    assert_eq!(statuses, [401, 429].into(), "the brake is on");
    assert_eq!(view(&gateway, credential).await.status, 202);
    let unknown = format!("Bearer {}x", issuer.token("shop"));
    let refused = view(&gateway, ("authorization", &unknown)).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
}

/// Commands that read one field of a hash, which is how a key is looked up.
fn lookups(gateway: &Gateway) -> u64 {
    let stats = gateway.cluster.redis_ok(&["info", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_hget:"));
    let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next());
    calls
        .and_then(|calls| calls.parse().ok())
        .unwrap_or_default()
}

#[tokio::test]
async fn guesses_are_braked_before_they_reach_redis_and_known_keys_are_not() {
    let gateway = guarded().await;
    let good = key(&gateway, &["events"], None).await.token;
    assert_eq!(view(&gateway, ("x-api-key", &good)).await.status, 202);
    let before = lookups(&gateway);
    let mut braked = 0;
    for _ in 0..80 {
        let guess = ApiKey::issue("guess", BTreeSet::new(), None)
            .expect("a key")
            .token;
        let answer = view(&gateway, ("x-api-key", &guess)).await;
        if answer.status == 429 {
            answer.problem(429, "too-many-attempts");
            assert!(answer.header("retry-after").is_some(), "{}", answer.head);
            braked += 1;
        }
    }
    let asked = lookups(&gateway) - before;
    assert!(braked >= 20, "{braked} of 80 guesses were braked");
    assert!(asked <= 2 * (80 - braked) + 4, "{asked} lookups in Redis");
    // From the very same address.
    assert_eq!(view(&gateway, ("x-api-key", &good)).await.status, 202);
}

#[tokio::test]
async fn nobody_comes_in_unseen_while_redis_is_away() {
    let gateway = guarded().await;
    let token = key(&gateway, &["events"], None).await.token;
    gateway.cluster.redis.signal("STOP");
    view(&gateway, ("x-api-key", &token))
        .await
        .problem(503, "away");
    gateway.cluster.redis.signal("CONT");
    wait_for("it opens again", async || {
        view(&gateway, ("x-api-key", &token)).await.status == 202
    })
    .await;
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_by_hand() {
    let cluster = Cluster::new("").await;
    let made = cluster.output(
        "oncue",
        &[
            "keys",
            "add",
            "shop",
            "--scope",
            "events",
            "--expires",
            "90d",
        ],
    );
    assert!(made.status.success(), "{made:?}");
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let id = ApiKey::id_of(&token).expect("the key alone is on stdout");
    let remark = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(remark.contains("nobody can show it again"), "{remark}");
    let listed = cluster.output("oncue", &["keys", "ls"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains(id) && listed.contains("shop") && listed.contains("events"),
        "{listed}"
    );
    assert!(!listed.contains(&token), "{listed}");
    let store = cluster.store().await;
    let stored = store.api_key(id).await.expect("Redis").expect("a key");
    assert!(stored.key.is(&token));
    assert!(
        cluster
            .output("oncue", &["keys", "revoke", id])
            .status
            .success()
    );
    assert!(store.api_key(id).await.expect("Redis").is_none());
    let again = cluster.output("oncue", &["keys", "revoke", id]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let wrong = cluster.output("oncue", &["keys", "add", "shop", "--scope", "two words"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
