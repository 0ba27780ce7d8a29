//! Window of each child: as many runs as it answers within moments, so that little is lost when it dies and nothing waits
//! behind a slow one for long. The socket is no measure of that: it takes hundreds of events before a write would block.
//! In a child that works on runs side by side nothing waits behind a slow one, so it is given as many as its `concurrency` says.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue::foreign::{ForeignAnswer, ForeignFiles, ForeignRun, Lost};
use oncue_core::config::Protocol;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use crate::convert::{self, Description, Parts};
use crate::output::Owner;
use crate::protocol as wire;
use crate::spec::Spec;

/// Runs that a child is given at first that works on one after the other.
const FIRST_WINDOW: usize = 2;
/// Events and bytes that a child has in hand at most; a single run may be larger.
const MAX_EVENTS: usize = 256;
const MAX_BYTES: usize = 1 << 20;
/// Answers that come within this time widen the window, those that take longer than `SLOW` halve it.
const FAST: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_millis(200);
/// Time for which a child may hold back an answer, to send it together with the next.
const HELD: Duration = Duration::from_millis(500);
/// Events of one frame.
const FRAME_EVENTS: usize = 128;
/// Time children have to end by themselves once they were told to.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// Hands runs to children, and answers back; shared by the tasks that keep the children.
pub struct Dispatcher {
    pub spec: Spec,
    pub description: Description,
    /// Longest run of the handler on one event.
    pub timeout: Duration,
    window: Window,
    state: Mutex<State>,
}

/// Runs that each child may have in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    /// So many, however long they take.
    Fixed(usize),
    /// At least `FIRST_WINDOW`, and as many as it answers within moments.
    Adaptive,
}

impl Window {
    fn new(protocol: Protocol, manifest: &wire::Manifest, concurrency: usize) -> Self {
        if manifest.side_by_side {
            return Self::Fixed(concurrency.clamp(1, MAX_EVENTS));
        }
        // In lines a child has one at a time. Of a function that runs at most once nothing may be lost that has not begun.
        if protocol == Protocol::Lines || manifest.at_most_once {
            return Self::Fixed(1);
        }
        Self::Adaptive
    }

    /// Runs for a child that has answered none yet.
    fn first(self) -> usize {
        match self {
            Self::Fixed(runs) => runs,
            Self::Adaptive => FIRST_WINDOW,
        }
    }

    /// Runs for a child that was given up to `runs`, after an answer.
    fn after(self, runs: usize, took: Duration) -> usize {
        match self {
            Self::Fixed(runs) => runs,
            Self::Adaptive if took < FAST => (runs + 1).min(MAX_EVENTS),
            Self::Adaptive if took > SLOW => (runs / 2).max(FIRST_WINDOW),
            Self::Adaptive => runs,
        }
    }
}

struct State {
    slots: Vec<Slot>,
    /// Runs that no child has room for, in order.
    waiting: VecDeque<Waiting>,
    /// Number of the last run.
    last: u64,
}

/// Place of a child, whichever process fills it.
struct Slot {
    is_up: bool,
    /// Runs that are to be written to it, by number.
    unsent: VecDeque<(u64, ForeignRun)>,
    /// Runs without an answer, by number; the oldest first.
    in_hand: BTreeMap<u64, InHand>,
    events: usize,
    bytes: usize,
    window: usize,
    /// Only event of the run that was answered last: what it wrote may come behind its answer.
    answered: Option<Owner>,
    /// Told when there is something to write.
    wake: Arc<Notify>,
}

/// A run that waits for a child.
struct Waiting {
    run: ForeignRun,
    answer: oneshot::Sender<Result<ForeignAnswer, Lost>>,
}

/// A run that a child has.
struct InHand {
    owners: Vec<Owner>,
    files: ForeignFiles,
    bytes: usize,
    since: Instant,
    /// Time it may take with all that is before it.
    limit: Duration,
    /// When it was first cancelled.
    cancelled: Option<Instant>,
    /// Events of it that were answered.
    parts: Parts,
    answer: oneshot::Sender<Result<ForeignAnswer, Lost>>,
}

/// A run that has taken longer than it may take together with all that was before it.
pub struct Overdue {
    /// Number of the run.
    pub run: u64,
    /// When it was first cancelled.
    pub cancelled: Option<Instant>,
}

/// Waits until the host stops, or is gone.
pub async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// End of a child.
pub struct Ended {
    /// Class of what it had in hand: `crash`, `timeout`, `protocol`.
    pub class: &'static str,
    /// Sentence without a full stop.
    pub text: String,
}

impl Ended {
    /// End of a child's process.
    pub fn crash(text: impl Into<String>) -> Self {
        Self {
            class: "crash",
            text: text.into(),
        }
    }
}

impl Slot {
    fn new(window: Window) -> Self {
        Self {
            is_up: false,
            unsent: VecDeque::new(),
            in_hand: BTreeMap::new(),
            events: 0,
            bytes: 0,
            answered: None,
            window: window.first(),
            wake: Arc::default(),
        }
    }

    fn has_room(&self, events: usize, bytes: usize) -> bool {
        let within = self.in_hand.len() < self.window
            && self.events + events <= MAX_EVENTS
            && self.bytes + bytes <= MAX_BYTES;
        self.is_up && (self.in_hand.is_empty() || within)
    }
}

impl State {
    /// Hands waiting runs to children that have room, in order.
    fn hand_out(&mut self, timeout: Duration) {
        while let Some(next) = self.waiting.front() {
            let events = next.run.events.len();
            let bytes = convert::weight(&next.run);
            let free = self
                .slots
                .iter_mut()
                .filter(|slot| slot.has_room(events, bytes));
            let Some(slot) = free.min_by_key(|slot| slot.events) else {
                return;
            };
            let Some(Waiting { run, answer }) = self.waiting.pop_front() else {
                return;
            };
            self.last += 1;
            slot.events += events;
            slot.bytes += bytes;
            let owners = run.events.iter().map(|event| Owner {
                meta: event.meta.clone(),
                ids: event.ids,
            });
            let in_hand = InHand {
                owners: owners.collect(),
                files: run.files.clone(),
                bytes,
                since: Instant::now(),
                limit: timeout * slot.events.max(1) as u32 + HELD,
                cancelled: None,
                parts: Parts::default(),
                answer,
            };
            slot.in_hand.insert(self.last, in_hand);
            slot.unsent.push_back((self.last, run));
            slot.wake.notify_one();
        }
    }
}

impl Dispatcher {
    /// A dispatcher to as many children as the plan says, none of which is up.
    pub fn new(spec: Spec, description: Description) -> Self {
        let limits = spec.limits(&description.limits);
        let window = Window::new(spec.protocol, &description.manifest, limits.concurrency);
        let slots = (0..spec.processes).map(|_| Slot::new(window));
        Self {
            timeout: limits.timeout.0,
            window,
            state: Mutex::new(State {
                slots: slots.collect(),
                waiting: VecDeque::new(),
                last: 0,
            }),
            spec,
            description,
        }
    }

    /// Runs that all children together work on at a time.
    pub fn side_by_side(&self) -> usize {
        let of_each = match self.window {
            Window::Fixed(runs) => runs,
            Window::Adaptive => 1,
        };
        self.spec.processes * of_each
    }

    /// Queues a run; its answer comes through the channel.
    pub fn ask(&self, run: ForeignRun) -> oneshot::Receiver<Result<ForeignAnswer, Lost>> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state.lock();
        state.waiting.push_back(Waiting { run, answer });
        state.hand_out(self.timeout);
        answered
    }

    /// The child of a place can take runs.
    pub fn is_up(&self, place: usize) -> Arc<Notify> {
        let mut state = self.state.lock();
        state.slots[place].is_up = true;
        let wake = state.slots[place].wake.clone();
        state.hand_out(self.timeout);
        wake
    }

    /// Runs for one frame, whatever is ready; none where nothing is.
    pub fn unsent(&self, place: usize) -> Vec<wire::Run> {
        let unsent = &mut self.state.lock().slots[place].unsent;
        let mut runs: Vec<wire::Run> = Vec::new();
        let mut events = 0;
        while let Some((number, next)) = unsent.front() {
            events += next.events.len();
            if !runs.is_empty() && events > FRAME_EVENTS {
                break;
            }
            runs.push(convert::run(*number, next));
            unsent.pop_front();
        }
        runs
    }

    /// The child of a place is given no more runs.
    pub fn is_spent(&self, place: usize) {
        self.state.lock().slots[place].is_up = false;
    }

    /// Takes the result of a run, or a part of it.
    ///
    /// # Errors
    /// A sentence that says which rule it breaks.
    pub fn answered(&self, place: usize, result: wire::RunResult) -> Result<(), String> {
        let mut state = self.state.lock();
        let slot = &mut state.slots[place];
        let number = result.number;
        let Entry::Occupied(mut entry) = slot.in_hand.entry(number) else {
            return Err(format!(
                "an answer to run {number}, which it was not given or has answered before"
            ));
        };
        let count = entry.get().owners.len();
        let Some(result) = entry.get_mut().parts.take(result, count)? else {
            return Ok(());
        };
        let in_hand = entry.remove();
        slot.answered = in_hand.owners.first().filter(|_| count == 1).cloned();
        slot.events -= count;
        slot.bytes -= in_hand.bytes;
        slot.window = self.window.after(slot.window, in_hand.since.elapsed());
        let answer = self.description.answer(result, count, self.timeout);
        state.hand_out(self.timeout);
        drop(state);
        match answer {
            Ok(answer) => {
                let _ = in_hand.answer.send(answer);
                Ok(())
            }
            Err(why) => {
                let _ = in_hand.answer.send(Err(Lost::Ended {
                    class: "protocol",
                    text: why.clone(),
                }));
                Err(why)
            }
        }
    }

    /// Ends whatever the child of a place had in hand. A cancelled run is the one that it was at, else the oldest. Runs that were
    /// not written to it yet wait for another one, in front of all others.
    pub fn lost(&self, place: usize, why: &Ended) {
        let mut state = self.state.lock();
        let State { slots, waiting, .. } = &mut *state;
        let slot = &mut slots[place];
        slot.is_up = false;
        for (number, run) in std::mem::take(&mut slot.unsent).into_iter().rev() {
            let in_hand = slot.in_hand.remove(&number);
            if let Some(InHand { answer, .. }) = in_hand {
                waiting.push_front(Waiting { run, answer });
            }
        }
        slot.events = 0;
        slot.bytes = 0;
        slot.window = self.window.first();
        let lost = std::mem::take(&mut slot.in_hand);
        state.hand_out(self.timeout);
        drop(state);
        let cancelled = lost.values().position(|run| run.cancelled.is_some());
        let at_work = cancelled.unwrap_or(0);
        for (order, in_hand) in lost.into_values().enumerate() {
            let class = if order == at_work || why.class != "timeout" {
                why.class
            } else {
                "crash"
            };
            let text = why.text.clone();
            let _ = in_hand.answer.send(Err(Lost::Ended { class, text }));
        }
    }

    /// Number of the oldest run of a child; `None` for one that has nothing to do.
    pub fn oldest(&self, place: usize) -> Option<u64> {
        let state = self.state.lock();
        state.slots[place].in_hand.keys().next().copied()
    }

    /// Runs of a child that have taken longer than they may take together with all that was before them.
    pub fn overdue(&self, place: usize) -> Vec<Overdue> {
        let state = self.state.lock();
        let in_hand = state.slots[place].in_hand.iter();
        let late = in_hand.filter(|(_, run)| run.since.elapsed() > run.limit);
        let found = late.map(|(number, run)| Overdue {
            run: *number,
            cancelled: run.cancelled,
        });
        found.collect()
    }

    /// The child of a place was told to cancel a run.
    pub fn is_cancelled(&self, place: usize, run: u64) {
        let mut state = self.state.lock();
        if let Some(run) = state.slots[place].in_hand.get_mut(&run) {
            run.cancelled.get_or_insert_with(Instant::now);
        }
    }

    /// Files of a run that a child has.
    pub fn files(&self, place: usize, run: u64) -> Option<ForeignFiles> {
        let state = self.state.lock();
        let in_hand = state.slots[place].in_hand.get(&run);
        in_hand.map(|run| run.files.clone())
    }

    /// Event of a log line: the one the child names, or the only one it has.
    pub fn owner(&self, place: usize, run: u64, event: u32) -> Option<Owner> {
        let state = self.state.lock();
        let slot = &state.slots[place];
        let in_hand = &slot.in_hand;
        if run > 0 {
            return in_hand.get(&run)?.owners.get(event as usize).cloned();
        }
        let mut owners = in_hand.values().flat_map(|run| &run.owners);
        let Some(only) = owners.next() else {
            return slot.answered.clone();
        };
        owners.next().is_none().then(|| only.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONCURRENCY: usize = 50;

    fn window(protocol: Protocol, side_by_side: bool, at_most_once: bool) -> Window {
        let manifest = wire::Manifest {
            side_by_side,
            at_most_once,
            ..wire::Manifest::default()
        };
        Window::new(protocol, &manifest, CONCURRENCY)
    }

    #[test]
    fn only_who_works_on_one_run_after_the_other_is_given_few() {
        let side_by_side = window(Protocol::Frames, true, false);
        assert_eq!(side_by_side, Window::Fixed(CONCURRENCY));
        assert_eq!(side_by_side.after(CONCURRENCY, 2 * SLOW), CONCURRENCY);
        let in_turn = window(Protocol::Frames, false, false);
        assert_eq!(in_turn, Window::Adaptive);
        assert_eq!(in_turn.after(FIRST_WINDOW, FAST / 2), FIRST_WINDOW + 1);
        assert_eq!(in_turn.after(8, 2 * SLOW), 4);
        assert_eq!(in_turn.after(FIRST_WINDOW, 2 * SLOW), FIRST_WINDOW);
    }

    #[test]
    fn a_run_that_happens_at_most_once_waits_in_the_host() {
        assert_eq!(window(Protocol::Frames, false, true), Window::Fixed(1));
        assert_eq!(window(Protocol::Lines, false, false), Window::Fixed(1));
        let side_by_side = window(Protocol::Frames, true, true);
        assert_eq!(side_by_side, Window::Fixed(CONCURRENCY));
    }
}
