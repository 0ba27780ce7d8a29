//! Where it was measured.

use std::process::Command;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub kernel: String,
    pub servers: Vec<String>,
    /// Processes that wanted to run, on average over the last minute, before we began; above the number of cores others
    /// were waiting as well.
    pub load_before: f64,
    pub commit: String,
}

impl Machine {
    pub fn describe() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'));
            line.map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = after(&file("/proc/meminfo"), "MemTotal");
        let memory: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            cpu: after(&file("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: memory >> 20,
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            servers: ["nats-server", "redis-server"]
                .map(|server| said(server, &["--version"]))
                .to_vec(),
            load_before: file("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
            commit: said("git", &["describe", "--always", "--dirty"]),
        }
    }

    /// Whether others took part of it.
    pub fn is_shared(&self) -> bool {
        self.load_before > self.cores as f64 / 2.0
    }
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    String::from_utf8_lossy(&output)
        .trim()
        .split(" sha=")
        .next()
        .unwrap_or_default()
        .to_owned()
}
