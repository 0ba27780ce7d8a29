//! `oncue new --lang python`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use oncue_tests::cluster::{Cluster, free_port, in_repository, until};

use super::{Workplace, is_made_tested_and_run, is_run_anew, text};

/// Stands for `python3 -m venv .venv && .venv/bin/pip install -r requirements.txt`, which needs a network: the Python that
/// `make test` has set up, with the package that `requirements.txt` names.
pub fn install(app: &Path) {
    let requirements = std::fs::read_to_string(app.join("requirements.txt")).expect("written");
    let package = requirements.lines().last().expect("a line");
    assert!(
        Path::new(package).join("oncue/__init__.py").is_file(),
        "{package}"
    );
    let python = in_repository(".oncue/venv/bin/python");
    let bin = app.join(".venv/bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    let script = format!(
        "#!/bin/sh\nPYTHONPATH={package} exec {} \"$@\"\n",
        python.display()
    );
    std::fs::write(bin.join("python"), script).expect("written");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bin.join("python"), all).expect("changed");
}

#[test]
fn an_app_in_python_is_made_tested_and_run() {
    is_made_tested_and_run("python", install, "Ran 5 tests", "bill_order.py");
}

#[tokio::test]
async fn oncue_dev_runs_python_that_is_saved() {
    is_run_anew("python", install, "functions/bill_order.py", "TAX = 19").await;
}

/// Somebody who begins `oncue dev` before anything is installed is told what to do, and waits for nothing after it.
#[tokio::test]
async fn dev_says_what_to_install_and_goes_on_once_it_is() {
    let Workplace { cluster, app, .. } = Workplace::open("python", |_| {}).await;
    let dev = cluster.spawn("oncue", &["dev"]);
    dev.wait_for_line(".venv/bin/pip install -r requirements.txt")
        .await;
    install(&app);
    dev.wait_for_line("ready in").await;
    let log = dev.log();
    assert!(
        log.contains(".venv/bin/python is not there") && !log.contains("127 "),
        "{log}"
    );
}

/// New app whose `oncue up` starts servers of its own.
struct Owned {
    cluster: Cluster,
    app: PathBuf,
    redis: String,
}

impl Owned {
    async fn open() -> Self {
        let Workplace {
            mut cluster, app, ..
        } = Workplace::open("python", install).await;
        let redis = format!("redis://127.0.0.1:{}", free_port());
        cluster.set(
            "ONCUE_NATS_URL",
            &format!("nats://127.0.0.1:{}", free_port()),
        );
        cluster.set("ONCUE_REDIS_URL", &redis);
        cluster.set("ONCUE_NATS_MONITOR", &format!("127.0.0.1:{}", free_port()));
        Self {
            cluster,
            app,
            redis,
        }
    }
}

/// Servers of the app's own, all they held lost, put back from a backup: with the commands that the refusals name.
#[tokio::test]
async fn an_app_is_restored_on_its_own_servers_without_its_functions() {
    let Owned { cluster, app, .. } = Owned::open().await;
    let backup = cluster.dir.join("backup").display().to_string();
    let mut up = cluster.spawn("oncue", &["up"]);
    up.wait_for_line("ready in").await;
    let order = r#"{"order":"o1","customer":"ann","cents":1000}"#;
    let publish = ["pub", "shop.order.placed", order, "--wait", "30"];
    let output = cluster.output("oncue", &publish);
    assert!(output.status.success(), "{}", text(&output));
    let output = cluster.output("oncue", &["backup", &backup]);
    assert!(output.status.success(), "{}", text(&output));
    let restore = ["restore", &backup, "--yes"];
    let output = cluster.output("oncue", &restore);
    let said = text(&output);
    assert!(
        output.status.code() == Some(1)
            && said.contains("still run")
            && said.contains("oncue up --servers"),
        "{said}"
    );
    up.signal("INT");
    assert_eq!(up.exit().await, Some(0), "{}", up.log());
    for data in ["nats", "redis"] {
        std::fs::remove_dir_all(app.join(".oncue").join(data)).expect("the data of a server");
    }
    let output = cluster.output("oncue", &restore);
    let said = text(&output);
    assert!(
        output.status.code() == Some(4) && said.contains("oncue up --servers"),
        "{said}"
    );
    let mut servers = cluster.spawn("oncue", &["up", "--servers"]);
    servers.wait_for_line("the servers, and no function").await;
    let output = cluster.output("oncue", &restore);
    assert!(output.status.success(), "{}", text(&output));
    servers.signal("INT");
    assert_eq!(servers.exit().await, Some(0), "{}", servers.log());
    let log = servers.log();
    assert!(
        !log.contains("bill-order") && !log.contains("gateway"),
        "{log}"
    );
    let up = cluster.spawn("oncue", &["up"]);
    up.wait_for_line("ready in").await;
    let output = cluster.output("oncue", &["state", "get", "customers", "ann", "--json"]);
    assert!(
        text(&output).contains(r#""cents":1190"#),
        "{}",
        text(&output)
    );
    until("all is accounted for", async || {
        let output = cluster.output("oncue", &["audit"]);
        output.status.success().then_some(())
    })
    .await;
}

/// Another program of a function that is not restarted is not let in: what runs would not be what is on record.
#[tokio::test]
async fn a_restart_lets_in_what_it_restarts_and_nothing_else() {
    let Workplace { cluster, app, .. } = Workplace::open("python", install).await;
    let up = cluster.spawn("oncue", &["up"]);
    up.wait_for_line("ready in").await;
    for source in ["bill_order.py", "count_sales.py"] {
        let source = app.join("functions").join(source);
        let code = std::fs::read_to_string(&source).expect("written");
        let changed = code.replace("@function(\"", "@function(attempts=7, name=\"");
        assert_ne!(code, changed);
        std::fs::write(&source, changed).expect("written");
    }
    let store = cluster.store_of(&"shop".parse().expect("a name")).await;
    let attempts = async || {
        let functions = store.functions().await.expect("Redis");
        let attempts = functions.iter().map(|known| known.manifest.limits.attempts);
        attempts.collect::<Vec<_>>()
    };
    let before = attempts().await;
    assert!(before.len() == 2 && before[0] != 7, "{before:?}");
    let output = cluster.output("oncue", &["restart", "bill-order"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(attempts().await, [7, before[1]]);
    let output = cluster.output("oncue", &["restart"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(attempts().await, [7, 7]);
}

/// What Redis refused somebody, as it remembers it.
fn refused(cluster: &Cluster, app: &Path, redis: &str) -> String {
    let password = std::fs::read_to_string(app.join(".oncue/keys/operator.redis"));
    let password = password.expect("the operator has a password");
    let port = redis.rsplit(':').next().expect("a port");
    let output = std::process::Command::new("redis-cli")
        .args([
            "-p",
            port,
            "--user",
            "shop.operator",
            "--no-auth-warning",
            "-a",
        ])
        .args([password.trim(), "ACL", "LOG"])
        .current_dir(&cluster.dir)
        .output();
    text(&output.expect("redis-cli"))
}

/// Redis lost on servers that are locked, as those of `oncue up` are: workers say so, and the command that they name restores all of
/// it, flows too.
#[tokio::test]
async fn a_locked_redis_that_was_emptied_is_recovered_as_it_is_said() {
    let Owned {
        cluster,
        app,
        redis,
    } = Owned::open().await;
    let mut up = cluster.spawn("oncue", &["up"]);
    up.wait_for_line("ready in").await;
    let good = r#"{"order":"o1","customer":"ann","cents":1000}"#;
    let output = cluster.output("oncue", &["pub", "shop.order.placed", good, "--wait", "30"]);
    assert!(output.status.success(), "{}", text(&output));
    let bad = r#"{"order":"o2","customer":"ann"}"#;
    let wait = [
        "pub",
        "shop.order.placed",
        bad,
        "--id",
        "the-bad-one",
        "--wait",
        "30",
    ];
    let output = cluster.output("oncue", &wait);
    assert!(!output.status.success(), "{}", text(&output));
    // What a worker has counted is in Redis a moment later.
    until("counts are kept", async || {
        let output = cluster.output("oncue", &["ps", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (rows[0]["dead"] == 1).then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(refused(&cluster, &app, &redis).trim(), "");
    up.signal("INT");
    assert_eq!(up.exit().await, Some(0), "{}", up.log());
    std::fs::remove_dir_all(app.join(".oncue/redis")).expect("the data of Redis");

    let mut up = cluster.spawn("oncue", &["up"]);
    up.wait_for_line("`oncue recover redis` restores").await;
    assert_eq!(refused(&cluster, &app, &redis).trim(), "");
    up.signal("INT");
    let _ = up.exit().await;
    let mut servers = cluster.spawn("oncue", &["up", "--servers"]);
    servers.wait_for_line("the servers, and no function").await;
    let output = cluster.output("oncue", &["recover", "redis", "--yes"]);
    assert!(output.status.success(), "{}", text(&output));
    servers.signal("INT");
    assert_eq!(servers.exit().await, Some(0), "{}", servers.log());

    let up = cluster.spawn("oncue", &["up"]);
    up.wait_for_line("ready in").await;
    let row = until("the order counts again", async || {
        let output = cluster.output("oncue", &["state", "get", "customers", "ann", "--json"]);
        output.status.success().then(|| text(&output))
    })
    .await;
    assert!(
        row.contains(r#""cents":1190"#) && row.contains(r#""orders":1"#),
        "{row}"
    );
    until("all is accounted for", async || {
        let output = cluster.output("oncue", &["audit"]);
        output.status.success().then_some(())
    })
    .await;
    let flow = until("the flow with the letter is at its end", async || {
        let output = cluster.output("oncue", &["flow", "the-bad-one"]);
        let said = text(&output);
        said.contains("the-bad-one  failed").then_some(said)
    })
    .await;
    assert!(
        flow.contains("shop.order.placed")
            && flow.contains("bill-order dead")
            && !flow.contains("unknown"),
        "{flow}"
    );
    let output = cluster.output("oncue", &["find", "--state", "open"]);
    assert!(output.stdout.is_empty(), "{}", text(&output));
    assert_eq!(refused(&cluster, &app, &redis).trim(), "");
}

/// Whoever stops and starts an app finds nothing published twice; where nobody knows how nats-server ended, outputs are published
/// again, as after a power cut.
#[tokio::test]
async fn a_nats_that_ended_in_order_has_nothing_published_again() {
    let Owned { cluster, app, .. } = Owned::open().await;
    let again = "published again what it may have lost";
    let note = app.join(".oncue/nats-ended");
    for round in 0..3 {
        let is_known = note.is_file();
        assert_eq!(is_known, round > 0, "round {round}");
        if round == 2 {
            std::fs::write(&note, "another run of the machine\nid").expect("written");
        }
        let mut up = cluster.spawn("oncue", &["up"]);
        up.wait_for_line("ready in").await;
        assert!(!note.exists(), "it holds for one start");
        let order = format!(r#"{{"order":"o{round}","customer":"ann","cents":1000}}"#);
        let publish = ["pub", "shop.order.placed", &order, "--wait", "30"];
        let output = cluster.output("oncue", &publish);
        assert!(output.status.success(), "{}", text(&output));
        if round == 2 {
            up.wait_for_line(again).await;
        } else {
            // Workers look for it within their first seconds.
            tokio::time::sleep(std::time::Duration::from_secs(4)).await;
            assert!(!up.log().contains(again), "round {round}: {}", up.log());
        }
        up.signal("INT");
        assert_eq!(up.exit().await, Some(0), "{}", up.log());
    }
}
