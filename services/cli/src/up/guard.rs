//! Should this process be killed outright, its children must not stay behind. A small shell holds the other end of a
//! pipe: when the pipe closes without a word, it ends everybody on its list. Works wherever there is a POSIX shell,
//! needs no privilege, and does not die of Ctrl-C, since it is in a process group of its own.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::exit::Failure;

/// Each line is the whole list. Three seconds are enough for the servers to close their files.
const SCRIPT: &str = r#"trap '' HUP INT TERM
while read -r line; do pids=$line; done
[ -z "$pids" ] && exit
kill -TERM $pids 2>/dev/null
sleep 3
kill -KILL $pids 2>/dev/null"#;

pub struct Guard(Mutex<State>);

struct State {
    shell: Child,
    pipe: Option<ChildStdin>,
    pids: BTreeSet<u32>,
}

impl Guard {
    pub fn start() -> Result<Self, Failure> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut shell = shell.map_err(|e| {
            Failure::failed(format_args!(
                "cannot start sh, which would clean up if this process were killed: {e}"
            ))
        })?;
        let pipe = shell.stdin.take();
        Ok(Self(Mutex::new(State {
            shell,
            pipe,
            pids: BTreeSet::new(),
        })))
    }

    pub fn watch(&self, pid: u32) {
        self.change(|pids| pids.insert(pid));
    }

    /// To be called before the process id can be given to somebody else.
    pub fn forget(&self, pid: u32) {
        self.change(|pids| pids.remove(&pid));
    }

    /// Everybody has ended.
    pub fn dismiss(&self) {
        self.change(|pids| {
            pids.clear();
            true
        });
        let mut state = self.0.lock();
        state.pipe = None;
        let _ = state.shell.wait();
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<u32>) -> bool) {
        let mut state = self.0.lock();
        change(&mut state.pids);
        let list: Vec<String> = state.pids.iter().map(u32::to_string).collect();
        if let Some(pipe) = &mut state.pipe {
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
        let (mut watched, mut forgotten) = (sleeper(), sleeper());
        let guard = Guard::start().unwrap();
        guard.watch(forgotten.id());
        guard.watch(watched.id());
        guard.forget(forgotten.id());
        guard.0.lock().pipe = None; // as when this process is gone
        assert!(ended(&mut watched));
        assert!(forgotten.try_wait().unwrap().is_none());
        forgotten.kill().unwrap();
        forgotten.wait().unwrap();
        let _ = guard.0.lock().shell.wait();
    }

    #[test]
    fn a_dismissed_guard_ends_nobody() {
        let mut child = sleeper();
        let guard = Guard::start().unwrap();
        guard.watch(child.id());
        guard.dismiss();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
