//! `oncue new`: apps in languages without a build, as they are made, pass their tests, and what they say of themselves holds on real
//! servers.

mod grown;
mod python;
mod terminal;
mod typescript;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oncue_tests::cluster::{Cluster, built, free_port, until, wait_for};

/// Places an order, and looks until it is counted.
const ORDER: &str = r#"
oncue pub shop.order.placed '{"order":"o1","customer":"ann","cents":1000}' --wait 30 || exit 1
oncue pub shop.order.placed '{"order":"o2","customer":"ann"}' --wait 30 && exit 2
for _ in $(seq 150); do
    row=$(oncue state get customers ann --json 2>/dev/null)
    [ "$row" = '{"cents":1190,"orders":1}' ] && { oncue dlq ls --json; exit 0; }
    sleep 0.2
done
echo "found $row"
exit 3
"#;

/// Folder of an app that is removed with the test.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Made {
    fn oncue(&self, folder: &Path, args: &[&str]) -> Output {
        let programs = built("oncue");
        let programs = programs.parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new(built("oncue"))
            .args(args)
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("TMPDIR", &self.0)
            .env_remove("ONCUE_NATS_URL")
            .env_remove("ONCUE_REDIS_URL")
            .output();
        output.expect("oncue runs")
    }
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// Makes an app, runs its tests, and has an order go through it; `count` is what its tests say when they pass. A rejected order has
/// the place in `source`.
fn is_made_tested_and_run(language: &str, install: impl Fn(&Path), count: &str, source: &str) {
    let name = format!("oncue-new-{language}-{}", std::process::id());
    let made = Made(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&made.0).expect("a folder");
    let output = made.oncue(&made.0, &["new", "shop", "--lang", language]);
    assert!(output.status.success(), "{}", text(&output));
    let app = made.0.join("shop");
    install(&app);
    let output = made.oncue(&app, &["test"]);
    let said = text(&output);
    assert!(output.status.success() && said.contains(count), "{said}");
    let output = made.oncue(&app, &["test", "--", "sh", "-c", ORDER]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    // The order of nothing, with the line that rejected it.
    assert!(
        said.contains("an order of nothing") && said.contains(&format!("{source}:")),
        "{said}"
    );
}

/// New app in a folder of its own, with ports of its own for `oncue dev`.
struct Workplace {
    cluster: Cluster,
    app: PathBuf,
    /// Address of its gateway.
    gateway: String,
}

impl Workplace {
    async fn open(language: &str, install: impl Fn(&Path)) -> Self {
        let mut cluster = Cluster::new("").await;
        let output = cluster.output("oncue", &["new", "shop", "--lang", language]);
        assert!(output.status.success(), "{}", text(&output));
        let app = cluster.dir.join("shop");
        install(&app);
        let config = app.join("oncue.toml").display().to_string();
        let gateway = format!("127.0.0.1:{}", free_port());
        cluster.set("ONCUE_CONFIG", &config);
        cluster.set("ONCUE_GATEWAY_LISTEN", &gateway);
        // No trace viewer: its ports are the same for everybody.
        cluster.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        cluster.set(
            "ONCUE_CONSOLE_LISTEN",
            &format!("127.0.0.1:{}", free_port()),
        );
        Self {
            cluster,
            app,
            gateway,
        }
    }
}

/// A saved function runs anew, and nothing else does: `tax` is a text of `source`, and stands there with 7 in place of 19 after it
/// was saved.
async fn is_run_anew(language: &str, install: impl Fn(&Path), source: &str, tax: &str) {
    let Workplace { cluster, app, .. } = Workplace::open(language, install).await;
    let mut dev = cluster.spawn("oncue", &["dev"]);
    dev.wait_for_line("ready in").await;
    let order = r#"{"order":"o1","customer":"ann","cents":1000}"#;
    let publish = ["pub", "shop.order.placed", order, "--wait", "30"];
    let output = cluster.output("oncue", &publish);
    assert!(output.status.success(), "{}", text(&output));
    let source = app.join(source);
    let code = std::fs::read_to_string(&source).expect("written");
    assert!(code.contains(tax), "{code}");
    std::fs::write(&source, code.replace(tax, &tax.replace("19", "7"))).expect("written");
    dev.wait_for_line(" anew (").await;
    assert!(dev.log().contains("bill-order runs anew"), "{}", dev.log());
    let order = r#"{"order":"o2","customer":"bob","cents":1000}"#;
    let publish = ["pub", "shop.order.placed", order, "--wait", "30"];
    let output = cluster.output("oncue", &publish);
    assert!(output.status.success(), "{}", text(&output));
    let row = until("the order is counted at the new rate", async || {
        let row = cluster.output("oncue", &["state", "get", "customers", "bob", "--json"]);
        row.status.success().then(|| text(&row))
    })
    .await;
    assert!(row.contains(r#""cents":1070"#), "{row}");
    // A name that no function has leaves all running, until it is taken back.
    let file = app.join("oncue.toml");
    let config = std::fs::read_to_string(&file).expect("written");
    let wrong = config.replace("[functions.bill-order]", "[functions.bill-orders]");
    std::fs::write(&file, wrong).expect("written");
    dev.wait_for_line("oncue.toml is not taken; what ran before runs on")
        .await;
    assert!(dev.log().contains("bill-orders"), "{}", dev.log());
    std::fs::write(&file, config).expect("written");
    let order = r#"{"order":"o3","customer":"cem","cents":1000}"#;
    let publish = ["pub", "shop.order.placed", order, "--wait", "30"];
    let output = cluster.output("oncue", &publish);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!dev.log().contains("starts anew"), "{}", dev.log());
    // Told to it alone, as without a terminal.
    dev.signal("INT");
    assert_eq!(dev.exit().await, Some(0), "{}", dev.log());
    // Nobody sits in front of it.
    let log = dev.log();
    assert!(!log.contains("Keys:") && !log.contains("└"), "{log}");
}

#[tokio::test]
async fn a_killed_dev_leaves_nothing_behind() {
    let place = Workplace::open("python", python::install).await;
    let mut dev = place.cluster.spawn("oncue", &["dev"]);
    dev.wait_for_line("ready in").await;
    let children = dev.children();
    assert!(!children.is_empty(), "oncue up, and its guard");
    dev.kill();
    wait_for("they have ended", async || {
        let mut left = children.iter();
        !left.any(|pid| Path::new(&format!("/proc/{pid}")).exists())
    })
    .await;
    assert!(dev.log().contains("stopped in "), "{}", dev.log());
    assert!(TcpStream::connect(&place.gateway).is_err());
}
