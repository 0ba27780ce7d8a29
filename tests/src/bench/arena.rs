//! Servers of our own for one case, and one run on them: workers up, backlog in, clock on until the last event is acked.

use std::time::{Duration, Instant};

use oncue_core::app::AppName;
use oncue_core::bus::Bus;
use oncue_core::bus::layout::{self, Mode};
use oncue_core::config::StreamConfig;
use oncue_proto::event::{format_time, now_ms, parse_time};
use serde_json::{Value, json};

use super::check;
use super::fill::{Clicks, Headers, fill};
use super::peers::Peer;
use super::usage::{Cpu, cpu, memory};
use crate::cluster::{Cluster, Process, Servers, until};

pub const INPUT: &str = "web.page.viewed";
pub const OUTPUT: &str = "web.page.milestone";
/// Longest run; one that takes longer has hung.
const DRAIN_LIMIT: Duration = Duration::from_mins(5);
const STREAMS: [&str; 3] = ["web", "dlq", "timer"];

/// Whose loop runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Oncue,
    /// The hand-written loop with publish acks as futures.
    Limit,
    /// The same with publish acks on one inbox.
    Inbox,
    /// As the limit, with follow-ups that are CloudEvents.
    Events,
    /// A function in another language, behind `oncue-host` with one child.
    Python,
    TypeScript,
    /// The same work in that language without Oncue.
    Peer(Peer),
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Oncue => "oncue",
            Self::Limit => "limit",
            Self::Inbox => "inbox",
            Self::Events => "events",
            Self::Python => "python",
            Self::TypeScript => "typescript",
            Self::Peer(peer) => peer.name(),
        }
    }

    /// Whether it is a function of ours.
    pub fn is_oncue(self) -> bool {
        matches!(self, Self::Oncue | Self::Python | Self::TypeScript)
    }
}

/// How the servers keep what they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As `performance` comparisons are usually made: NATS in files, Redis in memory.
    Fast,
    /// Both write to disk before they answer, as in `deploy/durable`.
    Durable,
}

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Work {
    pub clicks: Clicks,
    /// At which view of its page an event has a follow-up.
    pub every: u64,
    pub workers: usize,
    /// Environment of Oncue's workers, above what they have anyway.
    pub env: Vec<(&'static str, String)>,
    /// Whether a function that sleeps a second on each of the same events runs beside.
    pub slow: bool,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            clicks: Clicks {
                events: 50_000,
                keys: 100,
                payload: 200,
                headers: Headers::Whole,
                first: 0,
            },
            every: 1,
            workers: 1,
            env: Vec::new(),
            slow: false,
        }
    }
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// From the first event on offer to the last ack.
    pub seconds: f64,
    pub events: u64,
    /// Microseconds of CPU for each event.
    pub cpu: Cpu,
    /// Largest resident memory of a worker, KiB.
    pub peak: u64,
}

impl Run {
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }
}

pub struct Arena {
    pub cluster: Cluster,
    pub bus: Bus,
}

impl Arena {
    pub async fn open(profile: Profile) -> Self {
        Self::with(profile, "[streams.web]\nmax_bytes = \"4GiB\"\n").await
    }

    pub async fn with(profile: Profile, config: &str) -> Self {
        let arguments = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
        // As in deploy/*/redis.conf, for both sides.
        let compact = ["--hash-max-listpack-entries", "256"];
        let servers = match profile {
            Profile::Fast => Servers {
                redis_args: arguments(&[&["--appendonly", "no"], &compact[..]].concat()),
                ..Servers::default()
            },
            Profile::Durable => Servers {
                redis_args: arguments(&compact),
                jetstream: "sync_interval: always\n".into(),
                ..Servers::default()
            },
        };
        let mut cluster = Cluster::with(config, servers).await;
        if profile == Profile::Durable {
            cluster.set("ONCUE_BATCH_PUBLISH", "true");
        }
        let bus = cluster.bus().await;
        Self { cluster, bus }
    }

    /// One run on empty servers, checked.
    pub async fn run(&mut self, side: Side, work: &Work) -> Run {
        self.clean().await;
        let mut workers = self.start(side, work).await;
        let slow = if work.slow {
            Some(self.cluster.start("bench-slow").await)
        } else {
            None
        };
        let consumer = consumer(side);
        self.pause(consumer, now_ms() + 3_600_000).await;
        let (port, clicks) = (self.cluster.nats_port, work.clicks);
        tokio::task::spawn_blocking(move || fill(port, clicks))
            .await
            .expect("the backlog");
        let begin = now_ms() + 300;
        self.pause(consumer, begin).await;
        let before = self.cpu(&workers);
        let end = self.drained(consumer, &mut workers).await;
        let cpu = (self.cpu(&workers) - before).per(work.clicks.events);
        let peak = workers
            .iter()
            .map(|worker| memory(worker.pid(), "VmHWM"))
            .max()
            .unwrap_or(0);
        drop(slow);
        for worker in &mut workers {
            // Only Oncue knows how to end: it sends what spans it still has.
            let code = worker.stop().await;
            assert!(
                !side.is_oncue() || code == Some(0),
                "ended with {code:?}: {}",
                worker.log()
            );
        }
        check::run(self, side, work).await;
        Run {
            seconds: end - begin as f64 / 1000.0,
            events: work.clicks.events,
            cpu,
            peak,
        }
    }

    /// Nothing left of the run before: streams with their memory of ids, consumers, rows.
    pub async fn clean(&self) {
        for stream in STREAMS {
            match self
                .bus
                .api(&format!("STREAM.DELETE.{stream}"), &Value::Null)
                .await
            {
                Err(e) if !e.is_not_found() => panic!("{stream} cannot be deleted: {e}"),
                _ => {}
            }
        }
        assert_eq!(self.cluster.redis_cli(&["FLUSHALL"]), "OK");
        self.cluster.emptied();
    }

    pub async fn start(&mut self, side: Side, work: &Work) -> Vec<Process> {
        let processes: Vec<Process> = match side {
            Side::Oncue => {
                let usual = [
                    ("OTEL_SDK_DISABLED", "true".to_owned()),
                    ("BENCH_EVERY", work.every.to_string()),
                ];
                for (name, value) in usual
                    .iter()
                    .chain([("BENCH_BURN", String::from("0"))].iter())
                    .chain(&work.env)
                {
                    self.cluster.set(name, value);
                }
                (0..work.workers)
                    .map(|_| self.cluster.spawn("bench-clicks", &[]))
                    .collect()
            }
            Side::Python | Side::TypeScript => {
                self.cluster.set("OTEL_SDK_DISABLED", "true");
                let function = format!("bench-clicks-{}", side.name());
                vec![self.cluster.spawn("oncue-host", &[&function])]
            }
            Side::Peer(peer) => {
                self.make_way(work).await;
                vec![peer.start(&self.cluster)]
            }
            Side::Limit | Side::Inbox | Side::Events => {
                self.make_way(work).await;
                let form = match side {
                    Side::Inbox => "inbox",
                    Side::Events => "events",
                    _ => "batched",
                };
                (0..work.workers)
                    .map(|_| self.cluster.spawn("bench-limit", &[form]))
                    .collect()
            }
        };
        for process in &processes {
            process.wait_for_line("\"message\":\"ready\"").await;
        }
        processes
    }

    /// Streams, consumer and settings of a loop that is not ours.
    async fn make_way(&mut self, work: &Work) {
        self.make_streams().await;
        // Exactly where this backlog is: one filter costs the server less than two.
        self.make_consumer("limit", &[INPUT]).await;
        let env = [
            ("LIMIT_STREAM", "web"),
            ("LIMIT_CONSUMER", "limit"),
            ("LIMIT_INPUT", INPUT),
            ("LIMIT_OUTPUT", OUTPUT),
            ("LIMIT_EVERY", &work.every.to_string()),
        ];
        for (name, value) in env {
            self.cluster.set(name, value);
        }
    }

    /// The streams as Oncue makes them, so that both sides have the same.
    pub async fn make_streams(&self) {
        for stream in STREAMS {
            let mut config = StreamConfig::default();
            if stream == "web" {
                config.max_bytes.0 = 4 << 30;
            }
            self.bus
                .ensure(
                    &layout::stream(&AppName::default(), stream, &config),
                    Mode::Create,
                )
                .await
                .expect("a stream");
        }
    }

    pub async fn make_consumer(&self, name: &str, filters: &[&str]) {
        let body = json!({
            "stream_name": "web",
            "config": {
                "durable_name": name,
                "ack_policy": "explicit",
                "max_ack_pending": 10_000,
                "filter_subjects": filters,
            },
            "action": "create",
        });
        self.bus
            .api(&format!("CONSUMER.CREATE.web.{name}"), &body)
            .await
            .expect("a consumer");
    }

    /// Until `time`, Unix milliseconds, its workers are up, their requests wait, and nothing is delivered. The server goes
    /// on by itself at that time; told to go on at once, it would wait for the next request.
    pub async fn pause(&self, consumer: &str, time: u64) {
        let body = json!({ "pause_until": format_time(time) });
        let answer = self
            .bus
            .api(&format!("CONSUMER.PAUSE.{consumer}"), &body)
            .await
            .expect("a paused consumer");
        assert_eq!(answer["paused"], true, "{answer}");
    }

    /// Waits until nothing is pending or un-acked; when the last ack came, as the server tells it.
    pub async fn drained(&self, consumer: &str, workers: &mut [Process]) -> f64 {
        let start = Instant::now();
        loop {
            let info = self
                .bus
                .api(&format!("CONSUMER.INFO.{consumer}"), &Value::Null)
                .await
                .expect("a consumer");
            if info["num_pending"] == 0 && info["num_ack_pending"] == 0 {
                assert_eq!(info["num_redelivered"], 0, "delivered again: {info}");
                return seconds(
                    info["ack_floor"]["last_active"]
                        .as_str()
                        .expect("the time of the last ack"),
                );
            }
            for worker in &mut *workers {
                assert!(
                    worker.is_alive(),
                    "{} has ended: {}",
                    worker.name,
                    worker.log()
                );
            }
            assert!(
                start.elapsed() < DRAIN_LIMIT,
                "not done after {DRAIN_LIMIT:?}: {info}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn cpu(&self, workers: &[Process]) -> Cpu {
        let child: f64 = workers.iter().flat_map(Process::children).map(cpu).sum();
        let own: f64 = workers.iter().map(|worker| cpu(worker.pid())).sum();
        Cpu {
            nats: cpu(self.cluster.nats.pid()),
            redis: cpu(self.cluster.redis.pid()),
            worker: own + child,
            child,
        }
    }

    pub async fn made_in(&self, stream: &str) -> u64 {
        self.bus.stream_created(stream).await.expect("the stream")
    }

    /// Waits until the servers have nothing left to do from before.
    pub async fn settled(&self) {
        until("the servers are at rest", async || {
            let before = self.cpu(&[]);
            tokio::time::sleep(Duration::from_millis(200)).await;
            let used = self.cpu(&[]) - before;
            (used.nats + used.redis < 20_000.0).then_some(())
        })
        .await;
    }
}

/// Its stream and name, as the server's API has them.
pub fn consumer(side: Side) -> &'static str {
    match side {
        Side::Oncue => "web.app_bench-clicks",
        Side::Python => "web.app_bench-clicks-python",
        Side::TypeScript => "web.app_bench-clicks-typescript",
        Side::Peer(peer) => peer.consumer(),
        Side::Limit | Side::Inbox | Side::Events => "web.limit",
    }
}

/// Unix seconds of a time as the server writes it, with all its digits.
pub fn seconds(text: &str) -> f64 {
    let whole = parse_time(text).expect("a time") / 1000;
    let fraction: String = text
        .split_once('.')
        .map_or("0", |(_, f)| f)
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    whole as f64 + format!("0.{fraction}").parse::<f64>().expect("digits")
}
