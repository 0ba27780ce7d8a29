//! `oncue flow`, `oncue map` and `oncue map --drift` on real servers; what workers write into the ledger is written here.

use oncue_core::bus::Bus;
use oncue_core::store::Keys;
use oncue_proto::event::{self, new_id};
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::cluster::{Cluster, QUICK_REDELIVERY, until};
use serde_json::{Value, json};

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String, String) {
    let output = cluster.output("oncue", args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn json_of(cluster: &Cluster, args: &[&str]) -> Value {
    let (_, out, err) = oncue(cluster, args);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"))
}

/// A flow of an upload that waits for thumbnails, as workers would have written it.
fn write_ledger(cluster: &Cluster, flow: &str) {
    let key = Keys::default().flow(flow);
    let now = event::now_ms();
    let at = |ago: u64| (now - ago).to_string();
    let root = format!(r#"["files.file.uploaded","f1","/gateway","",{}]"#, at(5000));
    let next = format!(
        r#"["files.file.accepted","f1","/inspect-file","{flow}",{}]"#,
        at(4000)
    );
    let fields = [
        (format!("e:{flow}"), root),
        (format!("s:{flow}:inspect-file"), format!("d {}", at(4000))),
        (format!("r:{flow}:inspect-file"), format!("{} 1", at(4100))),
        ("e:out:1".to_owned(), next),
        (
            "s:out:1:make-thumbnails".to_owned(),
            format!("p {}", at(4000)),
        ),
        (
            "r:out:1:make-thumbnails".to_owned(),
            format!("{} 3", at(900)),
        ),
        (
            "w:out:1:make-thumbnails".to_owned(),
            format!("{} no space left", at(800)),
        ),
        ("s:out:1:retired".to_owned(), format!("p {}", at(4000))),
        ("n".to_owned(), "2".to_owned()),
        ("at".to_owned(), at(5000)),
    ];
    for (field, value) in fields {
        cluster.redis_cli(&["HSET", &key, &field, &value]);
    }
}

#[tokio::test]
async fn a_tracked_flow_is_drawn_from_any_of_its_events() {
    let cluster = Cluster::new("").await;
    let _worker = cluster.start("make-thumbnails").await;
    let flow = new_id();
    write_ledger(&cluster, &flow);
    for id in [flow.as_str(), "out:1"] {
        let (code, out, err) = oncue(&cluster, &["flow", id]);
        assert_eq!(code, 0, "{err}");
        let lines: Vec<&str> = out.lines().collect();
        assert!(
            lines[0].starts_with(&format!("flow {flow}  running for ")),
            "{out}"
        );
        assert!(
            lines[0].ends_with("1 of 3 steps open"),
            "a function that is gone is not waited for: {out}"
        );
        assert!(
            lines[1].starts_with("waits for make-thumbnails on files.file.accepted f1: failed"),
            "{out}"
        );
        assert!(lines[1].contains("attempt 3: no space left"), "{out}");
        assert!(
            out.contains("└─ ✓ inspect-file done  100 ms\n   └─ files.file.accepted f1  out:1"),
            "{out}"
        );
        assert!(out.contains("- retired removed"), "{out}");
    }
    let shown = json_of(&cluster, &["flow", &flow, "--json"]);
    assert_eq!(
        (&shown["from"], &shown["complete"], &shown["flow"]["open"]),
        (&json!("ledger"), &json!(false), &json!(1))
    );
    assert_eq!(shown["waits_for"]["step"]["function"], "make-thumbnails");
    let (code, _, err) = oncue(&cluster, &["flow", "never-was"]);
    assert!(
        code == 1
            && err.contains("no event or flow \"never-was\"")
            && err.contains("were searched"),
        "{code} {err}"
    );
}

/// Writes a flow of one view, a minute ago, on which `count-views` has still to act, though its consumer has nothing left.
fn write_forsaken(cluster: &Cluster) -> String {
    let flow = new_id();
    let key = Keys::default().flow(&flow);
    let ago = event::now_ms() - 60_000;
    let root = format!(r#"["web.page.viewed","a","/gateway","",{ago}]"#);
    for (field, value) in [
        (format!("e:{flow}"), root),
        (format!("s:{flow}:count-views"), format!("p {ago}")),
        ("n".to_owned(), "1".to_owned()),
        ("at".to_owned(), ago.to_string()),
    ] {
        cluster.redis_cli(&["HSET", &key, &field, &value]);
    }
    flow
}

#[tokio::test]
async fn who_came_back_for_later_events_is_not_waited_for_and_whose_event_is_gone_is_lost() {
    let cluster = Cluster::new("[functions.count-views]\nstart = \"new\"\n").await;
    let worker = cluster.start("count-views").await;
    let flow = write_forsaken(&cluster);
    let shown = json_of(&cluster, &["flow", &flow, "--json"]);
    assert_eq!(shown["complete"], true, "{shown}");
    let (code, out, err) = oncue(&cluster, &["flow", &flow]);
    assert!(
        code == 0 && out.contains("- count-views removed"),
        "{out}{err}"
    );
    drop(worker);

    // One that was given all that its stream held should have had the event.
    let cluster = Cluster::new("[functions.count-views]\nstart = \"all\"\n").await;
    let _worker = cluster.start("count-views").await;
    let flow = write_forsaken(&cluster);
    let shown = json_of(&cluster, &["flow", &flow, "--json"]);
    assert_eq!(shown["complete"], false, "{shown}");
    let (_, out, err) = oncue(&cluster, &["flow", &flow]);
    assert!(out.contains("! count-views lost"), "{out}{err}");
}

#[tokio::test]
async fn a_flow_is_followed_to_its_end() {
    let cluster = Cluster::new("").await;
    let _worker = cluster.start("make-thumbnails").await;
    let flow = new_id();
    write_ledger(&cluster, &flow);
    let following = cluster.spawn("oncue", &["flow", &flow, "--follow", "--json"]);
    following.wait_for_line("\"complete\":false").await;
    let now = event::now_ms().to_string();
    cluster.redis_cli(&[
        "HSET",
        &Keys::default().flow(&flow),
        "s:out:1:make-thumbnails",
        &format!("d {now}"),
        "n",
        "1",
    ]);
    // The function that is gone is never done, and not waited for.
    following.wait_for_line("\"complete\":true").await;
}

/// Publishes as workers and gateways do.
async fn publish(bus: &Bus, ty: &str, id: &str, source: &str, flow: &str, cause: &str) -> u64 {
    let headers = [
        ("ce-id", id),
        ("ce-type", ty),
        ("ce-source", source),
        ("ce-flowid", flow),
        ("ce-causationid", cause),
    ];
    let headers = headers
        .into_iter()
        .chain([("Nats-Msg-Id", id)])
        .filter(|(_, value)| !value.is_empty());
    let headers = headers
        .map(|(name, value)| Header {
            name: name.into(),
            value: value.into(),
        })
        .collect();
    let payload = br#"{"page":"/p","views":"10"}"#.as_slice().into();
    bus.publish(&Envelope {
        subject: ty.to_owned(),
        headers,
        payload,
    })
    .await
    .expect("taken")
    .sequence
}

#[tokio::test]
async fn a_flow_without_a_ledger_is_found_in_the_streams() {
    let cluster = Cluster::new(&format!(
        "[functions.count-views]\n{QUICK_REDELIVERY}\n[functions.rank-pages]\n{QUICK_REDELIVERY}\n"
    ))
    .await;
    let bus = cluster.bus().await;
    let workers = cluster.start_all(&["count-views", "rank-pages"]).await;
    // Ten views of one page make a milestone, which is ranked.
    for n in 0..10 {
        publish(
            &bus,
            "web.page.viewed",
            &format!("view-{n}"),
            "client",
            "",
            "",
        )
        .await;
    }
    cluster.drained(&bus, "web", "count-views").await;
    until("the milestone", async || {
        (cluster.count(&bus, "web").await == 11).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "rank-pages").await;
    let output = cluster
        .messages(&bus, "web")
        .await
        .pop()
        .expect("the milestone");
    let milestone = output.header("ce-id").expect("an id").to_owned();
    let flow = output.header("ce-flowid").expect("a flow").to_owned();
    for id in [flow.as_str(), &milestone] {
        let (code, out, err) = oncue(&cluster, &["flow", id]);
        assert_eq!(code, 0, "{err}");
        assert!(
            out.starts_with(&format!("flow {flow}  complete\n")),
            "{out}"
        );
        assert!(out.contains("└─ ✓ count-views done"), "{out}");
        assert!(
            out.contains(&format!("└─ web.page.milestone /p  {milestone}"))
                && out.contains("└─ ✓ rank-pages done"),
            "{out}"
        );
        assert!(
            err.contains("no ledger") && err.contains("events of") && !err.contains("want of time"),
            "{err}"
        );
    }
    let (_, out, err) = oncue(&cluster, &["find", "--state", "complete"]);
    assert!(
        out.is_empty() && err.contains("events were passed over"),
        "{out} {err}"
    );
    // What nobody has done yet is pending.
    drop(workers);
    until("the workers are gone", async || {
        (json_of(&cluster, &["ps", "--json"])[0]["replicas"] == 0).then_some(())
    })
    .await;
    let id = new_id();
    publish(&bus, "web.page.viewed", &id, "/gateway", &id, "").await;
    let shown = json_of(&cluster, &["flow", &id, "--json"]);
    assert_eq!(
        (&shown["from"], &shown["waits_for"]["step"]["state"]),
        (&json!("streams"), &json!("pending"))
    );
    let events = shown["searched"]["events"].as_u64();
    assert!(
        events <= Some(24),
        "once to find it, once to read what followed: {shown}"
    );
}

/// Such an id tells nothing; without what seen-marks say, every message would be read.
#[tokio::test]
async fn an_id_made_up_by_a_client_is_found_by_its_mark() {
    const AFTER: u64 = 20_000;
    let cluster = Cluster::new("[functions.count-views]\nconcurrency = 1000\n").await;
    let bus = cluster.bus().await;
    let _workers = cluster.start_all(&["count-views", "rank-pages"]).await;
    // The tenth of a page has a milestone follow.
    for n in 1..=10 {
        publish(
            &bus,
            "web.page.viewed",
            &format!("view-number-{n}"),
            "client",
            "",
            "",
        )
        .await;
    }
    for n in 0..AFTER {
        let view = format!(r#"{{"page":"/{n}","visitor":"v"}}"#);
        bus.publish_plain("web.page.viewed".into(), view.into())
            .await
            .expect("sent");
    }
    until("all views", async || {
        (cluster.count(&bus, "web").await == AFTER + 11).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "count-views").await;
    cluster.drained(&bus, "web", "rank-pages").await;
    let milestone = cluster
        .messages(&bus, "web")
        .await
        .into_iter()
        .find(|found| found.subject == "web.page.milestone");
    let milestone = milestone
        .expect("a milestone")
        .header("ce-causationid")
        .expect("a cause")
        .to_owned();
    let shown = json_of(&cluster, &["flow", &milestone, "--json"]);
    assert_eq!(
        (&shown["flow"]["id"], &shown["complete"]),
        (&json!(milestone), &json!(true))
    );
    let functions = [0, 1].map(|n| shown["flow"]["events"][n]["steps"][0]["function"].clone());
    assert_eq!(functions, [json!("count-views"), json!("rank-pages")]);
    let searched = &shown["searched"];
    assert!(
        searched["events"].as_u64() < Some(AFTER) && searched["by_mark"].as_u64() >= Some(2),
        "{searched}"
    );
}

#[tokio::test]
async fn among_many_flows_and_rows_a_tracked_one_is_found_by_a_late_event() {
    let cluster = Cluster::new("").await;
    let fill = "for i = 1, 200000 do redis.call('SET', 'app:{p1}:s:t:' .. i, 'x') end \
                for i = 1, 5000 do redis.call('HSET', 'app:{p2}:f:flow' .. i, 'e:ev' .. i, '[\"a.b.c\",\"k\",\"client\",\"\",5]', 'n', '0') end";
    cluster.redis_cli(&["EVAL", fill, "0"]);
    let shown = json_of(&cluster, &["flow", "ev4711", "--json"]);
    assert_eq!(shown["flow"]["events"][0]["id"], "ev4711");
}

const APP: &str = "[functions.count-views]\n[functions.rank-pages]\n[functions.publish-trends]\n\
                   [[schedule]]\nfunction = \"publish-trends\"\nevery = \"1h\"\n";

#[tokio::test]
async fn the_map_shows_programs_and_who_runs() {
    let cluster = Cluster::new(APP).await;
    let _worker = cluster.start("count-views").await;
    let (code, out, err) = oncue(&cluster, &["map"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("web.page.viewed  from clients\n└─ count-views  [pages]  1 running\n   └─ web.page.milestone\n      └─ rank-pages  [rankings]  not running"), "{out}");
    assert!(
        out.contains("timer.function.fired  from schedule\n└─ publish-trends"),
        "{out}"
    );
    assert!(
        out.contains("web.trends.published  nobody listens"),
        "{out}"
    );
    assert!(
        oncue(&cluster, &["map", "--format", "mermaid"])
            .1
            .starts_with("flowchart LR\n")
    );
    assert!(
        oncue(&cluster, &["map", "--format", "dot"])
            .1
            .starts_with("digraph oncue {\n")
    );
    let map = json_of(&cluster, &["map", "--format", "json"]);
    let views = map["types"]
        .as_array()
        .unwrap()
        .iter()
        .find(|ty| ty["type"] == "web.page.viewed")
        .unwrap();
    assert_eq!(views["consumed_by"], json!(["count-views"]));
    // Without any server it still shows what the programs say.
    let away = [
        "--nats",
        "nats://127.0.0.1:1",
        "--redis",
        "redis://127.0.0.1:1",
        "map",
    ];
    let (code, out, err) = oncue(&cluster, &away);
    assert!(
        code == 0 && out.contains("└─ count-views") && err.contains("127.0.0.1:1"),
        "{code} {out} {err}"
    );
}

#[tokio::test]
async fn drift_is_named_and_has_an_exit_code() {
    let cluster = Cluster::new(APP).await;
    let bus = cluster.bus().await;
    let worker = cluster
        .start_all(&["count-views", "rank-pages", "publish-trends"])
        .await;
    let kinds = |cluster: &Cluster| -> Vec<(String, String)> {
        let found = json_of(cluster, &["map", "--drift", "--format", "json"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        found
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (text(&f["kind"]), text(&f["what"])))
            .collect()
    };
    let has = |found: &[(String, String)], kind: &str, part: &str| {
        found
            .iter()
            .any(|(k, what)| k == kind && what.contains(part))
    };
    let found = kinds(&cluster);
    assert!(
        has(&found, "untriggered", "count-views acts on web.page.viewed"),
        "{found:?}"
    );
    assert!(
        has(
            &found,
            "unheard",
            "web.trends.published, from publish-trends"
        ),
        "{found:?}"
    );
    assert!(
        !has(&found, "untriggered", "publish-trends") && !has(&found, "untriggered", "rank-pages"),
        "{found:?}"
    );

    publish(&bus, "web.page.viewed", "v", "client", "", "").await;
    cluster.drained(&bus, "web", "count-views").await;
    let old = (event::now_ms() - 9 * 24 * 3600 * 1000).to_string();
    for (edge, at) in [
        (
            "client\tweb.page.viewed\tcount-views",
            event::now_ms().to_string(),
        ),
        ("/count-views\tweb.page.milestone\trank-pages", old.clone()),
        (
            "client\ttimer.function.fired\tpublish-trends",
            event::now_ms().to_string(),
        ),
        ("/ghost\tweb.page.milestone\trank-pages", old),
    ] {
        cluster.redis_cli(&["HINCRBY", "app:edges", edge, "1"]);
        cluster.redis_cli(&["HSET", "app:edges:at", edge, &at]);
    }
    let found = kinds(&cluster);
    assert!(!has(&found, "untriggered", ""), "{found:?}");
    // The app is some seconds old: that something was not used yet means nothing. For whoever asks all the same:
    assert!(!has(&found, "unused", ""), "{found:?}");
    let (_, out, _) = oncue(&cluster, &["map", "--drift", "--days", "0"]);
    assert!(
        out.contains("rank-pages last acted on an event 9 days ago"),
        "{out}"
    );
    assert!(
        has(&found, "undeclared", "there is no function ghost"),
        "{found:?}"
    );
    let (code, out, _) = oncue(&cluster, &["map", "--drift"]);
    assert!(code == 1 && out.contains("undeclared"), "{code} {out}");
    let accepted = [
        "map",
        "--drift",
        "--days",
        "10",
        "--ignore",
        "unheard",
        "--ignore",
        "undeclared",
    ];
    let (code, out, err) = oncue(&cluster, &accepted);
    assert!(
        code == 0 && out.contains("declared and observed agree"),
        "{code} {out} {err}"
    );
    drop(worker);
    let (code, _, err) = oncue(
        &cluster,
        &["--redis", "redis://127.0.0.1:1", "map", "--drift"],
    );
    assert!(
        code == 4 && err.contains("127.0.0.1:1"),
        "without Redis nothing is observed: {code} {err}"
    );
}

#[tokio::test]
async fn a_function_that_left_the_file_and_not_the_servers_is_drift() {
    let cluster = Cluster::new(APP).await;
    let bus = cluster.bus().await;
    let _workers = cluster.start_all(&["count-views"]).await;
    publish(&bus, "web.page.viewed", "v", "client", "", "").await;
    let removed = "removed       former is not in oncue.toml, and 1 events wait for it";
    let (_, out, _) = oncue(&cluster, &["map", "--drift"]);
    assert!(!out.contains("removed"), "{out}");
    let config = json!({ "durable_name": "app_former", "ack_policy": "explicit", "filter_subject": "web.page.viewed" });
    bus.api(
        "CONSUMER.DURABLE.CREATE.web.app_former",
        &json!({ "stream_name": "web", "config": config }),
    )
    .await
    .expect("a consumer");
    let (code, out, _) = oncue(&cluster, &["map", "--drift"]);
    assert!(code == 1 && out.contains(removed), "{code} {out}");
    let ignored = ["map", "--drift", "--ignore", "removed"];
    let (_, out, _) = oncue(&cluster, &ignored);
    assert!(!out.contains("removed"), "{out}");
}

#[tokio::test]
async fn top_needs_a_terminal_and_says_what_does_not() {
    let cluster = Cluster::new("").await;
    let (code, _, err) = oncue(&cluster, &["top"]);
    assert!(code == 2 && err.contains("oncue ps --json"), "{code} {err}");
}

/// `oncue tail` prints what its streams have, and what comes.
#[tokio::test]
async fn events_are_printed_as_they_pass() {
    let cluster = Cluster::new("").await;
    cluster.provide_gateway();
    let view = |page: &str| {
        (
            "web.page.viewed",
            format!(r#"{{"page":"{page}","visitor":"v"}}"#),
        )
    };
    cluster.plain_publish([view("/a"), view("/b")]);
    let all = [
        "tail",
        "web.page.viewed",
        "--from",
        "start",
        "--count",
        "2",
        "--json",
    ];
    let (code, out, err) = oncue(&cluster, &all);
    assert_eq!(code, 0, "{err}");
    let lines = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let keys: Vec<Value> = lines.map(|line| line["key"].clone()).collect();
    assert_eq!(keys, ["/a", "/b"]);
    let one = ["tail", "--from", "start", "--key", "/b", "--count", "1"];
    let (_, out, err) = oncue(&cluster, &one);
    assert!(
        out.contains("web.page.viewed /b visitor=(sensitive)"),
        "{out}{err}"
    );
}

/// What a step has done to its row is shown with the flow, and hides what the contract calls sensitive.
#[tokio::test]
async fn rows_are_shown_as_each_step_found_and_left_them() {
    let config = format!("[flows]\ntrack = \"all\"\n[functions.misbehave]\n{QUICK_REDELIVERY}\n");
    let cluster = Cluster::new(&config).await;
    let _worker = cluster.start("misbehave").await;
    let send = |id: &str, referrer: &str| {
        let view = json!({ "page": "/rows", "visitor": "ann", "referrer": referrer });
        let args = ["pub", "web.page.viewed", &view.to_string(), "--id", id];
        let (code, _, err) = oncue(&cluster, &args);
        assert_eq!(code, 0, "{err}");
    };
    let row = async |id: &str, function: &str, is_there: &dyn Fn(&Value) -> bool| {
        until("the row is noted", async || {
            let shown = json_of(&cluster, &["flow", id, "--rows", "--json"]);
            let rows = shown["rows"].as_array()?;
            let row = rows.iter().find(|row| row["function"] == function)?;
            is_there(row).then(|| row.clone())
        })
        .await
    };
    let applied = |row: &Value| row["after"].is_object();
    send("e-1", "");
    let first = row("e-1", "misbehave", &applied).await;
    assert_eq!(
        (&first["before"], &first["after"]["count"]),
        (&json!({}), &json!("1"))
    );
    assert_eq!(
        (&first["event"], &first["events"]),
        (&json!("e-1"), &json!(1))
    );
    send("e-2", "");
    let second = row("e-2", "misbehave", &applied).await;
    assert_eq!(
        (&second["before"]["count"], &second["after"]["count"]),
        (&json!("1"), &json!("2"))
    );
    send("e-3", "fail");
    let failed = row("e-3", "misbehave", &|row| row["after"].is_null()).await;
    assert_eq!(failed["before"]["count"], "2", "{failed}");

    let (_, text, _) = oncue(&cluster, &["flow", "e-2", "--rows"]);
    assert!(text.contains("misbehave e-2\n  count: 1 -> 2\n"), "{text}");
    let (_, text, _) = oncue(&cluster, &["flow", "e-3", "--rows"]);
    assert!(text.contains("as the failed run has found it"), "{text}");
    // No client of the gateway sees them.
    let keys = Keys::default();
    let ledger = cluster.redis_cli(&["HKEYS", &keys.flow("e-2")]);
    assert!(!ledger.contains("count"), "{ledger}");
    let noted = cluster.redis_cli(&["HGET", &keys.flow_rows("misbehave", "e-2"), "e-2"]);
    assert!(noted.contains("count"), "{noted}");
    let left = cluster.redis_cli(&["TTL", &keys.flow_rows("misbehave", "e-2")]);
    assert!(
        left.trim().parse::<i64>().is_ok_and(|left| left > 0),
        "{left}"
    );
}
