//! Where children come from: each is a program of its own, or is forked from one that has already imported what it needs, and
//! then costs a millisecond and shares its memory.

use std::fmt::Display;
use std::io::IoSlice;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Mutex;

use super::child::{Greeted, greet, with_last_line};
use crate::frames::{FrameReader, encode};
use crate::output::LastLine;
use crate::process::Process;
use crate::protocol as wire;
use crate::protocol::frame::Frame as Content;
use crate::spec::Spec;

/// Ability of a child from which others can be forked.
const FORK: &str = "fork";
/// Time that a fork server has to answer: the fork of a process with gigabytes takes some of it.
const ANSWER: Duration = Duration::from_secs(5);

/// Source of the children of a host.
pub struct Nursery(Mutex<Source>);

enum Source {
    /// All children that are to come are forked from it.
    ForkServer(Arc<ForkServer>),
    /// Programs of their own; the one that has told the host what the function is becomes the first.
    Programs(Option<Box<Greeted>>),
}

impl Nursery {
    /// Starts with the first child of this function, from which all others are forked where it can be.
    pub fn new(first: Greeted) -> Self {
        Self(Mutex::new(Source::new(first)))
    }

    /// Makes a child, ready to be welcomed.
    ///
    /// # Errors
    /// It cannot be started, or does not come up; a sentence for people.
    pub async fn child(&self, spec: &Spec) -> Result<Greeted, String> {
        let mut state = self.0.lock().await;
        loop {
            match &mut *state {
                Source::Programs(first) => {
                    let first = first.take();
                    // Programs start side by side.
                    drop(state);
                    return match first {
                        Some(first) => Ok(*first),
                        None => greet(spec, false).await,
                    };
                }
                Source::ForkServer(server) => match server.fork().await {
                    Ok(child) => return Ok(child),
                    Err(NoChild::Refused(why)) => return Err(why),
                    Err(NoChild::Gone) => {
                        // Children that it still has keep it, to be buried.
                        tracing::warn!("{}; another one is started", server.end());
                        *state = Source::new(greet(spec, true).await?);
                    }
                },
            }
        }
    }
}

impl Source {
    fn new(first: Greeted) -> Self {
        if first.hello.features.iter().any(|name| name == FORK) {
            Self::ForkServer(Arc::new(ForkServer::new(first)))
        } else {
            Self::Programs(Some(Box::new(first)))
        }
    }
}

/// Process that has the function loaded and forks children that run it.
struct ForkServer {
    /// Killed with the last that knows of it, and its children with it.
    process: Process,
    hello: wire::Hello,
    last: LastLine,
    /// Whether it has left a request without an answer; no other is made then.
    is_gone: AtomicBool,
    requests: Mutex<Requests>,
}

/// Connection to a fork server: requests and answers, one after the other.
struct Requests {
    reader: FrameReader,
    writer: OwnedWriteHalf,
    /// Number of the last request.
    number: u64,
}

/// Why a fork server has made no child.
enum NoChild {
    /// The system has no room for one more; the sentence says of what.
    Refused(String),
    Gone,
}

fn refused(why: impl Display) -> NoChild {
    NoChild::Refused(format!("no further child: {why}"))
}

impl ForkServer {
    fn new(greeted: Greeted) -> Self {
        Self {
            process: greeted.process,
            hello: greeted.hello,
            last: greeted.last,
            is_gone: AtomicBool::new(false),
            requests: Mutex::new(Requests {
                reader: greeted.reader,
                writer: greeted.writer,
                number: 0,
            }),
        }
    }

    async fn fork(self: &Arc<Self>) -> Result<Greeted, NoChild> {
        let (ours, theirs) = StdStream::pair().map_err(refused)?;
        let (stdout, its_stdout) = std::io::pipe().map_err(refused)?;
        let (stderr, its_stderr) = std::io::pipe().map_err(refused)?;
        let given = [theirs.into(), its_stdout.into(), its_stderr.into()];
        let asked = async { self.requests.lock().await.fork(given).await };
        let forked = self.answer(asked).await.ok_or(NoChild::Gone)?;
        if forked.pid == 0 {
            return Err(refused(forked.error));
        }
        let server = self.clone();
        let burial = Box::new(move || async move { server.bury(forked.pid).await }.boxed());
        let process = Process::forked(forked.pid, stdout.into(), stderr.into(), burial);
        // One that is gone already has taken its parent with it, or the other way round.
        let process = process.map_err(|_| NoChild::Gone)?;
        ours.set_nonblocking(true).map_err(refused)?;
        let socket = UnixStream::from_std(ours).map_err(refused)?;
        Ok(Greeted::forked(process, socket, self.hello.clone()))
    }

    /// Status of a child that has ended; none where the fork server has ended too.
    async fn bury(&self, pid: i32) -> Option<ExitStatus> {
        let asked = async { self.requests.lock().await.bury(pid).await };
        self.answer(asked).await.map(ExitStatus::from_raw)
    }

    /// Waits for an answer, unless there will be none.
    async fn answer<A>(&self, asked: impl Future<Output = Option<A>>) -> Option<A> {
        if self.is_gone.load(Ordering::Relaxed) {
            return None;
        }
        let answer = tokio::time::timeout(ANSWER, asked).await.ok().flatten();
        if answer.is_none() {
            self.is_gone.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// Words for what has become of it.
    fn end(&self) -> String {
        let end = if self.process.has_ended() {
            "has ended"
        } else {
            "does not answer"
        };
        let text = format!("the process that children are forked from {end}");
        with_last_line(text, &self.last)
    }
}

impl Requests {
    /// Asks for a child with these descriptors; nothing where nobody answers.
    async fn fork(&mut self, descriptors: [OwnedFd; 3]) -> Option<wire::Forked> {
        self.number += 1;
        let number = self.number;
        let frame = encode(Content::Fork(wire::Fork { number }));
        let socket: &UnixStream = self.writer.as_ref();
        let given = descriptors.each_ref().map(|descriptor| descriptor.as_fd());
        let sent = socket.async_io(Interest::WRITABLE, || {
            let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut control = SendAncillaryBuffer::new(&mut room);
            control.push(SendAncillaryMessage::ScmRights(&given));
            let sent = sendmsg(
                socket,
                &[IoSlice::new(&frame)],
                &mut control,
                SendFlags::NOSIGNAL,
            );
            Ok(sent?)
        });
        // So few bytes are sent whole, or not at all.
        sent.await.ok()?;
        loop {
            match self.reader.next().await.ok()? {
                Content::Forked(forked) if forked.number == number => return Some(forked),
                _ => {}
            }
        }
    }

    async fn bury(&mut self, pid: i32) -> Option<i32> {
        let frame = encode(Content::Bury(wire::Bury { pid }));
        self.writer.write_all(&frame).await.ok()?;
        loop {
            match self.reader.next().await.ok()? {
                Content::Buried(buried) if buried.pid == pid => return Some(buried.status),
                _ => {}
            }
        }
    }
}
