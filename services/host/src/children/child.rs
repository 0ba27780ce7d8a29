//! Life of one child: it says what it is, is given runs, answers them, and ends.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};

use crate::convert::{self, Description};
use crate::dispatch::{Dispatcher, Ended, FAREWELL, told_to_stop};
use crate::files::OpenFiles;
use crate::frames::{FEATURES, FrameReader, MAX_FRAME, NoFrame, VERSION, encode};
use crate::output::{self, LastLine, Owner};
use crate::process::{LAST_WORDS, Process, end_text};
use crate::protocol as wire;
use crate::protocol::event_result::Outcome;
use crate::protocol::frame::Frame as Content;
use crate::protocol::log::Severity;
use crate::spec::Spec;

/// Time a child has to say what it is: some import for long.
const HELLO: Duration = Duration::from_mins(1);
/// Time that a child has to answer a cancelled run, and to end once it has closed its socket.
const GRACE: Duration = Duration::from_secs(1);
/// Class of a failure for want of memory.
const OUT_OF_MEMORY: &str = "memory";
/// Slack over the timeout, so that a child that watches its own time is first.
const SLACK: Duration = Duration::from_millis(200);

/// A child that has said what it is.
pub struct Greeted {
    pub process: Process,
    pub reader: FrameReader,
    pub writer: OwnedWriteHalf,
    pub hello: wire::Hello,
    pub last: LastLine,
    /// Place it is given, by which its lines are known to belong to events.
    home: Home,
}

/// Place of a child, once it has one.
type Home = Arc<OnceLock<(Arc<Dispatcher>, usize)>>;

/// Starts a child and waits for its first word; asks it (`fork`) whether others can be forked from it.
///
/// # Errors
/// It ends, says something else, or nothing; a sentence for people.
pub async fn greet(spec: &Spec, fork: bool) -> Result<Greeted, String> {
    let program = spec.run.join(" ");
    let started = Process::with_socket(spec).map_err(|e| format!("{program}: {e}"));
    let (mut process, socket) = started?;
    let last = LastLine::default();
    let home = Home::default();
    follow_pipes(&mut process, &last, &home);
    let (read, mut writer) = socket.into_split();
    let mut reader = FrameReader::new(read);
    let begin = encode(Content::Begin(wire::Begin {
        app: spec.app.clone(),
        function: spec.name.clone(),
        contract: spec.contract.clone(),
        fork,
    }));
    let greeting = async {
        // A child that ends at once says why on stderr, and not by an answer.
        let _ = writer.write_all(&begin).await;
        reader.next().await
    };
    let said = tokio::select! {
        said = tokio::time::timeout(HELLO, greeting) => said,
        () = process.ended() => Ok(Err(NoFrame::End)),
    };
    let why = match said {
        Ok(Ok(Content::Hello(hello))) => {
            check_version(&hello)?;
            return Ok(Greeted {
                process,
                reader,
                writer,
                hello,
                last,
                home,
            });
        }
        Ok(Ok(Content::Fatal(fatal))) => {
            // Its last lines come with its end.
            let _ = tokio::time::timeout(LAST_WORDS, process.bury()).await;
            return Err(fatal.sentence);
        }
        Ok(Ok(_)) => "its first frame is no Hello".to_owned(),
        Ok(Err(NoFrame::Broken(why))) => format!("it sent {why}"),
        Ok(Err(NoFrame::End)) => {
            let status = tokio::time::timeout(GRACE, process.bury()).await;
            let text = end_text(status.unwrap_or_default());
            // The pipe is read by a task of its own.
            tokio::time::sleep(LAST_WORDS / 10).await;
            return Err(with_last_line(
                format!("{program}: it {text} before it said what it is"),
                &last,
            ));
        }
        Err(_) => format!("it has not said what it is within {HELLO:?}"),
    };
    Err(format!("{program}: {why}"))
}

/// Refuses a child that speaks no version of ours.
fn check_version(hello: &wire::Hello) -> Result<(), String> {
    if (hello.lowest..=hello.highest).contains(&VERSION) {
        return Ok(());
    }
    Err(format!(
        "{} {} speaks versions {} to {} of the function protocol, and this host version {VERSION}: bring both to one release",
        hello.sdk, hello.sdk_version, hello.lowest, hello.highest
    ))
}

/// A sentence with the last line that a child wrote on stderr.
pub fn with_last_line(text: String, last: &LastLine) -> String {
    match last.get() {
        line if line.is_empty() => text,
        line => format!("{text}: {line}"),
    }
}

/// Reads the pipes of a child, each in a task that ends with it.
fn follow_pipes(process: &mut Process, last: &LastLine, home: &Home) {
    let child = process.id();
    if let Some(stdout) = process.stdout.take() {
        let home = home.clone();
        tokio::spawn(output::follow(
            stdout,
            Severity::Info,
            LastLine::default(),
            move || only_event(&home),
            child,
        ));
    }
    if let Some(stderr) = process.stderr.take() {
        let home = home.clone();
        tokio::spawn(output::follow(
            stderr,
            Severity::Warn,
            last.clone(),
            move || only_event(&home),
            child,
        ));
    }
}

/// Event of a child that has only one in hand.
fn only_event(home: &Home) -> Option<Owner> {
    let (dispatcher, place) = home.get()?;
    dispatcher.owner(*place, 0, 0)
}

impl Greeted {
    /// A child that was forked from one that has said what it is.
    pub fn forked(mut process: Process, socket: UnixStream, hello: wire::Hello) -> Self {
        let last = LastLine::default();
        let home = Home::default();
        follow_pipes(&mut process, &last, &home);
        let (read, writer) = socket.into_split();
        Self {
            process,
            reader: FrameReader::new(read),
            writer,
            hello,
            last,
            home,
        }
    }

    /// The function as the child has described it.
    ///
    /// # Errors
    /// Its contract lacks what its manifest names.
    pub fn describe(&mut self, spec: &Spec) -> Result<Description, String> {
        let manifest = self.hello.manifest.clone().unwrap_or_default();
        let contract = convert::contract(&self.hello.contract, &spec.contract);
        Description::new(manifest, contract)
    }
}

/// Lives the life of a child in a place, from its welcome to its burial.
pub async fn live(
    dispatcher: &Arc<Dispatcher>,
    place: usize,
    greeted: Greeted,
    stopping: &watch::Receiver<bool>,
) -> Ended {
    let known = &dispatcher.description.manifest;
    if greeted.hello.manifest.as_ref() != Some(known) {
        // Consumer, table and rights follow from the manifest, which is read once.
        tracing::error!(
            "a new child describes the function otherwise than the one before; the host begins anew"
        );
        std::process::exit(RESTART);
    }
    let Greeted {
        process,
        reader,
        writer,
        hello,
        last,
        home,
    } = greeted;
    let _ = home.set((dispatcher.clone(), place));
    let (control, frames) = mpsc::unbounded_channel();
    let wake = dispatcher.is_up(place);
    let welcome = Content::Welcome(wire::Welcome {
        version: VERSION,
        features: FEATURES.map(str::to_owned).to_vec(),
        max_frame: MAX_FRAME as u32,
        timeout_ms: dispatcher.timeout.as_millis() as u64,
    });
    let _ = control.send(welcome);
    let writing = tokio::spawn(write(dispatcher.clone(), place, writer, frames, wake));
    let mut child = LivingChild {
        dispatcher,
        place,
        process,
        reader,
        control,
        progress: Progress::new(),
        files: OpenFiles::default(),
        is_spent: false,
    };
    tracing::debug!(
        child = child.process.id(),
        sdk = hello.sdk,
        version = hello.sdk_version,
        "a child is up"
    );
    let end = child.until_end(stopping.clone()).await;
    dispatcher.is_spent(place);
    let ended = child.bury(end, &last).await;
    writing.abort();
    ended
}

/// Exit code of a host that must begin anew: its child is another function than before.
const RESTART: i32 = 75;

/// Writes control frames, and runs as many as are ready in one frame.
async fn write(
    dispatcher: Arc<Dispatcher>,
    place: usize,
    mut socket: OwnedWriteHalf,
    mut control: mpsc::UnboundedReceiver<Content>,
    wake: Arc<tokio::sync::Notify>,
) {
    loop {
        let bytes = tokio::select! {
            biased;
            frame = control.recv() => match frame {
                Some(frame) => encode(frame),
                None => return,
            },
            () = wake.notified() => {
                let mut bytes = Vec::new();
                loop {
                    let runs = dispatcher.unsent(place);
                    if runs.is_empty() {
                        break;
                    }
                    bytes.extend(encode(Content::Invoke(wire::Invoke { runs })));
                }
                bytes
            }
        };
        // A child that does not take it any more is about to end, which is found out elsewhere.
        if socket.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// How far a child has come, as far as is known.
struct Progress {
    /// Since when nothing has moved.
    since: Instant,
    /// Events begun, by its last pong.
    begun: u64,
    /// When it was told to cancel what it does, where nothing has moved since.
    cancelled: Option<Instant>,
    /// Whether it had anything to do when it was last looked at.
    was_busy: bool,
    pings: u64,
}

impl Progress {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            begun: 0,
            cancelled: None,
            was_busy: false,
            pings: 0,
        }
    }

    fn moved(&mut self) {
        self.since = Instant::now();
        self.cancelled = None;
    }
}

/// Why a child is to be buried.
enum End {
    /// Ended by itself, or has closed its socket.
    Gone,
    /// Without an answer in time.
    TimedOut,
    /// Against a rule.
    Broken(String),
    /// Out of memory, and done with what it had in hand.
    Spent,
    /// Told to end, and has.
    Stopped,
}

struct LivingChild<'s> {
    dispatcher: &'s Arc<Dispatcher>,
    place: usize,
    process: Process,
    reader: FrameReader,
    control: mpsc::UnboundedSender<Content>,
    progress: Progress,
    files: OpenFiles,
    /// Whether it has run out of memory. Whatever holds that goes on holding it, so the next events would fail as well.
    is_spent: bool,
}

impl LivingChild<'_> {
    /// Takes its answers until something ends it.
    async fn until_end(&mut self, mut stopping: watch::Receiver<bool>) -> End {
        let step =
            (self.dispatcher.timeout / 8).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut clock = tokio::time::interval(step);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.is_spent && self.dispatcher.oldest(self.place).is_none() {
                self.drain().await;
                return End::Spent;
            }
            tokio::select! {
                frame = self.reader.next() => match frame {
                    Ok(frame) => if let Err(why) = self.take(frame) {
                        return End::Broken(why);
                    },
                    Err(NoFrame::Broken(why)) => return End::Broken(format!("sent {why}")),
                    Err(NoFrame::End) => {
                        self.dispatcher.is_spent(self.place);
                        // As a rule its end comes with it, and says more.
                        let _ = tokio::time::timeout(GRACE, self.process.ended()).await;
                        return End::Gone;
                    }
                },
                () = self.process.ended() => {
                    self.dispatcher.is_spent(self.place);
                    // Others may hold the socket open.
                    self.process.kill();
                    let _ = tokio::time::timeout(LAST_WORDS, self.take_rest()).await;
                    return End::Gone;
                }
                _ = clock.tick() => if self.is_stuck() {
                    return End::TimedOut;
                },
                () = told_to_stop(&mut stopping) => {
                    self.drain().await;
                    return End::Stopped;
                }
            }
        }
    }

    /// Has it end by itself, if it does so soon.
    async fn drain(&self) {
        let _ = self.control.send(Content::Drain(wire::Drain {}));
        let gone = tokio::time::timeout(FAREWELL, self.process.ended());
        let _ = gone.await;
    }

    /// Takes what it had answered before its end: that counts, and stands in the socket.
    async fn take_rest(&mut self) {
        while let Ok(frame) = self.reader.next().await {
            if self.take(frame).is_err() {
                return;
            }
        }
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// The rule that it breaks.
    fn take(&mut self, frame: Content) -> Result<(), String> {
        match frame {
            Content::Answer(answer) => {
                self.progress.moved();
                for result in answer.results {
                    self.files.close_of(result.number);
                    if is_out_of_memory(&result) {
                        self.is_spent = true;
                        self.dispatcher.is_spent(self.place);
                    }
                    self.dispatcher
                        .answered(self.place, result)
                        .map_err(|why| format!("sent {why}"))?;
                }
            }
            Content::Pong(pong) => {
                if pong.begun != self.progress.begun {
                    self.progress.begun = pong.begun;
                    self.progress.moved();
                }
            }
            Content::Log(log) => {
                let owner = self.dispatcher.owner(self.place, log.run, log.event);
                let child = self.process.id();
                output::say(
                    log.severity(),
                    &log.text,
                    &log.logger,
                    owner.as_ref(),
                    child,
                );
            }
            Content::FileRequest(request) => {
                let of_run = self.dispatcher.files(self.place, request.run);
                let files = self.files.clone();
                let control = self.control.clone();
                let dispatcher = self.dispatcher.clone();
                let place = self.place;
                let run = request.run;
                tokio::spawn(async move {
                    let reply = files.reply(of_run, request).await;
                    // Opened while its run ended.
                    if dispatcher.files(place, run).is_none() {
                        files.close_of(run);
                    }
                    let _ = control.send(Content::FileReply(reply));
                });
            }
            Content::Fatal(fatal) => return Err(format!("gave up: {}", fatal.sentence)),
            Content::Hello(_) => return Err("sent a second Hello".to_owned()),
            Content::Forked(_) | Content::Buried(_) => {
                return Err("sent an answer to what it was not asked".to_owned());
            }
            // Its end comes next.
            Content::Drained(_) => {}
            Content::Begin(_)
            | Content::Welcome(_)
            | Content::Invoke(_)
            | Content::Cancel(_)
            | Content::Ping(_)
            | Content::FileReply(_)
            | Content::Fork(_)
            | Content::Bury(_)
            | Content::Drain(_) => return Err("sent a frame that only the host sends".to_owned()),
        }
        Ok(())
    }

    /// Looks whether it moves; asks, cancels, and in the end says that it does not.
    fn is_stuck(&mut self) -> bool {
        let Some(oldest) = self.dispatcher.oldest(self.place) else {
            self.progress.was_busy = false;
            return false;
        };
        if !self.progress.was_busy {
            self.progress.was_busy = true;
            self.progress.moved();
            return false;
        }
        let still = self.progress.since.elapsed();
        if still > self.dispatcher.timeout / 4 {
            self.progress.pings += 1;
            let number = self.progress.pings;
            let _ = self.control.send(Content::Ping(wire::Ping { number }));
        }
        let overdue = self.dispatcher.overdue(self.place);
        // One that works on runs in turn does not move where it is deaf; this one may answer others all the while.
        let is_deaf = self.dispatcher.description.manifest.side_by_side
            && overdue
                .iter()
                .filter_map(|late| late.cancelled)
                .any(|at| at.elapsed() > GRACE);
        if is_deaf {
            return true;
        }
        if let Some(cancelled) = self.progress.cancelled {
            return cancelled.elapsed() > GRACE;
        }
        let stuck = (still > self.dispatcher.timeout + SLACK).then_some(oldest);
        for run in overdue.iter().map(|late| late.run).chain(stuck) {
            self.progress.cancelled = Some(Instant::now());
            self.dispatcher.is_cancelled(self.place, run);
            let _ = self.control.send(Content::Cancel(wire::Cancel {
                run,
                reason: format!("still running after {:?}", self.dispatcher.timeout),
            }));
        }
        false
    }

    /// Ends the process, whatever has happened, and says what became of it.
    async fn bury(self, end: End, last: &LastLine) -> Ended {
        let child = self.process.id();
        if let End::Broken(why) = &end {
            let sentence = why.clone();
            let _ = self.control.send(Content::Fatal(wire::Fatal { sentence }));
            tokio::task::yield_now().await;
        }
        let status = self.process.bury().await;
        match end {
            End::Stopped => Ended::crash("stopped"),
            End::Spent => Ended::crash(format!("the child {child} has run out of memory")),
            End::TimedOut => Ended {
                class: "timeout",
                text: format!(
                    "still running after {:?}; its process was killed",
                    self.dispatcher.timeout
                ),
            },
            End::Broken(why) => Ended {
                class: "protocol",
                text: format!("the child {child} {why}, against the protocol; it was killed"),
            },
            End::Gone => {
                tokio::time::sleep(LAST_WORDS / 10).await;
                let text = format!("the child {child} {}", end_text(status));
                Ended::crash(with_last_line(text, last))
            }
        }
    }
}

/// Whether a child says that it had no memory for an event.
fn is_out_of_memory(result: &wire::RunResult) -> bool {
    result.events.iter().any(|event| {
        matches!(&event.outcome, Some(Outcome::Retry(failure)) if failure.class == OUT_OF_MEMORY)
    })
}
