//! Rows of tables: listed a page at a time, shown without what is sensitive, and changed only as they were shown.

use std::collections::BTreeSet;

use oncue_admin::stores::rows::{self, EditError, RowChange};
use oncue_core::config::Bounds;
use oncue_core::store::Keys;
use oncue_tests::cluster::{must_fail, until};
use oncue_tests::http::Answer;
use serde_json::{Value, json};

use super::{Console, TOKEN};
use crate::twins::break_library;

const PAGE: &str = "/p";
const ROW: &str = "/api/tables/pages/row?key=%2Fp";

/// A row with a number, text, what the contract calls sensitive, and that inside of something else.
async fn furnished() -> Console {
    let console = Console::on(
        oncue_tests::cluster::Cluster::new(super::CONFIG).await,
        Some(TOKEN),
        true,
    )
    .await;
    console.cluster.redis_cli(&[
        "HSET",
        &Keys::default().row("pages", PAGE),
        "views",
        "18446744073709551615",
        "note",
        "plain",
        "visitor",
        "ann-in-person",
        "last",
        r#"{"visitor":"ann-in-person","page":"/p"}"#,
        "_v",
        "7",
    ]);
    let limits = json!({ "concurrency": 10, "reserved_concurrency": 10, "timeout": "30s", "attempts": 6, "ack_wait": "30s",
        "start": "all" });
    console
        .pretend_as(json!({ "name": "count", "version": "9", "stream": "web", "triggers": ["web.page.viewed"], "filters": [],
            "table": "pages", "changes": ["visitors", "many", "*"], "emits": [], "limits": limits }))
        .await;
    let cookie = console.login().await;
    until("the function is known", async || {
        let said = console.get_as(&cookie, "/api/tables").await.ok_json();
        (!said["tables"].as_array()?.is_empty()).then_some(())
    })
    .await;
    console
}

fn field(console: &Console, name: &str) -> String {
    let row = Keys::default().row("pages", PAGE);
    console.cluster.redis_cli(&["HGET", &row, name])
}

async fn edit(console: &Console, cookie: &str, change: &Value) -> Answer {
    let mut body = json!({ "key": PAGE, "version": "7", "why": "a test" });
    for (name, value) in change.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    console
        .post_as(cookie, "/api/tables/pages/row", &body)
        .await
}

#[tokio::test]
async fn tables_and_rows_are_shown_without_what_is_sensitive() {
    let console = furnished().await;
    let cookie = console.login().await;
    let said = console.get_as(&cookie, "/api/tables").await.ok_json();
    assert_eq!(
        said["tables"],
        json!([
            { "name": "many", "owners": [], "changed_by": ["count"] },
            { "name": "pages", "owners": ["count"], "changed_by": [] },
            { "name": "visitors", "owners": [], "changed_by": ["count"] },
        ])
    );
    let list = console.get_as(&cookie, "/api/tables/pages").await;
    let row = console.get_as(&cookie, ROW).await;
    for shown in [list.text(), row.text()] {
        assert!(!shown.contains("ann-in-person"), "{shown}");
        assert!(shown.contains("(sensitive)"), "{shown}");
    }
    assert_eq!(list.ok_json()["rows"][0]["key"], PAGE);
    let row = row.ok_json();
    assert_eq!(
        (&row["kind"], &row["version"]),
        (&json!("row"), &json!("7"))
    );
    let fields = row["fields"].as_array().cloned().unwrap_or_default();
    let of = |name: &str| {
        let mut fields = fields.iter();
        fields.find(|field| field["name"] == name).cloned()
    };
    assert_eq!(
        of("views"),
        Some(json!({ "name": "views", "text": "18446744073709551615", "hidden": false })),
        "whole, whatever a browser makes of numbers"
    );
    assert_eq!(of("visitor").unwrap_or_default()["text"], "(sensitive)");
    assert_eq!(of("last").unwrap_or_default()["hidden"], true);
    assert_eq!(of("_v"), None, "no field of the function's");

    // Members of a set have no names by which they could be told to be sensitive.
    let set = Keys::default().row("visitors", "all");
    console.cluster.redis_cli(&["SADD", &set, "ann-in-person"]);
    let path = "/api/tables/visitors/row?key=all";
    let members = console.get_as(&cookie, path).await;
    assert!(!members.text().contains("ann-in-person"));
    let members = members.ok_json();
    assert_eq!(
        (&members["kind"], &members["count"]),
        (&json!("members"), &json!(1))
    );

    // Nor does the command show them.
    for verb in [
        &["state", "ls", "pages"][..],
        &["state", "ls", "pages", "--json"],
        &["state", "get", "pages", PAGE],
        &["state", "get", "pages", PAGE, "--json"],
        &["state", "get", "visitors", "all"],
        &["state", "get", "visitors", "all", "--json"],
    ] {
        let output = console.cluster.output("oncue", verb);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{verb:?}");
        assert!(!said.contains("ann-in-person"), "{verb:?}: {said}");
        assert!(said.contains("(sensitive)"), "{verb:?}: {said}");
    }

    let nothing = console.get_as(&cookie, "/api/tables/pages/row?key=x").await;
    nothing.problem(404, "not-found");
    for wrong in ["pages*", "a:b", "%5Ba%5D"] {
        let path = format!("/api/tables/{wrong}");
        let refused = console.get_as(&cookie, &path).await;
        refused.problem(400, "malformed");
    }
    // Of a table of nobody's nothing says what is sensitive.
    let nobodys = Keys::default().row("left", "x");
    console
        .cluster
        .redis_cli(&["HSET", &nobodys, "visitor", "ann-in-person"]);
    for path in ["/api/tables/left", "/api/tables/left/row?key=x"] {
        let refused = console.get_as(&cookie, path).await;
        assert!(!refused.text().contains("ann-in-person"));
        refused.problem(404, "not-found");
    }
    let cursor = console.get_as(&cookie, "/api/tables/pages?cursor=x").await;
    cursor.problem(400, "malformed");
}

#[tokio::test]
async fn a_table_is_walked_in_pages_among_other_keys() {
    let console = furnished().await;
    let cookie = console.login().await;
    let script = "for i = 1, 400 do redis.call('HSET', '{p' .. i % 200 .. '}:x', 'a', i) end \
         for i = 1, 20000 do redis.call('SET', 'other:' .. i, i) end";
    console.cluster.redis_cli(&["EVAL", script, "0"]);
    for number in 0..300 {
        let row = Keys::default().row("many", &format!("key/{number}"));
        console
            .cluster
            .redis_cli(&["HSET", &row, "n", "1", "_v", "1"]);
    }
    let before = console.cluster.redis_cli(&["INFO", "commandstats"]);
    assert!(!before.contains("cmdstat_keys:"), "{before}");
    let mut seen = BTreeSet::new();
    let mut cursor = String::new();
    let mut pages = 0;
    loop {
        let path = format!("/api/tables/many?cursor={cursor}");
        let page = console.get_as(&cookie, &path).await.ok_json();
        let rows = page["rows"].as_array().cloned().unwrap_or_default();
        assert!(rows.len() < 200, "{} at once", rows.len());
        seen.extend(
            rows.iter()
                .filter_map(|row| Some(row["key"].as_str()?.to_owned())),
        );
        pages += 1;
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(seen.len(), 300);
    assert!(pages > 1);
    let after = console.cluster.redis_cli(&["INFO", "commandstats"]);
    assert!(!after.contains("cmdstat_keys:"), "{after}");
}

#[tokio::test]
async fn a_row_is_changed_as_it_was_shown_and_that_is_on_record() {
    let console = furnished().await;
    let cookie = console.login().await;
    for (change, words) in [
        (json!({ "set": { "note": "b" }, "why": " " }), "say why"),
        (json!({}), "what to change"),
        (json!({ "set": { "views": "ten" } }), "another kind"),
        (json!({ "set": { "veiws": "1" } }), "no field veiws"),
        (json!({ "unset": ["veiws"] }), "no field veiws"),
        (
            json!({ "set": { "visitor": "(sensitive)" } }),
            "is not shown",
        ),
        (
            json!({ "set": { "last": "{\"visitor\":\"(sensitive)\"}" }, "force": true }),
            "is not shown",
        ),
        (json!({ "set": { "last": "1" } }), "another kind"),
        (json!({ "set": { "note": "b" }, "version": "" }), "version"),
    ] {
        let refused = edit(&console, &cookie, &change).await;
        let text = refused.text();
        assert!(!text.contains("ann-in-person"), "{text}");
        let why = refused.problem(400, "malformed");
        assert!(why.contains(words), "{change}: {why}");
    }
    let missing = edit(
        &console,
        &cookie,
        &json!({ "key": "none", "set": { "note": "b" } }),
    )
    .await;
    missing.problem(404, "not-found");
    assert_eq!(field(&console, "_v"), "7", "nothing was written");

    // The version is no field: one that an author calls so has another name in Redis.
    let version = json!({ "set": { "_v": "abc" }, "why": "odd", "force": true });
    edit(&console, &cookie, &version).await.ok_json();
    assert_eq!(field(&console, "__v"), "abc");
    assert!(field(&console, "_v").parse::<u64>().is_ok_and(|v| v > 7));
    let row = Keys::default().row("pages", PAGE);
    console.cluster.redis_cli(&["HDEL", &row, "__v"]);
    console.cluster.redis_cli(&["HSET", &row, "_v", "7"]);
    console
        .cluster
        .redis_cli(&["DEL", &Keys::default().of("edits")]);

    let change = json!({ "set": { "views": "5", "visitor": "bob-in-person" }, "unset": ["note"], "why": "a slip of the clerk" });
    edit(&console, &cookie, &change).await.ok_json();
    assert_eq!(
        (field(&console, "views"), field(&console, "note")),
        ("5".into(), String::new())
    );
    assert_eq!(field(&console, "visitor"), "bob-in-person");
    assert_ne!(field(&console, "_v"), "7");
    let row = console.get_as(&cookie, ROW).await.ok_json();
    let kept = &row["edits"][0];
    assert_eq!(
        (
            &kept["by"],
            &kept["reason"],
            &kept["set"]["views"],
            &kept["unset"]
        ),
        (
            &json!("ann@127.0.0.1"),
            &json!("a slip of the clerk"),
            &json!("5"),
            &json!(["note"])
        )
    );
    // What the record says is kept for long, and shown by the command line.
    let record = console
        .cluster
        .redis_cli(&["LRANGE", "app:edits", "0", "-1"]);
    assert!(record.contains("a slip of the clerk"), "{record}");
    assert!(!record.contains("in-person"), "{record}");

    // Whoever has looked at it before that writes nothing over it.
    let late = edit(&console, &cookie, &json!({ "set": { "views": "9" } })).await;
    assert!(late.problem(409, "gone").contains("has changed"));
    assert_eq!(field(&console, "views"), "5");
}

/// Between the look at a row and its change somebody else writes it.
async fn a_change_in_between_is_kept(console: &Console) {
    let set = [("note".to_owned(), "mine".to_owned())];
    let change = RowChange {
        table: "pages",
        key: PAGE,
        version: Some(7),
        set: &set,
        unset: &[],
        reason: "a test",
        by: "ann",
        force: false,
        bounds: Bounds::default(),
    };
    let sensitive = BTreeSet::new();
    let planned = rows::plan(&console.store, &change, &sensitive).await;
    let planned = planned.expect("it can be changed like that");
    let row = Keys::default().row("pages", PAGE);
    console
        .cluster
        .redis_cli(&["HSET", &row, "note", "theirs", "_v", "8"]);
    let written = planned.write(&console.store, &sensitive).await;
    assert!(matches!(written, Err(EditError::Changed)), "{written:?}");
    assert_eq!(field(console, "note"), "theirs");
}

#[tokio::test]
async fn a_change_in_between_is_never_overwritten() {
    a_change_in_between_is_kept(&furnished().await).await;
}

#[tokio::test]
async fn without_the_comparison_it_would_be() {
    let console = furnished().await;
    let comparison = "if (redis.call('HGET', KEYS[1], '_v') or '0') ~= ARGV[1] then return 0 end";
    break_library(&console.cluster, comparison, "");
    let kept = a_change_in_between_is_kept(&console);
    must_fail("without the comparison", kept).await;
}

#[tokio::test]
async fn a_redis_without_our_functions_says_what_brings_them() {
    let console = furnished().await;
    let cookie = console.login().await;
    console.cluster.redis_cli(&["FUNCTION", "FLUSH"]);
    let refused = edit(&console, &cookie, &json!({ "set": { "note": "b" } })).await;
    assert!(refused.problem(503, "away").contains("oncue apply"));
    assert_eq!(field(&console, "note"), "plain");
}
