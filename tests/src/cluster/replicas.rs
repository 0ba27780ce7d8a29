//! Servers that stand in for each other, started from the files in `deploy/ha`: three nats-servers whose lines to each
//! other can be cut, and a second redis-server that follows the first.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cluster, NATS_READY, Process, free_port, in_repository, until};
use crate::proxy::{Faults, Protocol, Proxy};

/// Folder of credentials in the files of the profile `ha`, where a path has to be whole.
const KEYS: &str = "/etc/oncue/keys";

/// A file of the profile `ha`, as it is given to operators, in a folder where its credentials are as well. Where nobody has
/// written any, whoever comes is let in.
pub fn ha_file(dir: &Path, name: &str) -> PathBuf {
    let folder = dir.join("ha");
    let keys = folder.join("keys");
    for included in [
        "servers/accounts.conf",
        "servers/redis.acl",
        "nats/routes.conf",
        "replica/replication.conf",
    ] {
        let file = keys.join(included);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        if !file.exists() {
            std::fs::write(file, "").expect("written");
        }
    }
    let given = in_repository("deploy/ha").join(name);
    let text = std::fs::read_to_string(given).expect("a file of the profile");
    let file = folder.join(name);
    let text = text.replace(KEYS, &keys.display().to_string());
    std::fs::write(&file, text).expect("written");
    file
}

/// One of several nats-servers.
#[derive(Debug, Clone)]
pub struct Node {
    pub port: u16,
    pub name: String,
    monitor: u16,
    cluster: u16,
    /// Proxies to the others.
    routes: Vec<u16>,
}

/// The lines between nodes: one for each pair and direction.
pub struct Routes {
    lines: Vec<(usize, usize, Proxy)>,
}

impl Routes {
    /// Cuts one node off from the others; clients still reach it.
    pub fn isolate(&self, node: usize) {
        for (_, _, line) in self
            .lines
            .iter()
            .filter(|(from, to, _)| *from == node || *to == node)
        {
            line.set(Faults {
                refuse: true,
                freeze: true,
                ..Faults::default()
            });
        }
    }

    /// How often that was felt.
    pub fn happened(&self, node: usize) -> u64 {
        let lines = self
            .lines
            .iter()
            .filter(|(from, to, _)| *from == node || *to == node);
        lines
            .map(|(_, _, line)| line.fired_of("freeze") + line.fired_of("refuse"))
            .sum()
    }

    pub fn heal(&self) {
        for (_, _, line) in &self.lines {
            line.heal();
            line.cut();
        }
    }
}

/// Three nodes, not started yet, and the lines between them.
pub async fn three_nodes() -> (Vec<Node>, Routes) {
    let mut nodes: Vec<Node> = (1..=3)
        .map(|n| Node {
            port: free_port(),
            name: format!("nats-{n}"),
            monitor: free_port(),
            cluster: free_port(),
            routes: Vec::new(),
        })
        .collect();
    let mut lines = Vec::new();
    for from in 0..nodes.len() {
        for to in (0..nodes.len()).filter(|to| *to != from) {
            let line = Proxy::start(Protocol::Other, nodes[to].cluster, 0).await;
            nodes[from].routes.push(line.port);
            lines.push((from, to, line));
        }
    }
    (nodes, Routes { lines })
}

impl Node {
    pub fn start(&self, dir: &Path) -> Process {
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(ha_file(dir, "nats.conf")).args([
            "-n",
            &self.name,
            "-a",
            "127.0.0.1",
        ]);
        command.args([
            "-p",
            &self.port.to_string(),
            "-m",
            &self.monitor.to_string(),
            "-sd",
        ]);
        command.arg(dir.join(&self.name));
        // Nobody learns of an address that passes by the proxies.
        let routes: Vec<String> = self
            .routes
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        command.args([
            "--cluster",
            &format!("nats://127.0.0.1:{}", self.cluster),
            "--routes",
            &routes.join(","),
        ]);
        command.args([
            "--no_advertise=true",
            "--cluster_advertise",
            "127.0.0.1:1",
            "--connect_retries",
            "1",
        ]);
        Process::spawn(&self.name, command, dir.join(format!("{}.log", self.name)))
    }

    /// Where its monitoring page is.
    pub fn monitor(&self) -> String {
        format!("127.0.0.1:{}", self.monitor)
    }
}

impl Cluster {
    /// Once they have elected somebody, and a stream of three copies can be made.
    pub(super) async fn elected(&self) {
        for peer in &self.peers {
            peer.wait_for_line(NATS_READY).await;
        }
        let probe =
            serde_json::json!({ "name": "probe", "subjects": ["probe"], "num_replicas": 3 });
        let bus = self.bus().await;
        until("three servers keep a stream", async || {
            bus.api("STREAM.CREATE.probe", &probe).await.ok()
        })
        .await;
        bus.api("STREAM.DELETE.probe", &serde_json::Value::Null)
            .await
            .expect("deleted");
    }

    /// Process of a node, in the order of `servers.nodes`.
    pub fn node(&mut self, n: usize) -> &mut Process {
        if n == 0 {
            &mut self.nats
        } else {
            &mut self.peers[n - 1]
        }
    }

    pub async fn restart_node(&mut self, n: usize) {
        let node = self.servers.nodes[n].clone();
        *self.node(n) = node.start(&self.dir);
        self.node(n).wait_for_line(NATS_READY).await;
    }

    /// A redis-server that follows the present one over a line of its own, with data of its own.
    pub(super) async fn follow(&self, port: u16) -> Replica {
        let line = Proxy::start(Protocol::Other, self.redis_port, 0).await;
        let folder = self.dir.join(format!("redis-{port}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut command = Command::new("redis-server");
        command.arg(ha_file(&self.dir, "redis.conf")).args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--dir",
        ]);
        command
            .arg(&folder)
            .args(["--replicaof", "127.0.0.1", &line.port.to_string()]);
        let process = Process::spawn(
            "redis-server",
            command,
            self.dir.join(format!("redis-{port}.log")),
        );
        until("the replica follows", async || {
            self.redis_cli(&["INFO", "replication"])
                .contains("state=online")
                .then_some(())
        })
        .await;
        Replica {
            process,
            port,
            line,
        }
    }

    /// The replica takes the place of the primary, which is dead, and gets a replica of its own.
    pub async fn promote(&mut self, replica: Replica) {
        self.redis = replica.process;
        self.redis_port = replica.port;
        until("the replica answers", async || {
            (self.redis_cli(&["REPLICAOF", "NO", "ONE"]) == "OK").then_some(())
        })
        .await;
        self.replica = Some(self.follow(free_port()).await);
    }
}

/// A redis-server that follows the first one.
pub struct Replica {
    pub process: Process,
    pub port: u16,
    /// Between the two.
    pub line: Proxy,
}
