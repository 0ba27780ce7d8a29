//! Supervised process as the others see it: how it is started, how it fares, and the way to retire it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::log::LogFormat;

/// Lines kept to explain why a process does not start.
/// A panic with its place, or a server's complaint about its configuration, fits in.
const KEPT_LINES: usize = 12;

/// Program, arguments and environment of a process.
#[derive(Clone)]
pub struct ProcessSpec {
    /// Name in front of each of its lines.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Variables added to our own environment, or in place of it.
    pub env: Vec<(String, String)>,
    /// Folder where it writes down what it has in hand, for the process that takes its place; for functions alone.
    pub hands: Option<PathBuf>,
    /// Whether our own environment is the process's, too.
    pub inherits: bool,
    pub format: LogFormat,
}

/// State of a supervised process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// About to run, or running and not yet "ready", which only functions say.
    Starting,
    Up,
    /// Ended on its own, and started again after a pause.
    Failing,
    /// Told to stop, and finishing what is in flight.
    Stopping,
    Gone,
}

/// Status of a supervised process over all its restarts, shared by its keeper, the autoscaler and `oncue ps`.
#[derive(Default)]
pub struct ProcessStatus {
    // Atomics rather than one lock: each is read alone, and the keeper never waits for a reader.
    pid: AtomicU32,
    ends: AtomicU32,
    phase: AtomicU8,
    ended_in_order: AtomicBool,
    retire: CancellationToken,
    last_lines: Mutex<VecDeque<String>>,
}

impl ProcessStatus {
    /// Process id of the last start; 0 before the first.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Whether the process has ended by itself once it was told to, and was not killed.
    pub fn ended_in_order(&self) -> bool {
        self.ended_in_order.load(Ordering::Relaxed)
    }

    pub fn set_ended_in_order(&self) {
        self.ended_in_order.store(true, Ordering::Relaxed);
    }

    /// How often the process ended on its own.
    pub fn ends(&self) -> u32 {
        self.ends.load(Ordering::Relaxed)
    }

    pub fn count_end(&self) {
        self.ends.fetch_add(1, Ordering::Relaxed);
    }

    pub fn phase(&self) -> Phase {
        let phases = [
            Phase::Starting,
            Phase::Up,
            Phase::Failing,
            Phase::Stopping,
            Phase::Gone,
        ];
        phases
            .into_iter()
            .find(|phase| *phase as u8 == self.phase.load(Ordering::Relaxed))
            // Only phases are ever stored, so this is for the compiler.
            .unwrap_or(Phase::Gone)
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Stops this process and leaves the rest of its group alone. It takes the time it needs.
    pub fn retire(&self) {
        self.enter(Phase::Stopping);
        self.retire.cancel();
    }

    pub fn is_retired(&self) -> bool {
        self.retire.is_cancelled()
    }

    /// Completes once the process is retired.
    pub async fn retired(&self) {
        self.retire.cancelled().await;
    }

    /// Last lines of the process, indented; empty before it has written any.
    pub fn last_lines(&self) -> String {
        let lines = self.last_lines.lock();
        lines
            .iter()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Lines in no form of ours at the end of what it wrote, such as the report of a panic, in one; empty for none.
    pub fn last_words(&self) -> String {
        let lines = self.last_lines.lock();
        let mut words: Vec<&str> = lines
            .iter()
            .rev()
            .take_while(|line| !line.starts_with('{'))
            .map(String::as_str)
            .collect();
        words.reverse();
        // One that ends as it did before says the same again.
        words.dedup();
        words.join(" | ")
    }

    /// Keeps a line and lets the oldest go.
    pub fn keep_line(&self, line: &str) {
        let mut lines = self.last_lines.lock();
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}
