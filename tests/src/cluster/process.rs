//! Children of a test: started tied to us, watched by their log, killed when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::until;

/// A child; killed when dropped.
pub struct Process {
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn spawn(name: &str, command: Command, log: PathBuf) -> Self {
        let file = File::create(&log).expect("a log file");
        let mut command = tied_to_us(command);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("stdout"))
            .stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub async fn wait_for_line(&self, part: &str) {
        assert!(
            self.says(part).await,
            "{} ended and never said {part}:\n{}",
            self.name,
            self.log()
        );
    }

    /// Waits until it has said this; `false` if it has ended and never did.
    pub async fn says(&self, part: &str) -> bool {
        until(&format!("{} says {part}", self.name), async || {
            // In this order: what it said last, it said before it ended.
            let ended = matches!(self.state(), None | Some('Z'));
            let said = self.log().contains(part);
            (said || ended).then_some(said)
        })
        .await
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name, `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &self.pid().to_string()])
            .status();
        assert!(
            sent.is_ok_and(|s| s.success()),
            "cannot signal {}",
            self.name
        );
    }

    /// Processes that it has started and that have not ended.
    pub fn children(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// SIGTERM, then the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.exit().await
    }

    /// State as the kernel tells it: `R`, `S`, `T` for stopped, `Z` for dead and not buried.
    pub fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        stat.rsplit(')').next()?.trim().chars().next()
    }

    pub async fn exit(&mut self) -> Option<i32> {
        self.end().await.code()
    }

    /// Waits until it has ended: by itself, or by a signal.
    pub async fn end(&mut self) -> ExitStatus {
        let name = self.name.clone();
        until(&format!("{name} ends"), async || {
            self.child.try_wait().ok().flatten()
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// On Linux a child must not outlive a killed test run.
fn tied_to_us(command: Command) -> Command {
    if !cfg!(target_os = "linux") || !Path::new("/usr/bin/setpriv").exists() {
        return command;
    }
    let mut tied = Command::new("/usr/bin/setpriv");
    tied.args(["--pdeathsig", "KILL"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        tied.env(name, value.unwrap_or_default());
    }
    if let Some(dir) = command.get_current_dir() {
        tied.current_dir(dir);
    }
    tied
}

/// Processes whose parent is this one.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut rest = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        rest.nth(1).and_then(|text| text.parse().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}

/// Processes that a process has started, what those have started, and so on.
pub fn descendants(parent: u32) -> Vec<u32> {
    let mut found = children(parent);
    let mut at = 0;
    while at < found.len() {
        found.extend(children(found[at]));
        at += 1;
    }
    found
}

/// Signals a process by name; says whether it was still there.
pub fn send(pid: u32, signal: &str) -> bool {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status();
    sent.is_ok_and(|status| status.success())
}
