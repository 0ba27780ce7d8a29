//! One process that is kept running until it is told to stop, alone or with its group.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::lines::{Dialect, Screen};

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// Whoever lived this long was healthy; its next end is a new story.
const LIVED: Duration = Duration::from_secs(10);
/// Killing loses nothing: what was in hand is delivered again. But it is said, since finishing is the rule.
const GRACE: Duration = Duration::from_secs(10);
/// What a worker logs once it pulls.
const READY: &str = "\"message\":\"ready\"";
/// Lines kept to explain why a process does not start.
const KEPT: usize = 12;

/// A process to be.
#[derive(Clone)]
pub struct Spec {
    /// In front of each of its lines.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub dialect: Dialect,
}

/// What it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It is about to run, or runs and has not yet said "ready", as only functions do.
    Starting,
    Up,
    /// It ended on its own and is started again after a pause.
    Failing,
    /// Told to stop, and finishing what it has in hand.
    Stopping,
    Gone,
}

/// How it fares, and the way to be told to stop.
#[derive(Default)]
pub struct Vitals {
    pid: AtomicU32,
    ends: AtomicU32,
    phase: AtomicU8,
    retire: CancellationToken,
    last: Mutex<VecDeque<String>>,
}

impl Vitals {
    /// Process id of the last start; 0 before the first.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// How often it ended on its own.
    pub fn ends(&self) -> u32 {
        self.ends.load(Ordering::Relaxed)
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
            .unwrap_or(Phase::Gone)
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Stops this one and leaves the rest of its group alone. It takes the time it needs.
    pub fn retire(&self) {
        self.enter(Phase::Stopping);
        self.retire.cancel();
    }

    pub fn last_lines(&self) -> String {
        let last = self.last.lock();
        last.iter()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn keep(&self, line: &str) {
        let mut last = self.last.lock();
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    }
}

pub async fn keep_running(
    spec: Spec,
    vitals: Arc<Vitals>,
    screen: Arc<Screen>,
    guard: Arc<Guard>,
    stop: CancellationToken,
    hurry: CancellationToken,
) {
    let mut backoff = FIRST_BACKOFF;
    while !stop.is_cancelled() && !vitals.retire.is_cancelled() {
        let started = Instant::now();
        let ended = match start(&spec) {
            Ok(child) => live(child, &spec, &vitals, &screen, &guard, (&stop, &hurry)).await,
            Err(e) => Some(format!("cannot be started: {e}")),
        };
        let Some(ended) = ended else { break };
        vitals.ends.fetch_add(1, Ordering::Relaxed);
        vitals.enter(Phase::Failing);
        if started.elapsed() > LIVED {
            backoff = FIRST_BACKOFF;
        }
        screen.warn(&format!(
            "{} {ended}; starting it again in {backoff:?}",
            spec.name
        ));
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stop.cancelled() => {}
            () = vitals.retire.cancelled() => {}
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
    vitals.enter(Phase::Gone);
}

/// One life of the process: how it ended on its own, or nothing if it was told to.
async fn live(
    mut child: Child,
    spec: &Spec,
    vitals: &Arc<Vitals>,
    screen: &Arc<Screen>,
    guard: &Guard,
    (stop, hurry): (&CancellationToken, &CancellationToken),
) -> Option<String> {
    let pid = child.id().unwrap_or_default();
    guard.watch(pid);
    vitals.pid.store(pid, Ordering::Relaxed);
    if !vitals.retire.is_cancelled() {
        vitals.enter(Phase::Starting);
    }
    let output = copy(&mut child, spec, vitals, screen);
    let status = tokio::select! {
        status = child.wait() => Some(status),
        () = stop.cancelled() => None,
        () = vitals.retire.cancelled() => None,
    };
    if status.is_none() {
        vitals.enter(Phase::Stopping);
        if !stop.is_cancelled() {
            let_finish(&mut child, &spec.name, screen, stop).await;
        }
        end(&mut child, &spec.name, screen, hurry).await;
    }
    guard.forget(pid);
    finish(output).await;
    status.map(|status| status.map_or_else(|e| e.to_string(), describe))
}

/// Nobody is in a hurry, so it is not killed, however long what it has in hand takes; unless all are to stop meanwhile.
async fn let_finish(child: &mut Child, name: &str, screen: &Screen, stop: &CancellationToken) {
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) else {
        return;
    };
    let _ = kill_process(pid, Signal::TERM);
    tokio::select! {
        status = child.wait() => {
            if let Some(status) = status.ok().filter(|status| !status.success()) {
                screen.warn(&format!("{name} was told to stop and {}", describe(status)));
            }
        }
        () = stop.cancelled() => {}
    }
}

/// In a process group of its own, so that Ctrl-C in the terminal reaches only us and we can stop in order.
fn start(spec: &Spec) -> std::io::Result<Child> {
    Command::new(&spec.program)
        .args(&spec.args)
        .env_remove("ONCUE_INSTANCE") // one name for all of them would be none
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

fn copy(child: &mut Child, spec: &Spec, vitals: &Arc<Vitals>, screen: &Arc<Screen>) -> JoinSet<()> {
    let mut output = JoinSet::new();
    let pass = |output: &mut JoinSet<()>, from: Box<dyn AsyncRead + Send + Unpin>| {
        let (name, dialect, vitals, screen) = (
            spec.name.clone(),
            spec.dialect,
            vitals.clone(),
            screen.clone(),
        );
        output.spawn(async move {
            let mut lines = BufReader::new(from).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                let line = String::from_utf8_lossy(&line);
                if !line.trim().is_empty() {
                    vitals.keep(line.trim_end());
                    if vitals.phase() == Phase::Starting && line.contains(READY) {
                        vitals.enter(Phase::Up);
                    }
                    screen.said(&name, dialect, &line);
                }
            }
        });
    };
    if let Some(stdout) = child.stdout.take() {
        pass(&mut output, Box::new(stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        pass(&mut output, Box::new(stderr));
    }
    output
}

/// Its last lines; a grandchild that keeps the pipe open is not waited for.
async fn finish(mut output: JoinSet<()>) {
    let all = async { while output.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_millis(200), all).await;
}

/// Asks it to stop, waits, and kills it only when it does not.
async fn end(child: &mut Child, name: &str, screen: &Screen, hurry: &CancellationToken) {
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) else {
        return;
    };
    if !hurry.is_cancelled() {
        let _ = kill_process(pid, Signal::TERM);
        tokio::select! {
            _ = child.wait() => return,
            () = tokio::time::sleep(GRACE) => screen.warn(&format!("{name} does not stop within {GRACE:?}; killing it")),
            () = hurry.cancelled() => {}
        }
    }
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = child.wait().await;
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Setting {
        screen: Arc<Screen>,
        guard: Arc<Guard>,
        stop: CancellationToken,
        hurry: CancellationToken,
    }

    fn setting() -> Setting {
        let screen = Arc::new(Screen::new(["t"].into_iter(), false));
        Setting {
            screen,
            guard: Arc::new(Guard::start().unwrap()),
            stop: CancellationToken::new(),
            hurry: CancellationToken::new(),
        }
    }

    impl Setting {
        fn run(&self, script: &str) -> (Arc<Vitals>, tokio::task::JoinHandle<()>) {
            let args = vec!["-c".to_owned(), script.to_owned()];
            let spec = Spec {
                name: "t".into(),
                program: "/bin/sh".into(),
                args,
                env: Vec::new(),
                dialect: Dialect::Json,
            };
            let vitals = Arc::new(Vitals::default());
            let task = keep_running(
                spec,
                vitals.clone(),
                self.screen.clone(),
                self.guard.clone(),
                self.stop.clone(),
                self.hurry.clone(),
            );
            (vitals, tokio::spawn(task))
        }
    }

    async fn until(what: impl Fn() -> bool) {
        let waited = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waited)
            .await
            .expect("it came about in time");
    }

    #[tokio::test]
    async fn a_process_that_ends_is_started_again_and_its_words_are_kept() {
        let here = setting();
        let (vitals, task) = here.run("echo why; exit 3");
        until(|| vitals.ends() >= 2).await;
        assert_eq!(vitals.last_lines().lines().next(), Some("  why"));
        here.stop.cancel();
        task.await.unwrap();
        here.guard.dismiss();
    }

    #[tokio::test]
    async fn stopping_lets_a_process_finish() {
        let here = setting();
        let (vitals, task) =
            here.run("trap 'echo finished; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        until(|| !vitals.last_lines().is_empty()).await;
        here.stop.cancel();
        task.await.unwrap();
        assert!(vitals.last_lines().contains("finished"));
        assert_eq!(vitals.ends(), 0, "told to stop is not an end of its own");
        here.guard.dismiss();
    }

    #[tokio::test]
    async fn one_retires_without_the_others_and_is_not_hurried() {
        let here = setting();
        let (staying, other) =
            here.run(r#"echo '{"message":"ready"}'; while :; do sleep 0.05; done"#);
        let script = "trap 'echo asked' TERM; echo up; while [ ! -e $0 ]; do sleep 0.05; done; echo finished";
        let may = std::env::temp_dir().join(format!("oncue-may-end-{}", std::process::id()));
        let (vitals, task) = here.run(&script.replace("$0", &may.display().to_string()));
        until(|| !vitals.last_lines().is_empty() && !staying.last_lines().is_empty()).await;
        vitals.retire();
        until(|| vitals.last_lines().contains("asked")).await;
        assert_eq!(vitals.phase(), Phase::Stopping);
        std::fs::write(&may, "").unwrap();
        task.await.unwrap();
        std::fs::remove_file(&may).unwrap();
        assert!(vitals.last_lines().contains("finished"));
        assert_eq!(
            (vitals.phase(), staying.phase(), vitals.ends()),
            (Phase::Gone, Phase::Up, 0)
        );
        here.stop.cancel();
        other.await.unwrap();
        here.guard.dismiss();
    }

    #[tokio::test]
    async fn one_that_waits_to_be_started_again_retires_at_once() {
        let here = setting();
        let (vitals, task) = here.run("exit 1");
        until(|| vitals.ends() >= 3).await;
        until(|| vitals.phase() == Phase::Failing).await;
        vitals.retire();
        task.await.unwrap();
        assert_eq!(vitals.phase(), Phase::Gone);
        here.guard.dismiss();
    }

    #[tokio::test]
    async fn a_second_request_kills_what_does_not_stop() {
        let here = setting();
        let (vitals, task) = here.run("trap '' TERM; echo up; while :; do sleep 0.05; done");
        until(|| !vitals.last_lines().is_empty()).await;
        here.stop.cancel();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!task.is_finished());
        here.hurry.cancel();
        task.await.unwrap();
        here.guard.dismiss();
    }
}
