//! Keeper of one process: starts it, passes its lines on, starts it again when it ends on its own, and stops it when
//! told.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::log::{LogFormat, LogPrinter};
use super::orphan_guard::OrphanGuard;
use super::process::{Phase, ProcessSpec, ProcessStatus};

/// Pause before the first restart; it doubles with each restart that follows.
/// Short enough for a crash that happens once, and doubled so that one that never stops does not fill the log.
const FIRST_RESTART_DELAY: Duration = Duration::from_millis(200);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(10);
/// Life after which a process counts as healthy, so that its next end begins with the first delay again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Time between the request to stop and the kill. Killing loses nothing: what was in flight is delivered again. But
/// it is said, since finishing is the rule.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time the last lines of an ended process have to arrive: a grandchild that keeps the pipe open is not waited for.
const LAST_LINES_TIMEOUT: Duration = Duration::from_millis(200);
/// Part of the line a worker logs once it pulls.
const READY_LINE: &str = "\"message\":\"ready\"";

/// Surroundings of a keeper, shared by all of a group.
#[derive(Clone)]
pub struct Keeper {
    pub log: Arc<LogPrinter>,
    pub guard: Arc<OrphanGuard>,
    /// Tells all of the group to stop.
    pub stop: CancellationToken,
    /// Ends what still runs, whether or not it has finished.
    pub kill: CancellationToken,
}

/// Keeps a process running until it is retired or its group is stopped, and returns once it has ended.
pub async fn keep_running(spec: ProcessSpec, status: Arc<ProcessStatus>, keeper: Keeper) {
    let mut delay = FIRST_RESTART_DELAY;
    while !keeper.stop.is_cancelled() && !status.is_retired() {
        let started = Instant::now();
        let ended = match start(&spec) {
            Ok(child) => run_once(child, &spec, &status, &keeper).await,
            Err(e) => Some(format!("cannot be started: {e}")),
        };
        // Told to stop: nothing to count, nothing to start again.
        let Some(ended) = ended else { break };
        status.count_end();
        status.enter(Phase::Failing);
        if started.elapsed() > HEALTHY_AFTER {
            delay = FIRST_RESTART_DELAY;
        }
        let words = status.last_words();
        let words = if words.is_empty() {
            String::new()
        } else {
            format!("; its last words: {words}")
        };
        let again = format!("starting it again in {delay:?}");
        keeper
            .log
            .last_words(&spec.name, &format!("{ended}; {again}{words}"));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = keeper.stop.cancelled() => {}
            () = status.retired() => {}
        }
        delay = (delay * 2).min(MAX_RESTART_DELAY);
    }
    status.enter(Phase::Gone);
}

/// Starts the process in a group of its own, so that Ctrl-C in the terminal reaches only us and we can stop in order.
fn start(spec: &ProcessSpec) -> std::io::Result<Child> {
    let mut command = Command::new(&spec.program);
    if !spec.inherits {
        command.env_clear();
    }
    if let Some(folder) = &spec.hands {
        command.env("ONCUE_HANDS", folder.join(&spec.name));
    }
    command
        .args(&spec.args)
        .env_remove("ONCUE_INSTANCE") // one name for all of them would be none
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        // No child may read the terminal: it is in no foreground group and would be stopped by the system.
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Sees one life of the process through: how it ended on its own, or `None` if it was told to.
async fn run_once(
    mut child: Child,
    spec: &ProcessSpec,
    status: &Arc<ProcessStatus>,
    keeper: &Keeper,
) -> Option<String> {
    let pid = child.id().unwrap_or_default();
    // Before anything else can fail: from here on somebody ends it even if we are killed.
    keeper.guard.watch(pid);
    status.set_pid(pid);
    if !status.is_retired() {
        status.enter(Phase::Starting);
    }
    // Read from the start: a child that fills its pipe before anybody reads would stand still.
    let output = pass_on_output(&mut child, spec, status, &keeper.log);
    let ended = tokio::select! {
        ended = child.wait() => Some(ended),
        () = keeper.stop.cancelled() => None,
        () = status.retired() => None,
    };
    if ended.is_none() {
        status.enter(Phase::Stopping);
        if !keeper.stop.is_cancelled() {
            let_finish(&mut child, &spec.name, keeper).await;
        }
        if end(&mut child, &spec.name, keeper).await {
            status.set_ended_in_order();
        }
    }
    // It has been waited for just now: from here on its process id may be given to somebody else.
    keeper.guard.forget(pid);
    finish_output(output).await;
    Some(ended?.map_or_else(|e| e.to_string(), describe))
}

/// Asks a retired process to stop and waits for as long as what is in flight takes: nobody is in a hurry. Returns
/// before it has ended when all are to stop meanwhile.
async fn let_finish(child: &mut Child, name: &str, keeper: &Keeper) {
    let Some(pid) = process_id(child) else {
        return;
    };
    let _ = kill_process(pid, Signal::TERM);
    tokio::select! {
        ended = child.wait() => {
            if let Some(ended) = ended.ok().filter(|ended| !ended.success()) {
                keeper.log.warn(&format!("{name} was told to stop and {}", describe(ended)));
            }
        }
        () = keeper.stop.cancelled() => {}
    }
}

/// Asks the process to stop, waits, and kills it with its group only when it does not. Whether it was not killed.
async fn end(child: &mut Child, name: &str, keeper: &Keeper) -> bool {
    let Some(pid) = process_id(child) else {
        return true;
    };
    if !keeper.kill.is_cancelled() {
        let _ = kill_process(pid, Signal::TERM);
        tokio::select! {
            ended = child.wait() => return ended.is_ok_and(|ended| ended.success()),
            () = tokio::time::sleep(STOP_TIMEOUT) => {
                keeper.log.warn(&format!("{name} does not stop within {STOP_TIMEOUT:?}; killing it"));
            }
            () = keeper.kill.cancelled() => {}
        }
    }
    // With its group: what it has started itself has no other parent left that would.
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = child.wait().await;
    false
}

/// Process id as long as the process has not been waited for, and so cannot be another's.
fn process_id(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id()? as i32)
}

/// Reader of an output pipe: keeps the last lines, sees the process become ready, and prints.
#[derive(Clone)]
struct OutputReader {
    name: String,
    format: LogFormat,
    status: Arc<ProcessStatus>,
    log: Arc<LogPrinter>,
}

impl OutputReader {
    async fn run(self, pipe: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(pipe).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            // Other people's programs print as well; what is no UTF-8 is shown as far as it goes.
            let line = String::from_utf8_lossy(&line);
            if line.trim().is_empty() {
                continue;
            }
            self.status.keep_line(line.trim_end());
            if self.status.phase() == Phase::Starting && line.contains(READY_LINE) {
                self.status.enter(Phase::Up);
            }
            self.log.line(&self.name, self.format, &line);
        }
    }
}

fn pass_on_output(
    child: &mut Child,
    spec: &ProcessSpec,
    status: &Arc<ProcessStatus>,
    log: &Arc<LogPrinter>,
) -> JoinSet<()> {
    let reader = OutputReader {
        name: spec.name.clone(),
        format: spec.format,
        status: status.clone(),
        log: log.clone(),
    };
    let mut output = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        output.spawn(reader.clone().run(stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        output.spawn(reader.run(stderr));
    }
    output
}

/// Waits for the last lines, which often say why the process has ended.
async fn finish_output(mut output: JoinSet<()>) {
    let all = async { while output.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_LINES_TIMEOUT, all).await;
}

/// Words for the end of a process, after its name.
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

    /// Supervisor's share of a keeper, and a way to run a shell script under it.
    struct Supervised(Keeper);

    fn supervised() -> Supervised {
        Supervised(Keeper {
            log: Arc::new(LogPrinter::new(["t"].into_iter(), false)),
            guard: Arc::new(OrphanGuard::start().unwrap()),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        })
    }

    impl Supervised {
        fn run(&self, script: &str) -> (Arc<ProcessStatus>, tokio::task::JoinHandle<()>) {
            let spec = ProcessSpec {
                name: "t".into(),
                program: "/bin/sh".into(),
                args: vec!["-c".to_owned(), script.to_owned()],
                env: Vec::new(),
                hands: None,
                inherits: true,
                format: LogFormat::Json,
            };
            let status = Arc::new(ProcessStatus::default());
            let task = keep_running(spec, status.clone(), self.0.clone());
            (status, tokio::spawn(task))
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
        let here = supervised();
        let (status, task) = here.run("echo why; exit 3");
        until(|| status.ends() >= 2).await;
        assert_eq!(status.last_lines().lines().next(), Some("  why"));
        here.0.stop.cancel();
        task.await.unwrap();
        here.0.guard.dismiss();
    }

    #[tokio::test]
    async fn stopping_lets_a_process_finish() {
        let here = supervised();
        let (status, task) =
            here.run("trap 'echo finished; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        until(|| !status.last_lines().is_empty()).await;
        here.0.stop.cancel();
        task.await.unwrap();
        assert!(status.last_lines().contains("finished"));
        assert_eq!(status.ends(), 0, "told to stop is not an end of its own");
        here.0.guard.dismiss();
    }

    #[tokio::test]
    async fn one_retires_without_the_others_and_is_not_hurried() {
        let here = supervised();
        let (staying, other) =
            here.run(r#"echo '{"message":"ready"}'; while :; do sleep 0.05; done"#);
        let script = "trap 'echo asked' TERM; echo up; while [ ! -e $0 ]; do sleep 0.05; done; echo finished";
        let may = std::env::temp_dir().join(format!("oncue-may-end-{}", std::process::id()));
        let (status, task) = here.run(&script.replace("$0", &may.display().to_string()));
        until(|| !status.last_lines().is_empty() && !staying.last_lines().is_empty()).await;
        status.retire();
        until(|| status.last_lines().contains("asked")).await;
        assert_eq!(status.phase(), Phase::Stopping);
        std::fs::write(&may, "").unwrap();
        task.await.unwrap();
        std::fs::remove_file(&may).unwrap();
        assert!(status.last_lines().contains("finished"));
        assert_eq!(
            (status.phase(), staying.phase(), status.ends()),
            (Phase::Gone, Phase::Up, 0)
        );
        here.0.stop.cancel();
        other.await.unwrap();
        here.0.guard.dismiss();
    }

    #[tokio::test]
    async fn one_that_waits_to_be_started_again_retires_at_once() {
        let here = supervised();
        let (status, task) = here.run("exit 1");
        until(|| status.ends() >= 3).await;
        until(|| status.phase() == Phase::Failing).await;
        status.retire();
        task.await.unwrap();
        assert_eq!(status.phase(), Phase::Gone);
        here.0.guard.dismiss();
    }

    #[tokio::test]
    async fn a_second_request_kills_what_does_not_stop() {
        let here = supervised();
        let (status, task) = here.run("trap '' TERM; echo up; while :; do sleep 0.05; done");
        until(|| !status.last_lines().is_empty()).await;
        here.0.stop.cancel();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!task.is_finished());
        here.0.kill.cancel();
        task.await.unwrap();
        here.0.guard.dismiss();
    }
}
