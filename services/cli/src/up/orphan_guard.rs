//! Guard against orphans: should this process be killed outright, its children must not stay behind.
//!
//! A small shell holds the other end of a pipe: when the pipe closes without a word, it ends every process on its
//! list. Works wherever there is a POSIX shell, needs no privilege, and does not die of Ctrl-C, since it is in a
//! process group of its own.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use parking_lot::Mutex;

use crate::exit::Failure;

/// Program of the shell. Each line is the whole list; the first argument says how many seconds the processes have to end by themselves.
const GUARD_SCRIPT: &str = r#"trap '' HUP INT TERM
while read -r line; do pids=$line; done
[ -z "$pids" ] && exit
kill -TERM $pids 2>/dev/null
n=$1
while [ "$n" -gt 0 ]; do
  left=
  for pid in $pids; do kill -0 "$pid" 2>/dev/null && left="$left $pid"; done
  pids=$left
  [ -z "$pids" ] && exit
  sleep 1
  n=$((n - 1))
done
kill -KILL $pids 2>/dev/null"#;

pub struct OrphanGuard(Mutex<GuardShell>);

struct GuardShell {
    process: Child,
    /// List of process ids, a line for each change; closed once the guard is dismissed.
    pipe: Option<ChildStdin>,
    pids: BTreeSet<u32>,
}

impl OrphanGuard {
    /// A guard of programs that end soon: the servers close their files.
    pub fn start() -> Result<Self, Failure> {
        Self::with_patience(3)
    }

    /// A guard of an `oncue up`, which lets each of its groups finish what is in flight.
    pub fn of_up() -> Result<Self, Failure> {
        Self::with_patience(45)
    }

    fn with_patience(seconds: u32) -> Result<Self, Failure> {
        let mut process = Command::new("sh")
            .args(["-c", GUARD_SCRIPT, "sh", &seconds.to_string()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| {
                Failure::failed(format_args!(
                    "cannot start sh, which would clean up if this process were killed: {e}"
                ))
            })?;
        Ok(Self(Mutex::new(GuardShell {
            pipe: process.stdin.take(),
            process,
            pids: BTreeSet::new(),
        })))
    }

    /// Puts a process on the list.
    pub fn watch(&self, pid: u32) {
        let mut shell = self.0.lock();
        shell.pids.insert(pid);
        shell.write_list();
    }

    /// Takes a process off the list; to be called before its process id can be given to somebody else.
    pub fn forget(&self, pid: u32) {
        let mut shell = self.0.lock();
        shell.pids.remove(&pid);
        shell.write_list();
    }

    /// Ends the shell: every process has ended, there is nothing left to guard.
    pub fn dismiss(&self) {
        let mut shell = self.0.lock();
        shell.pids.clear();
        shell.write_list();
        shell.pipe = None;
        let _ = shell.process.wait();
    }
}

impl GuardShell {
    /// Writes the whole list in one line: a line that our end cuts off is not read, and the list before it holds.
    fn write_list(&mut self) {
        let list: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        if let Some(pipe) = &mut self.pipe {
            let _ = writeln!(pipe, "{}", list.join(" "));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn ended(child: &mut Child) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    #[test]
    fn a_closed_pipe_ends_those_on_the_list_and_only_those() {
        let mut watched = sleeper();
        let mut forgotten = sleeper();
        let guard = OrphanGuard::start().unwrap();
        guard.watch(forgotten.id());
        guard.watch(watched.id());
        guard.forget(forgotten.id());
        guard.0.lock().pipe = None; // as when this process is gone
        assert!(ended(&mut watched));
        assert!(forgotten.try_wait().unwrap().is_none());
        forgotten.kill().unwrap();
        forgotten.wait().unwrap();
        let _ = guard.0.lock().process.wait();
    }

    #[test]
    fn a_dismissed_guard_ends_nobody() {
        let mut child = sleeper();
        let guard = OrphanGuard::start().unwrap();
        guard.watch(child.id());
        guard.dismiss();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
