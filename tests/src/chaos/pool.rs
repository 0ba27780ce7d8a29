//! Worker processes and their faults. One that dies is replaced, as any process manager would.

use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use serde_json::Value;

use crate::cluster::{Cluster, Process, children, descendants, send, until};
use crate::proxy::Proxy;

/// Between two starts of one worker: one that cannot start must not be started without end.
const RESTART_GAP: Duration = Duration::from_millis(300);

pub struct Pool {
    workers: Vec<Worker>,
    /// Ended by themselves, with what they said last.
    pub gone: Vec<String>,
    /// Signals to processes of hosts so far.
    turn: usize,
}

struct Worker {
    process: Process,
    function: String,
    /// Whether its handler is in children of it.
    is_host: bool,
    /// Its own ports of the proxy before NATS, one for each server.
    doors: Vec<u16>,
    started: Instant,
    /// Frozen by SIGSTOP.
    frozen: bool,
    /// Stopped on purpose: nobody takes its place.
    stopped: bool,
    /// Environment of its own: the file of another app, another version of its program.
    env: Vec<(&'static str, String)>,
}

impl Worker {
    fn start(
        cluster: &Cluster,
        name: &str,
        doors: Vec<u16>,
        env: Vec<(&'static str, String)>,
    ) -> Self {
        let urls: Vec<String> = doors
            .iter()
            .map(|door| format!("nats://127.0.0.1:{door}"))
            .collect();
        let url = ("ONCUE_NATS_URL", urls.join(","));
        let all = [env.as_slice(), &[url]].concat();
        let is_host = cluster.config().function(name).is_hosted();
        Self {
            process: if is_host {
                cluster.spawn_with("oncue-host", &[name], &all)
            } else {
                cluster.spawn_with(name, &[], &all)
            },
            function: name.to_owned(),
            is_host,
            doors,
            started: Instant::now(),
            frozen: false,
            stopped: false,
            env,
        }
    }

    fn replace(&mut self, cluster: &Cluster) {
        let doors = std::mem::take(&mut self.doors);
        let env = std::mem::take(&mut self.env);
        *self = Self::start(cluster, &self.function, doors, env);
    }

    fn signal(&mut self, signal: &str) {
        // One that has ended by itself cannot be frozen, nor woken.
        if self.process.is_alive() {
            self.process.signal(signal);
        }
    }

    fn freeze(&mut self) {
        self.signal("STOP");
        self.frozen = true;
    }

    fn thaw(&mut self) {
        self.signal("CONT");
        self.frozen = false;
    }

    async fn ready(&self) {
        self.process.wait_for_line("\"message\":\"ready\"").await;
    }
}

impl Pool {
    pub async fn start(cluster: &Cluster, nats: &Proxy, binaries: &[&str]) -> Self {
        let mut pool = Self {
            workers: Vec::new(),
            gone: Vec::new(),
            turn: 0,
        };
        pool.join(cluster, nats, binaries, &[]).await;
        pool
    }

    /// Starts more workers, with environment of their own, and waits until they are ready.
    pub async fn join(
        &mut self,
        cluster: &Cluster,
        nats: &Proxy,
        binaries: &[&str],
        env: &[(&'static str, String)],
    ) {
        let before = self.workers.len();
        for binary in binaries {
            let mut doors = Vec::new();
            for node in &cluster.servers.nodes {
                doors.push(nats.door(Some(node.port)).await);
            }
            if doors.is_empty() {
                doors.push(nats.door(None).await);
            }
            self.workers
                .push(Worker::start(cluster, binary, doors, env.to_vec()));
        }
        for worker in &self.workers[before..] {
            worker.ready().await;
        }
    }

    /// SIGTERM of all workers, or those of one function; nobody takes their place until [`resume`](Self::resume).
    pub async fn stop(&mut self, function: Option<&str>) {
        for worker in &mut self.workers {
            if function.is_none_or(|function| function == worker.function) && !worker.stopped {
                worker.stopped = true;
                worker.process.stop().await;
            }
        }
    }

    /// Puts another version of a function in the place of its workers but for the first so many, one after the other;
    /// returns how many.
    pub async fn upgrade(
        &mut self,
        cluster: &Cluster,
        function: &str,
        first: usize,
        env: &[(&'static str, String)],
    ) -> u64 {
        let mut upgraded = 0;
        let of_it = self.workers.iter_mut().filter(|w| w.function == function);
        for worker in of_it.skip(first).filter(|worker| worker.env != env) {
            worker.process.stop().await;
            worker.env = env.to_vec();
            worker.replace(cluster);
            worker.ready().await;
            upgraded += 1;
        }
        upgraded
    }

    /// Starts those that were stopped.
    pub async fn resume(&mut self, cluster: &Cluster) {
        for worker in self.workers.iter_mut().filter(|worker| worker.stopped) {
            worker.replace(cluster);
        }
        for worker in &self.workers {
            worker.ready().await;
        }
    }

    pub fn len(&self) -> usize {
        self.workers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub fn logs(&self) -> impl Iterator<Item = String> + '_ {
        self.workers.iter().map(|worker| worker.process.log())
    }

    /// Events a worker, or all of them, have been given and have not settled.
    pub fn in_hand(&self, nats: &Proxy, at: Option<usize>) -> usize {
        let these = self
            .workers
            .iter()
            .enumerate()
            .filter(|(n, _)| at.is_none_or(|at| at == *n));
        these
            .flat_map(|(_, worker)| &worker.doors)
            .map(|door| nats.in_hand(*door))
            .sum()
    }

    /// Replaces whoever has ended.
    pub fn tend(&mut self, cluster: &Cluster) {
        for worker in &mut self.workers {
            if !worker.stopped
                && !worker.process.is_alive()
                && worker.started.elapsed() > RESTART_GAP
            {
                let log = worker.process.log();
                let last = log.lines().last().unwrap_or("without a word");
                self.gone.push(format!(
                    "{}: {}",
                    worker.function,
                    last.chars().take(200).collect::<String>()
                ));
                worker.replace(cluster);
            }
        }
    }

    /// kill -9, and a new one in its place.
    pub fn kill(&mut self, at: usize, cluster: &Cluster) {
        self.workers[at].process.kill();
        self.workers[at].replace(cluster);
    }

    /// Workers whose handlers are in children of them.
    pub fn hosts(&self) -> Vec<usize> {
        let workers = self.workers.iter().enumerate();
        let hosts = workers.filter(|(_, worker)| worker.is_host);
        hosts.map(|(at, _)| at).collect()
    }

    /// Signals one process of a host's, in turn; says whether it had any. What only a handler understands goes to one that runs
    /// handlers, and not to the one that these are forked from.
    pub fn signal_child(&mut self, at: usize, signal: &str) -> bool {
        let host = self.workers[at].process.pid();
        let mut found = descendants(host);
        if !matches!(signal, "KILL" | "STOP") {
            let forked_from = children(host);
            found.retain(|child| !forked_from.contains(child));
        }
        self.turn += 1;
        !found.is_empty() && send(found[self.turn % found.len()], signal)
    }

    /// kill -9 of all; `tend` brings others.
    pub fn kill_all(&mut self) {
        self.workers
            .iter_mut()
            .for_each(|worker| worker.process.kill());
    }

    /// SIGSTOP of one, or of all.
    pub fn freeze(&mut self, at: Option<usize>) {
        let these = self
            .workers
            .iter_mut()
            .enumerate()
            .filter(|(n, _)| at.is_none_or(|at| at == *n));
        these.for_each(|(_, worker)| worker.freeze());
    }

    /// SIGCONT of all that are frozen.
    pub fn thaw(&mut self) {
        self.workers
            .iter_mut()
            .filter(|worker| worker.frozen)
            .for_each(Worker::thaw);
    }

    /// SIGTERM of one after the other, each replaced before the next; returns exit codes.
    pub async fn roll(&mut self, cluster: &Cluster) -> Vec<Option<i32>> {
        let mut codes = Vec::new();
        for worker in &mut self.workers {
            codes.push(worker.process.stop().await);
            worker.replace(cluster);
            worker.ready().await;
        }
        codes
    }

    /// A counter of `$SRV.STATS`, summed over all workers of a function, each of which must have answered.
    pub async fn counter(&self, bus: &Bus, function: &str, counter: &str) -> u64 {
        let most = self
            .workers
            .iter()
            .filter(|worker| worker.function == function)
            .count();
        let read = |payload: &[u8]| {
            let stats: Value = serde_json::from_slice(payload).unwrap_or_default();
            stats["endpoints"][0]["data"][counter]
                .as_u64()
                .unwrap_or_default()
        };
        until(
            &format!("{most} workers of {function} answer"),
            async || {
                let answers = bus
                    .ask_all(&format!("$SRV.STATS.{function}"), Duration::from_secs(1))
                    .await
                    .ok()?;
                (answers.len() >= most)
                    .then(|| answers.iter().map(|note| read(&note.payload)).sum())
            },
        )
        .await
    }
}
