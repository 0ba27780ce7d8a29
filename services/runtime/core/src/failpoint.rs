//! Crash points and broken twins, for tests that must know that a fault would be seen. Compiled with the feature
//! `failpoints` alone; without it every call here is empty and no name of a point is in the binary.
//!
//! `FAILPOINTS="commit.done=2*off->1*return(abort)"` ends the process at the third event that gets there; `freeze`
//! stops it until somebody sends SIGCONT. `ONCUE_SABOTAGE=no-fence` breaks the protocol on purpose.

/// Names of all crash points, in the order in which an event meets them. One departs from it: a commit has one outbox
/// and many events, so `mark.done` comes with the last of them, and as a rule behind `ack.done`.
pub const POINTS: [&str; 15] = [
    "pulled",                // in flight
    "read.done",             // row and seen-mark are read
    "run.counted",           // an event that was delivered before is counted
    "handler.done",          // the handler has run, nothing is written
    "duplicate.found",       // Redis knows an event that comes again; its outputs are not read yet
    "commit.done",           // Redis has answered
    "publish.begin",         // before the first output
    "publish.one",           // after each output's publish ack
    "publish.done",          // all outputs are in their streams
    "mark.done",             // and marked as published
    "ack.done",              // the input is acked
    "dead_letter.begin",     // to be dead-lettered, nothing sent
    "dead_letter.published", // the dead letter is in its stream
    "dead_letter.recorded",  // and recorded
    "retry.done",            // given back
];

/// Ways to break the protocol: each must be caught by the tests that claim to watch over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Applies an event however often it comes.
    ///
    /// The handler takes all events for fresh, and the script looks past their marks.
    NoSeenMarks,
    /// Applies an event however old it is.
    NoFence,
    /// Acks before the commit.
    AckFirst,
    /// Publishes what the handler computed, before the commit.
    PublishFirst,
    /// Takes every delivery for one that left its process alive.
    VouchForAll,
    /// Takes keys, headers, outputs and rows of any size.
    NoBounds,
    /// Begins no record, and believes what a Redis answers that has lost it.
    NoRecord,
}

/// Without the feature: nothing.
#[cfg(not(feature = "failpoints"))]
#[allow(clippy::inline_always)] // so that not even a debug build holds the names
mod inner {
    use super::Sabotage;

    /// Nothing.
    #[inline(always)]
    pub fn start() {}

    /// Nothing.
    #[inline(always)]
    pub fn point(_: &'static str) {}

    /// `false`.
    #[inline(always)]
    pub fn sabotaged(_: Sabotage) -> bool {
        false
    }
}

/// With the feature: what the environment asks for.
#[cfg(feature = "failpoints")]
mod inner {
    use super::{POINTS, Sabotage};

    /// Reads `FAILPOINTS`, and says so on stderr, so that nobody runs such a binary unknowingly.
    pub fn start() {
        eprintln!("oncue: built with failpoints, for tests only");
        std::mem::forget(fail::FailScenario::setup());
    }

    /// Crash point: does what `FAILPOINTS` says of its name. Panics for a name that is not in [`POINTS`].
    pub fn point(name: &'static str) {
        assert!(POINTS.contains(&name), "crash point {name} is not listed");
        match fail::eval(name, Option::unwrap_or_default).as_deref() {
            None => {}
            Some("abort") => std::process::abort(),
            Some("freeze") => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::STOP,
                );
            }
            Some(other) => {
                panic!("failpoint {name}: unknown action {other:?}, try abort or freeze")
            }
        }
    }

    /// Whether `ONCUE_SABOTAGE` asks for this way.
    pub fn sabotaged(how: Sabotage) -> bool {
        let name = match how {
            Sabotage::NoSeenMarks => "no-seen-marks",
            Sabotage::NoFence => "no-fence",
            Sabotage::AckFirst => "ack-first",
            Sabotage::PublishFirst => "publish-first",
            Sabotage::VouchForAll => "vouch-for-all",
            Sabotage::NoBounds => "no-bounds",
            Sabotage::NoRecord => "no-record",
        };
        std::env::var("ONCUE_SABOTAGE").is_ok_and(|wanted| wanted == name)
    }
}

pub use inner::{point, sabotaged, start};
