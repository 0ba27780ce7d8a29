//! What a process has used, as the kernel counts it.

use std::ops::Sub;

use serde::{Deserialize, Serialize};

/// CPU time in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    pub nats: f64,
    pub redis: f64,
    /// With all its children.
    pub worker: f64,
    /// Its children alone.
    pub child: f64,
}

impl Cpu {
    #[must_use]
    pub fn per(self, events: u64) -> Self {
        let events = events as f64;
        Self {
            nats: self.nats / events,
            redis: self.redis / events,
            worker: self.worker / events,
            child: self.child / events,
        }
    }
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.nats + self.redis + self.worker
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            nats: self.nats - before.nats,
            redis: self.redis - before.redis,
            worker: self.worker - before.worker,
            child: self.child - before.child,
        }
    }
}

/// User and system time of a process with all its threads, microseconds; `proc_pid_stat(5)`, fields 14 and 15.
pub fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) * 1_000_000.0 / rustix::param::clock_ticks_per_second() as f64
}

/// A line of `/proc/PID/status` in KiB, `VmRSS` or `VmHWM`.
pub fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status
        .lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
    value
        .and_then(|v| v.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0)
}
