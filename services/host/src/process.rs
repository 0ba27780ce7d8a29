//! Process of a child: how it begins, with which limits, and how it is known to have ended.
//!
//! Between the fork and the child's program stands this very program once more (`oncue-host --exec`): it ties the child to
//! the host's life, limits its memory, moves the socket to a number of its own and becomes the program. So no code runs
//! between fork and exec, where little is allowed.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getppid, kill_process_group, pidfd_open,
    pidfd_send_signal, set_parent_process_death_signal, setrlimit,
};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use oncue::stop;

use crate::spec::Spec;

/// Argument with which this program becomes a child's.
pub const EXEC: &str = "--exec";
/// Variable with the number of the socket.
const SOCKET: &str = "ONCUE_SOCKET";
/// Word in the place of a memory limit or a socket where there is none.
const NONE: &str = "-";
/// Exit code of a program that cannot be started, as shells have it.
const NOT_STARTED: u8 = 127;

/// Time from the end of a process until the rest of what it wrote is given up.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

/// A child's process, the leader of a group of its own. Killed when dropped.
pub struct Process {
    parent: Parent,
    pid: Pid,
    /// Readable once the process has ended, before anybody has buried it.
    end: AsyncFd<OwnedFd>,
    pub stdout: Option<Receiver>,
    pub stderr: Option<Receiver>,
    /// Of a child that speaks lines.
    pub stdin: Option<ChildStdin>,
}

/// Request to another process for the exit status of its child.
pub type Burial = Box<dyn FnOnce() -> BoxFuture<'static, Option<ExitStatus>> + Send + Sync>;

/// Parent of a process. It takes the status of one that has ended, by which its number becomes free.
enum Parent {
    Host(Child),
    /// Another process, which is asked to.
    Other(Burial),
    /// Status taken.
    Done,
}

impl Process {
    /// Starts a child that speaks frames, on one end of a socket; returns the other.
    ///
    /// # Errors
    /// The system has no more processes or descriptors.
    pub fn with_socket(spec: &Spec) -> std::io::Result<(Self, UnixStream)> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        let process = Self::spawn(spec, Stdio::from(OwnedFd::from(theirs)), "socket")?;
        Ok((process, socket))
    }

    /// Starts a child that speaks lines on stdin and stdout.
    ///
    /// # Errors
    /// As [`with_socket`](Self::with_socket).
    pub fn with_pipes(spec: &Spec) -> std::io::Result<Self> {
        Self::spawn(spec, Stdio::piped(), NONE)
    }

    fn spawn(spec: &Spec, stdin: Stdio, socket: &str) -> std::io::Result<Self> {
        let memory = spec.memory.map(|bytes| bytes.to_string());
        // By what it is and not by its name, which may be another program by now.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(EXEC)
            .arg(std::process::id().to_string())
            .arg(memory.as_deref().unwrap_or(NONE))
            .arg(socket)
            .args(&spec.run)
            .env_clear()
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&spec.folder)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.ok_or_else(|| std::io::Error::other("it has ended already"))?;
        let stdout = child.stdout.take().map(ChildStdout::into_owned_fd);
        let stderr = child.stderr.take().map(ChildStderr::into_owned_fd);
        Ok(Self {
            end: end_of(pid)?,
            pid,
            stdin: child.stdin.take(),
            stdout: stdout
                .transpose()?
                .map(Receiver::from_owned_fd)
                .transpose()?,
            stderr: stderr
                .transpose()?
                .map(Receiver::from_owned_fd)
                .transpose()?,
            parent: Parent::Host(child),
        })
    }

    /// A child that another process has forked and will bury when it is asked to; with what reads its stdout and stderr.
    ///
    /// # Errors
    /// There is no such process, or the system has no more descriptors.
    pub fn forked(
        pid: i32,
        stdout: OwnedFd,
        stderr: OwnedFd,
        burial: Burial,
    ) -> std::io::Result<Self> {
        let pid = Pid::from_raw(pid).filter(|pid| *pid != Pid::INIT);
        let pid = pid.ok_or_else(|| std::io::Error::other("no process has this number"))?;
        Ok(Self {
            end: end_of(pid)?,
            pid,
            stdin: None,
            stdout: Some(Receiver::from_owned_fd(stdout)?),
            stderr: Some(Receiver::from_owned_fd(stderr)?),
            parent: Parent::Other(burial),
        })
    }

    /// Process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for its end. Its number stays taken until it is [buried](Self::bury).
    pub async fn ended(&self) {
        // An error would be one of the descriptor, which is ours.
        let _ = self.end.readable().await;
    }

    /// Kills it and whatever it has started; nobody, once it is buried: its number may be another's then.
    pub fn kill(&self) {
        if pidfd_send_signal(self.end.get_ref(), Signal::KILL).is_ok() {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended().now_or_never().is_some()
    }

    /// Buries it, and with it whatever it has started.
    pub async fn bury(mut self) -> Option<ExitStatus> {
        self.kill();
        // Its parent would wait for it, and for nothing else.
        self.ended().await;
        match std::mem::replace(&mut self.parent, Parent::Done) {
            Parent::Host(mut child) => child.wait().await.ok(),
            Parent::Other(burial) => burial().await,
            Parent::Done => None,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.parent, Parent::Done) {
            self.kill();
        }
    }
}

/// Descriptor that is readable once a process has ended.
fn end_of(pid: Pid) -> std::io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, and an owned descriptor stays open"
    )]
    AsyncFd::new(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Words for the end of a process.
pub fn end_text(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return "ended".to_owned();
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}{}", signal_name(signal)),
        (None, Some(0)) => "ended by itself with exit code 0".to_owned(),
        (None, code) => format!("ended with exit code {}", code.unwrap_or(-1)),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// Hides this process's environment, which holds the servers' passwords, from its children: what they could read of it in
/// `/proc` belongs to root from now on.
pub fn keep_environment_private() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Becomes the program of a child: `--exec PARENT MEMORY SOCKET PROGRAM ARGUMENT...`.
pub fn become_child(arguments: &[String]) -> ExitCode {
    let [parent, memory, socket, program, rest @ ..] = arguments else {
        return stop(2, "--exec is how the host starts its children");
    };
    let error = match prepare(parent, memory, socket) {
        Ok(number) => {
            let mut command = std::process::Command::new(program);
            command.args(rest);
            if let Some(number) = number {
                command.env(SOCKET, number);
            }
            command.exec()
        }
        Err(e) => e,
    };
    stop(NOT_STARTED, &format!("{program}: {error}"))
}

/// Ties this process to its parent, limits it, and returns the number of the socket, where it has one.
fn prepare(parent: &str, memory: &str, socket: &str) -> std::io::Result<Option<String>> {
    // Asked for by the thread that starts children, which lives as long as the host.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let here = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if here.as_deref() != Some(parent) {
        return Err(std::io::Error::other("the host has ended"));
    }
    if let Ok(bytes) = memory.parse() {
        let limit = Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        setrlimit(Resource::Data, limit)?;
    }
    if socket == NONE {
        return Ok(None);
    }
    let stdin = std::io::stdin();
    let own = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
    rustix::io::fcntl_setfd(&own, rustix::io::FdFlags::empty())?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let number = own.as_raw_fd().to_string();
    // It is the program's from here on.
    std::mem::forget(own);
    Ok(Some(number))
}
