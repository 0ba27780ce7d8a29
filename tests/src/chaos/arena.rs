//! Where a row takes place: servers, a proxy before each, workers behind the proxies, and the client.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use oncue_core::app::AppName;
use oncue_core::bus::Bus;
use oncue_core::store::Store;
use oncue_proto::event::now_ms;
use serde_json::Value;

use super::checker;
use super::load::{Load, Sent, Shape, USUAL};
use super::pool::Pool;
use super::report::{Plan, Report};
use crate::cluster::{Cluster, Process, Servers};
use crate::proxy::{Protocol, Proxy};

/// Silence after which the server gives an event to another worker.
pub const ACK_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for a moment in which a fault does harm; a generous limit, not an expectation.
const WAIT_LIMIT: Duration = Duration::from_mins(1);
/// Longest standstill after everything was healed: a dozen failed deliveries grow a minute apart.
const DRAIN: Duration = Duration::from_mins(4);

pub struct Arena {
    pub cluster: Cluster,
    pub nats: Proxy,
    pub redis: Proxy,
    pub pool: Pool,
    /// `oncue tend`, as beside the processes of any app.
    pub tend: Process,
    pub bus: Bus,
    pub store: Store,
    pub rng: fastrand::Rng,
    pub report: Report,
    pub created: u64,
    /// Whether an event may become a dead letter without being told to: a death of its worker is an attempt.
    pub mortal: bool,
    /// Under which reason an event that was applied may be set aside when it comes again.
    pub again_as: Option<&'static str>,
    /// Under which reason an event may become a dead letter without being told to.
    pub dies_as: Option<&'static str>,
    /// A second app on the same servers, which hears the same events.
    pub neighbour: Option<AppName>,
    /// Messages that clients have sent beyond their events.
    pub extra: u64,
    rate: u64,
    load: Option<Load>,
    pub sent: Vec<Sent>,
    name: String,
    seed: u64,
    opened: Instant,
}

/// Between the workers and one of their servers, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Nats,
    Redis,
    Both,
}

impl Link {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "NATS",
            Self::Redis => "Redis",
            Self::Both => "both",
        }
    }
}

/// What is special about a row's cluster.
#[derive(Debug, Clone)]
pub struct Setup {
    pub servers: Servers,
    /// More of `oncue.toml`.
    pub config: String,
    /// Attempts after which a function gives an event up.
    pub attempts: u32,
    pub concurrency: usize,
    pub ack_wait: Duration,
    /// H of the stream.
    pub horizon: &'static str,
    /// How long the server itself knows an id.
    pub window: &'static str,
    /// Copies of each stream.
    pub replicas: u32,
    pub misbehave: usize,
    pub record: usize,
    /// More of the section of `record`: how it is run in another language.
    pub record_by: String,
}

impl Default for Setup {
    fn default() -> Self {
        let (servers, config) = (Servers::default(), String::new());
        let (attempts, concurrency, ack_wait) = (20, 200, ACK_WAIT);
        Self {
            servers,
            config,
            attempts,
            concurrency,
            ack_wait,
            horizon: "72h",
            window: "100ms",
            replicas: 1,
            misbehave: 2,
            record: 2,
            record_by: String::new(),
        }
    }
}

impl Setup {
    /// By default the broker's own window is at its minimum, so that it hides no mistake of ours.
    fn config(&self) -> String {
        let limits = format!(
            "ack_wait = \"{}s\"\nattempts = {}\n",
            self.ack_wait.as_secs(),
            self.attempts
        );
        let concurrency = format!("concurrency = {}\n", self.concurrency);
        // Small streams: the servers of a cluster set aside what a stream may hold, on one disk here.
        let copies = format!("replicas = {}\nmax_bytes = \"64MB\"\n", self.replicas);
        let copies = if self.replicas > 1 {
            copies
        } else {
            String::new()
        };
        let streams = if self.replicas > 1 {
            ["dlq", "files", "objects", "timer"].as_slice()
        } else {
            &[]
        };
        let streams: String = streams
            .iter()
            .map(|stream| format!("[streams.{stream}]\n{copies}"))
            .collect();
        format!(
            "{streams}[streams.web]\n{copies}duplicate_window = \"{}\"\nhorizon = \"{}\"\n\
             [functions.misbehave]\n{limits}{concurrency}[functions.record]\n{limits}{concurrency}{}{}",
            self.window, self.horizon, self.record_by, self.config
        )
    }
}

impl Arena {
    pub async fn open(name: &str, plan: &Plan, setup: Setup) -> Self {
        let mut servers = setup.servers.clone();
        servers.programs.clone_from(&plan.programs);
        let mut cluster = Cluster::with(&setup.config(), servers).await;
        let nats = Proxy::start(Protocol::Nats, cluster.nats_port, plan.seed).await;
        let redis = Proxy::start(Protocol::Redis, cluster.redis_port, plan.seed).await;
        nats.judge(setup.ack_wait);
        if cluster.servers.nodes.is_empty() {
            cluster.set("ONCUE_NATS_URL", &format!("nats://127.0.0.1:{}", nats.port));
        }
        cluster.set(
            "ONCUE_REDIS_URL",
            &format!("redis://127.0.0.1:{}", redis.port),
        );
        for (variable, value) in &plan.env {
            cluster.set(variable, value);
        }
        let binaries = [
            vec!["misbehave"; setup.misbehave],
            vec!["record"; setup.record],
        ]
        .concat();
        let pool = Pool::start(&cluster, &nats, &binaries).await;
        let tend = cluster.spawn("oncue", &["tend"]);
        let (bus, store) = (cluster.bus().await, cluster.store().await);
        let created = bus
            .stream_created("web")
            .await
            .expect("the workers have made the stream");
        Self {
            cluster,
            nats,
            redis,
            pool,
            tend,
            bus,
            store,
            rng: fastrand::Rng::with_seed(plan.seed),
            report: Report {
                live: plan.live.clone(),
                ..Report::default()
            },
            rate: plan.rate,
            created,
            mortal: false,
            again_as: None,
            dies_as: None,
            neighbour: None,
            extra: 0,
            load: None,
            sent: Vec::new(),
            name: name.to_lowercase(),
            seed: plan.seed,
            opened: Instant::now(),
        }
    }

    pub fn proxies(&self, link: Link) -> impl Iterator<Item = &Proxy> {
        let nats = Some(&self.nats).filter(|_| link != Link::Redis);
        nats.into_iter()
            .chain(Some(&self.redis).filter(|_| link != Link::Nats))
    }

    /// Starts the client; a second load is a second client.
    pub fn load(&mut self, mut shape: Shape) {
        if shape.rate == USUAL {
            shape.rate = self.rate.max(USUAL);
        }
        let live = self.report.live.clone();
        let name = format!("{}{}", self.name, self.sent.len());
        self.load = Some(Load::start(
            self.bus.clone(),
            self.created,
            &name,
            self.seed,
            shape,
            live,
        ));
    }

    pub fn acked(&self) -> u64 {
        self.load.as_ref().map_or(0, Load::acked)
    }

    /// Apps whose rows are judged.
    pub fn apps(&self) -> Vec<AppName> {
        let first = std::iter::once(AppName::default());
        first.chain(self.neighbour.clone()).collect()
    }

    /// Runs our CLI to its end. It asks Redis itself: what a replica is sent (for `oncue backup`) has no frames that the proxy
    /// could read.
    pub async fn oncue(&self, args: &[&str]) -> (Option<i32>, String) {
        let redis = format!("redis://127.0.0.1:{}", self.cluster.redis_port);
        let env = [("ONCUE_REDIS_URL", redis)];
        let mut process = self.cluster.spawn_with("oncue", args, &env);
        (process.exit().await, process.log())
    }

    /// A worker started now, with this environment on top, must not begin, and say why.
    pub async fn refuses_to_start(&mut self, env: &[(&str, String)], word: &str) {
        let mut worker = self.cluster.spawn_with("misbehave", &[], env);
        let code = worker.exit().await;
        let log = worker.log();
        let why = format!("a worker that must not start ended with {code:?}: {log}");
        self.report.must(code == Some(1) && log.contains(word), why);
    }

    /// Runs our CLI, which must end with this code and say these words: of a fault it is half that somebody is told of it.
    pub async fn says(&mut self, args: &[&str], code: i32, words: &[&str]) -> String {
        let (ended, said) = self.oncue(args).await;
        let all = words.iter().all(|word| said.contains(word));
        let why = format!("`oncue {}` ended with {ended:?}: {said}", args.join(" "));
        self.report.must(ended == Some(code) && all, why);
        said
    }

    pub fn refused(&self) -> u64 {
        self.load.as_ref().map_or(0, Load::refused)
    }

    /// Waits until the client has had this many acks, so that a fault finds something to harm.
    pub async fn under_way(&self, acks: u64) {
        let (start, load) = (Instant::now(), self.load.as_ref());
        while load.is_some_and(|load| load.acked() < acks) && start.elapsed() < WAIT_LIMIT {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for something to happen; that it does not within a minute is a failure.
    pub async fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let start = Instant::now();
        while !holds(self) {
            if start.elapsed() > WAIT_LIMIT {
                self.report
                    .failures
                    .push(format!("waited {WAIT_LIMIT:?} in vain: {what}"));
                return false;
            }
            self.wait(Duration::from_millis(20)).await;
        }
        true
    }

    /// Waits until acks come again; that they do not is a failure.
    pub async fn flowing(&mut self) {
        let before = self.acked();
        self.under_way(before + 20).await;
        let went_on = self.acked() >= before + 20;
        self.report.must(
            went_on,
            "the client got no acks for a minute: a fault would have harmed nothing",
        );
    }

    /// Ends the load and keeps what it did.
    pub async fn end_load(&mut self) {
        if let Some(load) = self.load.take() {
            let extra = load.extra();
            self.sent.extend(load.end().await);
            self.extra += extra.load(Ordering::Relaxed);
        }
    }

    /// Lets time pass while dead workers are replaced.
    pub async fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.pool.tend(&self.cluster);
            tokio::time::sleep(Duration::from_millis(50).min(end - Instant::now())).await;
        }
    }

    /// One event under an id of its own, in so many copies that the server cannot recognise.
    pub async fn tell(&mut self, id: &str, key: &str, word: &'static str, copies: usize) {
        let mut sent = Sent {
            number: self.sent.len() as u64,
            key: key.to_owned(),
            word,
            id: Some(id.to_owned()),
            acked: true,
            newer: false,
            sequence: 0,
        };
        let event = sent.again(Some(now_ms())).expect("it has an id");
        for _ in 0..copies {
            let ack = self.bus.publish(&event).await;
            sent.sequence = ack.expect("the stream takes it").sequence;
        }
        self.sent.push(sent);
    }

    /// Losses that workers of both functions have recorded in Redis, a line each; errors of a Redis that is just starting are
    /// none.
    pub fn alarms(&self) -> Vec<String> {
        let keys = ["misbehave", "record"].map(|function| format!("app:regressed:{function}"));
        let said = keys.map(|key| self.cluster.redis_cli(&["HVALS", &key]));
        let lines = said.iter().flat_map(|said| said.lines());
        lines
            .filter(|line| line.starts_with('{'))
            .map(str::to_owned)
            .collect()
    }

    pub fn sent(&self) -> &[Sent] {
        &self.sent
    }

    /// Waits until both functions have nothing pending and nothing in hand.
    pub async fn drain(&mut self) {
        let (mut heard, mut calm, mut least) = (Instant::now(), 0, u64::MAX);
        while calm < 3 {
            self.pool.tend(&self.cluster);
            let rest = self.pending().await;
            calm = if rest == Some(0) { calm + 1 } else { 0 };
            if let Some(rest) = rest.filter(|rest| *rest < least) {
                (least, heard) = (rest, Instant::now());
            }
            if heard.elapsed() > DRAIN {
                let why = format!(
                    "not drained, and nothing less for {DRAIN:?}: {rest:?} events are left"
                );
                return self.report.failures.push(why);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Events of both functions that are not settled yet; nothing while the server does not say.
    pub async fn pending(&self) -> Option<u64> {
        let mut rest = 0;
        for app in self.apps() {
            for function in ["misbehave", "record"] {
                rest += self.pending_of(&app, function).await?;
            }
        }
        Some(rest)
    }

    /// Events of one function that are not settled yet.
    pub async fn pending_of(&self, app: &AppName, function: &str) -> Option<u64> {
        let question = format!("CONSUMER.INFO.web.{app}_{function}");
        let info = self.bus.api(&question, &Value::Null).await.ok()?;
        Some(info["num_pending"].as_u64()? + info["num_ack_pending"].as_u64()?)
    }

    /// Heals, ends the load, drains.
    pub async fn settle(&mut self) {
        self.pool.thaw();
        self.nats.heal();
        self.redis.heal();
        self.end_load().await;
        self.drain().await;
    }

    /// Settles and gives every event its verdict.
    pub async fn close(mut self) -> Report {
        self.settle().await;
        checker::check(&mut self).await;
        let gone = std::mem::take(&mut self.pool.gone);
        if let Some(last) = gone.last() {
            self.report.note(format!(
                "{} workers ended by themselves, the last: {last}",
                gone.len()
            ));
        }
        self.report.seconds = self.opened.elapsed().as_secs();
        if !self.report.passed() {
            self.keep_logs();
        }
        self.report
    }

    fn keep_logs(&mut self) {
        let kept = std::env::temp_dir().join(format!("oncue-chaos-{}-{}", self.name, self.seed));
        let _ = std::fs::create_dir_all(&kept);
        // Of all lives of all workers: the last ones say little of a fault before them.
        for file in std::fs::read_dir(&self.cluster.dir)
            .into_iter()
            .flatten()
            .flatten()
        {
            if file.path().extension().is_some_and(|of| of == "log") {
                let _ = std::fs::copy(file.path(), kept.join(file.file_name()));
            }
        }
        self.report
            .note(format!("logs of all processes: {}", kept.display()));
    }
}
