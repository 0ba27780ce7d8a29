//! Breaks a running app in thirteen ways, one after the other, and writes down for each: how long until the console says it, what
//! it says, the alert that fires on the metrics it serves then, and the command that mends it. The table is
//! `deploy/BREAKAGES.md`.
//!
//!     breakages FILE
//!
//! The app is run by `oncue up` on servers of its own; whatever the console does not say within two minutes ends the run.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::contract;
use oncue_tests::cluster::{Cluster, Process, children, free_port, send, wait_for_port};
use oncue_tests::http::live::watch_until;
use oncue_tests::http::request;
use serde_json::{Value, json};

/// Longest wait for a sentence to come, and to go.
const LONGEST: Duration = Duration::from_mins(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Function that does what its events say.
const FUNCTION: &str = "misbehave";
/// Minutes for which a breakage lasts in the eyes of Prometheus.
const LASTS: usize = 60;

/// Way to break an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breakage {
    FrozenRedis,
    FrozenNats,
    StoreBack,
    PoisonGroup,
    StuckFunction,
    Lag,
    FullStream,
    PausedConsumer,
    ExpiredCertificate,
    RefusedVersion,
    Drift,
    FailingFunction,
    ForgottenSchedule,
}

const ALL: [Breakage; 13] = [
    Breakage::FullStream,
    Breakage::Drift,
    Breakage::ForgottenSchedule,
    Breakage::RefusedVersion,
    Breakage::ExpiredCertificate,
    Breakage::FrozenRedis,
    Breakage::FrozenNats,
    Breakage::PoisonGroup,
    Breakage::StuckFunction,
    Breakage::Lag,
    Breakage::FailingFunction,
    Breakage::PausedConsumer,
    Breakage::StoreBack,
];

/// Place of the page where a breakage is said.
enum Place {
    /// Head line, of a server that does not answer.
    Server(&'static str),
    /// Head line, of a store that went back.
    Regression,
    /// Panel of the function, in a sentence with these words.
    Function(&'static str),
    /// Findings of the doctor with these words.
    Doctor(&'static str),
    /// Dead letters.
    Letters,
}

/// Breakage as it was seen.
struct Seen {
    breakage: Breakage,
    said_after: Duration,
    sentence: String,
    fires: bool,
    over_after: Duration,
}

impl Breakage {
    fn name(self) -> &'static str {
        match self {
            Self::FrozenRedis => "Redis is frozen",
            Self::FrozenNats => "NATS is frozen",
            Self::StoreBack => "Redis is emptied while all run",
            Self::PoisonGroup => "five events that nobody can handle, for one cause",
            Self::StuckFunction => "the function's only process is frozen, and events wait",
            Self::Lag => "events come faster than the function is",
            Self::FullStream => "a stream is nearly full of events that wait",
            Self::PausedConsumer => "the consumer is paused",
            Self::ExpiredCertificate => "a certificate has expired",
            Self::RefusedVersion => "a program whose contract nobody has let in",
            Self::Drift => "somebody changes a stream past `oncue apply`",
            Self::FailingFunction => "the function fails, and is tried again",
            Self::ForgottenSchedule => "a schedule fires that oncue.toml has no more",
        }
    }

    fn place(self) -> Place {
        match self {
            Self::FrozenRedis => Place::Server("redis"),
            Self::FrozenNats => Place::Server("nats"),
            Self::StoreBack => Place::Regression,
            Self::PoisonGroup => Place::Letters,
            Self::StuckFunction => Place::Function("no worker answers"),
            Self::Lag => Place::Function("of work"),
            Self::FullStream => Place::Doctor("when full it refuses events"),
            Self::PausedConsumer => Place::Function("is paused"),
            Self::ExpiredCertificate => Place::Doctor("cert.pem"),
            Self::RefusedVersion => Place::Function("ends on its own again and again"),
            Self::Drift => Place::Doctor("stream web: "),
            Self::FailingFunction => Place::Function("attempts failed"),
            Self::ForgottenSchedule => Place::Doctor("oncue.toml does not have it"),
        }
    }

    /// Alert that is to fire; none for what harms nobody while it lasts.
    fn alert(self) -> Option<&'static str> {
        Some(match self {
            Self::FrozenRedis | Self::FrozenNats => "OncueServerAway",
            Self::StoreBack => "OncueStoreWentBack",
            Self::PoisonGroup => "OncueDeadLettersGrow",
            Self::StuckFunction => "OncueFunctionStuck",
            Self::Lag => "OncueFunctionBehind",
            Self::FullStream => "OncueStreamFull",
            Self::PausedConsumer => "OncueFunctionPaused",
            Self::ExpiredCertificate => "OncueCertificateExpires",
            Self::RefusedVersion => "OncueFunctionFailing",
            Self::FailingFunction => "OncueFunctionErrors",
            Self::Drift | Self::ForgottenSchedule => return None,
        })
    }

    /// Command that mends it, as a person would type it.
    fn mended_by(self) -> &'static str {
        match self {
            Self::FrozenRedis => "start Redis again",
            Self::FrozenNats => "start nats-server again",
            Self::StoreBack => "stop the functions, `oncue recover redis`, start them",
            Self::PoisonGroup => "`oncue dlq drop --function misbehave --why ...`",
            Self::StuckFunction => "`kill -9` of it; `oncue up` starts another",
            Self::Lag => "time, or a higher `concurrency`",
            Self::FullStream => "a higher `max_bytes`, `oncue apply`",
            Self::PausedConsumer => "`oncue resume misbehave`",
            Self::ExpiredCertificate => "a new file in its place",
            Self::RefusedVersion => "`oncue apply --break-contract`",
            Self::Drift => "`oncue apply`",
            Self::FailingFunction => "whatever it needs is there again",
            Self::ForgottenSchedule => "`oncue apply --prune`",
        }
    }
}

/// A running app with its console.
struct Bench {
    cluster: Cluster,
    up: Process,
    console: SocketAddr,
    /// Metrics while all was well.
    healthy: String,
}

const SCHEDULE: &str =
    "[[schedule]]\nname = \"nightly\"\ncron = \"0 0 3 * * *\"\nfunction = \"misbehave\"\n";

/// Configuration of the app.
fn config(max_bytes: &str, more: &str) -> String {
    format!(
        "proto = \"proto\"\n[app]\nname = \"app\"\n[gateway]\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}\n\
         [streams.web]\nmax_bytes = \"{max_bytes}\"\n[functions.{FUNCTION}]\nconcurrency = 4\nattempts = 20\nack_wait = \"60s\"\n\
         timeout = \"20s\"\n{more}"
    )
}

/// Writes a certificate that is good for so many days from now on; none for one that has expired.
fn certify(folder: &Path, days: Option<i64>) {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let year = if days.is_some() { 2099 } else { 2020 };
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    std::fs::write(folder.join("cert.pem"), cert.pem()).expect("written");
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("written");
}

impl Bench {
    async fn start() -> Self {
        let mut cluster = Cluster::new(&config("2MiB", "")).await;
        certify(&cluster.dir, Some(365));
        let port = free_port();
        cluster.set("ONCUE_CONSOLE_LISTEN", &format!("127.0.0.1:{port}"));
        let up = cluster.up().await;
        let mut bench = Self {
            cluster,
            up,
            console: ([127, 0, 0, 1], port).into(),
            healthy: String::new(),
        };
        bench.events(10, "none");
        bench.is_well().await;
        bench
    }

    /// Waits until the function has nothing to do, and keeps the metrics of that.
    async fn is_well(&mut self) {
        let deadline = Instant::now() + LONGEST;
        loop {
            let metrics = self.metrics().await;
            let has = |line: &str| metrics.contains(line);
            let of = format!("{{oncue_app=\"app\",oncue_function=\"{FUNCTION}\"}}");
            if has(&format!("oncue_function_lag{of} 0"))
                && has(&format!("oncue_function_in_flight{of} 0"))
                && has(&format!("oncue_function_replicas_running{of} 1"))
            {
                self.healthy = metrics;
                return;
            }
            assert!(Instant::now() < deadline, "it never was well:\n{metrics}");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn metrics(&self) -> String {
        request(self.console, "GET", "/metrics", &[], "")
            .await
            .text()
    }

    /// Publishes events that say what the function is to do.
    fn events(&self, count: usize, what: &str) {
        let events = (0..count).map(|n| {
            let view = json!({ "page": format!("/{n}"), "visitor": "v", "referrer": what });
            ("web.page.viewed", view.to_string())
        });
        self.cluster.plain_publish(events);
    }

    fn oncue(&self, args: &[&str]) {
        let output = self.cluster.output("oncue", args);
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    async fn bus(&self) -> Bus {
        self.cluster.bus().await
    }

    fn write_config(&self, max_bytes: &str, more: &str) {
        let file = self.cluster.dir.join("oncue.toml");
        std::fs::write(file, config(max_bytes, more)).expect("written");
    }

    /// Process of `oncue up` with this name.
    fn process(&self, name: &str) -> Option<u32> {
        children(self.up.pid()).into_iter().find(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm.trim() == &name[..name.len().min(15)])
        })
    }

    fn signal(&self, name: &str, signal: &str) {
        let pid = self.process(name).expect("a process");
        assert!(send(pid, signal), "{name} is gone");
    }

    /// Sentence of a place, while there is one.
    async fn look(&self, place: &Place) -> Option<String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match place {
            Place::Server(server) => {
                let tick = watch_until(self.console, "tick", |_| true).await;
                text(&tick["servers"][server]["why"])
            }
            Place::Regression => {
                let tick = watch_until(self.console, "tick", |_| true).await;
                text(&tick["regression"])
            }
            Place::Function(words) => {
                let path = format!("/api/functions/{FUNCTION}");
                let said = request(self.console, "GET", &path, &[], "").await;
                let why = text(&serde_json::from_slice::<Value>(&said.body).ok()?["why"])?;
                why.contains(words).then_some(why)
            }
            Place::Doctor(words) => {
                let said = request(self.console, "GET", "/api/doctor", &[], "").await;
                let said: Value = serde_json::from_slice(&said.body).ok()?;
                let findings = said["findings"].as_array()?;
                let mut texts = findings.iter().filter_map(|finding| text(&finding["text"]));
                texts.find(|text| text.contains(words))
            }
            Place::Letters => {
                let said = request(self.console, "GET", "/api/letters", &[], "").await;
                let said: Value = serde_json::from_slice(&said.body).ok()?;
                let group = said["groups"].as_array()?.first()?;
                Some(format!(
                    "{} of {}: {}",
                    group["count"],
                    FUNCTION,
                    text(&group["message"])?
                ))
            }
        }
    }

    /// Waits until a place says something, or nothing any more.
    async fn until(&self, breakage: Breakage, is_broken: bool) -> (Duration, String) {
        let began = Instant::now();
        loop {
            let said = self.look(&breakage.place()).await;
            if said.is_some() == is_broken {
                return (began.elapsed(), said.unwrap_or_default());
            }
            assert!(
                began.elapsed() < LONGEST,
                "{breakage:?}: the console {} within {LONGEST:?}\n{}",
                if is_broken {
                    "said nothing"
                } else {
                    "still says it"
                },
                self.up.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn break_it(&mut self, breakage: Breakage) {
        match breakage {
            Breakage::FrozenRedis => self.cluster.redis.signal("STOP"),
            Breakage::FrozenNats => self.cluster.nats.signal("STOP"),
            Breakage::StoreBack => {
                self.cluster.redis_ok(&["FLUSHALL"]);
                self.events(1, "none");
            }
            Breakage::PoisonGroup => self.events(5, "reject"),
            Breakage::StuckFunction => {
                self.signal(FUNCTION, "STOP");
                self.events(20, "none");
            }
            Breakage::Lag => self.events(400, "slow:300"),
            Breakage::FailingFunction => self.events(4, "fail-until:3"),
            Breakage::PausedConsumer => self.oncue(&["pause", FUNCTION]),
            Breakage::FullStream => {
                // What a function is done with is purged before its time where room is short; this it is not done with.
                self.oncue(&["pause", FUNCTION]);
                let padding = "x".repeat(40_000);
                self.events(60, &format!("none:{padding}"));
            }
            Breakage::ExpiredCertificate => {
                certify(&self.cluster.dir, None);
                // It asks the doctor when it starts, and every five minutes.
                self.signal("oncue-console", "KILL");
                tokio::time::sleep(LOOK).await;
                wait_for_port(self.console.port()).await;
            }
            Breakage::RefusedVersion => {
                let other = self.other_contract();
                let bus = self.bus().await;
                contract::store(&bus, FUNCTION, other)
                    .await
                    .expect("stored");
                self.signal(FUNCTION, "KILL");
            }
            Breakage::Drift => {
                let bus = self.bus().await;
                let info = bus.api("STREAM.INFO.web", &Value::Null).await;
                let mut config = info.expect("the stream")["config"].take();
                config["duplicate_window"] = json!(60_000_000_000_u64);
                bus.api("STREAM.UPDATE.web", &config)
                    .await
                    .expect("changed");
            }
            Breakage::ForgottenSchedule => {
                self.write_config("64MiB", SCHEDULE);
                self.oncue(&["apply"]);
                self.write_config("64MiB", "");
            }
        }
    }

    async fn mend(&mut self, breakage: Breakage) {
        match breakage {
            Breakage::FrozenRedis => self.cluster.redis.signal("CONT"),
            Breakage::FrozenNats => self.cluster.nats.signal("CONT"),
            Breakage::StoreBack => {
                self.up.stop().await;
                self.oncue(&["recover", "redis", "--yes"]);
                self.up = self.cluster.up().await;
            }
            Breakage::PoisonGroup => {
                self.oncue(&[
                    "dlq",
                    "drop",
                    "--function",
                    FUNCTION,
                    "--why",
                    "sent by mistake",
                    "--yes",
                ]);
            }
            Breakage::StuckFunction => self.signal(FUNCTION, "KILL"),
            // Tried again until it goes well; a minute later nothing is said any more.
            Breakage::Lag | Breakage::FailingFunction => {}
            Breakage::PausedConsumer => self.oncue(&["resume", FUNCTION]),
            Breakage::FullStream => {
                self.write_config("64MiB", "");
                self.oncue(&["apply"]);
                self.oncue(&["resume", FUNCTION]);
            }
            Breakage::ExpiredCertificate => certify(&self.cluster.dir, Some(365)),
            Breakage::RefusedVersion => self.oncue(&["apply", "--break-contract"]),
            Breakage::Drift => self.oncue(&["apply"]),
            Breakage::ForgottenSchedule => self.oncue(&["apply", "--prune"]),
        }
    }

    /// Contract in which a field of the function's event has another type.
    fn other_contract(&self) -> Vec<u8> {
        let folder = self.cluster.dir.join("proto");
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = "syntax = \"proto3\";\npackage web;\nimport \"oncue/v1/event.proto\";\nmessage PageViewed {\n\
                    option (oncue.v1.event) = { type: \"web.page.viewed\", key: \"page\" };\nstring page = 1; int64 visitor = 2; }\n";
        std::fs::write(folder.join("web.proto"), text).expect("written");
        let made = self.cluster.output("oncue-host", &["--contract"]);
        assert!(made.status.success(), "{made:?}");
        std::fs::remove_dir_all(&folder).expect("removed");
        made.stdout
    }

    /// Breaks it, sees it said, and mends it.
    async fn see(&mut self, breakage: Breakage) -> Seen {
        println!("{}", breakage.name());
        self.break_it(breakage).await;
        let (said_after, sentence) = self.until(breakage, true).await;
        let folder = format!("{}/", self.cluster.dir.display());
        let sentence = sentence.replace(&folder, "");
        println!("  after {:.1} s: {sentence}", said_after.as_secs_f64());
        // Where numbers take a moment longer than the sentence, the alert waits for them as Prometheus does.
        let mut fires = false;
        let began = Instant::now();
        while let Some(alert) = breakage.alert().filter(|_| !fires) {
            fires = fires_on(
                alert,
                &self.healthy,
                &self.metrics().await,
                &self.cluster.dir,
            );
            assert!(
                began.elapsed() < LONGEST,
                "{breakage:?}: {alert} does not fire on\n{}",
                self.metrics().await
            );
            tokio::time::sleep(LOOK).await;
        }
        if let Some(alert) = breakage.alert() {
            println!("  {alert} fires");
        }
        self.mend(breakage).await;
        let (over_after, _) = self.until(breakage, false).await;
        println!("  over after {:.1} s", over_after.as_secs_f64());
        self.is_well().await;
        Seen {
            breakage,
            said_after,
            sentence,
            fires,
            over_after,
        }
    }
}

/// Whether an alert fires within the hour if things stay as these metrics say: counts go on as they have grown, and ages grow.
fn fires_on(alert: &str, before: &str, now: &str, folder: &Path) -> bool {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring/rules.yml");
    let rules = rules.canonicalize().expect("the rules");
    let mut text = format!(
        "rule_files: [\"{}\"]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n",
        rules.display()
    );
    for line in now.lines().filter(|line| line.starts_with("oncue_")) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let known = before
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value: f64 = value.parse().unwrap_or_default();
        let known: f64 = known
            .and_then(|known| known.parse().ok())
            .unwrap_or_default();
        let name = series.split('{').next().unwrap_or_default();
        let growth =
            if name.ends_with("_total") || name.ends_with("_count") || name.ends_with("_bucket") {
                value - known
            } else if name.ends_with("pending_age_seconds") && value > 0.0 {
                60.0
            } else {
                0.0
            };
        let _ = writeln!(
            text,
            "  - series: '{series}'\n    values: '{known}x10 {value}{}{}x{LASTS}'",
            if growth < 0.0 { "-" } else { "+" },
            growth.abs()
        );
    }
    let _ = write!(
        text,
        "  promql_expr_test:\n  - expr: 'count(count_over_time(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}[1h])) > bool 0'\n    \
         eval_time: {}m\n    exp_samples: [{{ labels: '{{}}', value: 1 }}]\n",
        LASTS + 10
    );
    let file = folder.join("alert.test.yml");
    std::fs::write(&file, text).expect("written");
    let tried = Command::new("promtool")
        .args(["test", "rules"])
        .arg(&file)
        .output();
    tried
        .expect("promtool, of the Debian package prometheus")
        .status
        .success()
}

/// The table, as it is published.
fn table(seen: &[Seen]) -> String {
    let mut text = "# Broken on purpose\n\n`make breakages` runs an app, breaks it in these ways one after the other, and looks at what its operator \
        sees. The seconds are those of one run on two shared cores, from the deed to the sentence on the page, and from the command to the \
        moment at which the page says nothing any more; what the doctor finds may be half a minute old on a page that is open. The alert is tried by promtool on what `/metrics` served then, had it lasted for an \
        hour. Nothing is lost in any of them: [PROMISE.md](PROMISE.md), [CHAOS.md](CHAOS.md).\n\n\
        | broken | said after | in these words | alert | mended by | over after |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for one in seen {
        let Seen {
            breakage,
            said_after,
            sentence,
            fires,
            over_after,
        } = one;
        let alert = match breakage.alert() {
            Some(alert) if *fires => format!("[{alert}](runbooks/{alert}.md)"),
            _ => "none: it harms nothing by itself".to_owned(),
        };
        let sentence = sentence.replace('|', "/").replace(['\n', '\r'], " ");
        let _ = writeln!(
            text,
            "| {} | {:.1} s | {sentence} | {alert} | {} | {:.1} s |",
            breakage.name(),
            said_after.as_secs_f64(),
            breakage.mended_by(),
            over_after.as_secs_f64()
        );
    }
    text
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(file) = std::env::args().nth(1) else {
        eprintln!("usage: breakages FILE");
        return ExitCode::from(2);
    };
    let mut bench = Bench::start().await;
    let mut seen = Vec::new();
    for breakage in ALL {
        seen.push(bench.see(breakage).await);
    }
    bench.up.stop().await;
    std::fs::write(&file, table(&seen)).expect("written");
    println!("{file} is written");
    ExitCode::SUCCESS
}
