//! A handler that never gives its thread back would hold up everything in the process, its timeout included: a thread
//! of its own notices and ends the process. The events come again, and the one that did it, being counted and alone on
//! its later runs, is set aside at the attempt limit.
//!
//! Exit code 70 is that of an internal error in `sysexits.h`. The supervisor or the container
//! runtime starts the process again.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Steps into which the timeout is divided: how exactly the end of a poll is known.
const STEPS: u64 = 4;
/// Exit code of a process ended so.
const STUCK: i32 = 70;

/// Watch over the polls of handlers. Shared by the handler, which tells of each poll, and a thread
/// that looks for one that does not end. Handlers run on one thread, so at most one poll is under
/// way.
pub(crate) struct Watchdog {
    /// Steps since the start; the thread counts them, so that a poll costs no look at a clock.
    now: AtomicU64,
    /// The step in which the poll under way began; 0 for none.
    polling: AtomicU64,
}

impl Watchdog {
    /// Watches handlers that may run for `limit`.
    ///
    /// The thread holds a weak reference and ends with the worker. Steps are at least 10 ms. A poll
    /// is stuck when it began more than five steps ago: the timeout, and up to two steps more.
    pub fn start(function: &'static str, limit: Duration) -> Arc<Self> {
        let dog = Arc::new(Self {
            now: AtomicU64::new(1),
            polling: AtomicU64::new(0),
        });
        let watching = Arc::downgrade(&dog);
        let step = (limit / STEPS as u32).max(Duration::from_millis(10));
        let thread = std::thread::Builder::new().name("watchdog".into());
        let started = thread.spawn(move || {
            loop {
                std::thread::sleep(step);
                let Some(dog) = watching.upgrade() else {
                    return;
                };
                if dog.is_stuck() {
                    tracing::error!(
                        function,
                        "a handler has held its thread for {limit:?} without an await; ending the process"
                    );
                    std::process::exit(STUCK);
                }
            }
        });
        if let Err(e) = started {
            tracing::warn!(error = %e, "no thread for the watchdog: a handler that never ends will not be noticed");
        }
        dog
    }

    /// Counts a step, and says whether a poll has lasted longer than all steps of the limit.
    fn is_stuck(&self) -> bool {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        let since = self.polling.load(Ordering::Relaxed);
        since > 0 && now - since > STEPS + 1
    }

    /// Watches the polls of a future. Each poll costs three atomic accesses and no look at a clock.
    pub fn watch<F: Future>(&self, inner: F) -> WatchedPolls<'_, F> {
        WatchedPolls {
            dog: self,
            inner: Box::pin(inner),
        }
    }
}

/// A future whose polls are watched.
pub(crate) struct WatchedPolls<'d, F> {
    dog: &'d Watchdog,
    inner: Pin<Box<F>>,
}

impl<F: Future> Future for WatchedPolls<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.dog
            .polling
            .store(self.dog.now.load(Ordering::Relaxed), Ordering::Relaxed);
        let polled = self.inner.as_mut().poll(cx);
        self.dog.polling.store(0, Ordering::Relaxed);
        polled
    }
}

thread_local! {
    static PANIC_SITE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Remembers where the last panic of a thread came up, for its dead letter. Its text may quote what an event holds: it is
/// printed only where texts may be seen.
///
/// The hook of before still prints where texts may be seen, or where no log has been set up. To be
/// called once, before the runtime starts.
pub(crate) fn note_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let site = info
            .location()
            .map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
        if oncue_telemetry::shows_messages() || !tracing::dispatcher::has_been_set() {
            before(info);
        } else {
            tracing::error!(site, "panicked");
        }
        PANIC_SITE.with(|last| last.replace(site));
    }));
}

/// `file:line` of the last panic of this thread, and forgets it; empty where there was none.
pub(crate) fn take_panic_site() -> String {
    PANIC_SITE.with(RefCell::take)
}
