//! Window of each child: as many runs as it answers within moments, so that little is lost when it dies and nothing waits
//! behind a slow one for long. The socket is no measure of that: it takes hundreds of events before a write would block.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue::foreign::{ForeignAnswer, ForeignFiles, ForeignRun, Lost};
use oncue_core::config::Protocol;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use crate::convert::{self, Description};
use crate::output::Owner;
use crate::protocol as wire;
use crate::spec::Spec;

/// Runs that a child is given at first.
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
    state: Mutex<State>,
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
    answer: oneshot::Sender<Result<ForeignAnswer, Lost>>,
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
    fn new(protocol: Protocol) -> Self {
        Self {
            is_up: false,
            unsent: VecDeque::new(),
            in_hand: BTreeMap::new(),
            events: 0,
            bytes: 0,
            answered: None,
            // In lines a child has one event at a time.
            window: if protocol == Protocol::Lines {
                1
            } else {
                FIRST_WINDOW
            },
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
        let slots = (0..spec.processes).map(|_| Slot::new(spec.protocol));
        Self {
            timeout: spec.timeout(&description.limits),
            state: Mutex::new(State {
                slots: slots.collect(),
                waiting: VecDeque::new(),
                last: 0,
            }),
            spec,
            description,
        }
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

    /// Takes the result of a run.
    ///
    /// # Errors
    /// A sentence that says which rule it breaks.
    pub fn answered(&self, place: usize, result: wire::RunResult) -> Result<(), String> {
        let mut state = self.state.lock();
        let slot = &mut state.slots[place];
        let number = result.number;
        let Some(in_hand) = slot.in_hand.remove(&number) else {
            return Err(format!(
                "an answer to run {number}, which it was not given or has answered before"
            ));
        };
        let count = in_hand.owners.len();
        slot.answered = in_hand.owners.first().filter(|_| count == 1).cloned();
        slot.events -= count;
        slot.bytes -= in_hand.bytes;
        if self.spec.protocol == Protocol::Frames {
            let took = in_hand.since.elapsed();
            if took < FAST {
                slot.window = (slot.window + 1).min(MAX_EVENTS);
            } else if took > SLOW {
                slot.window = (slot.window / 2).max(FIRST_WINDOW);
            }
        }
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

    /// Ends whatever the child of a place had in hand. The oldest run is the one that it was at. Runs that were not written to
    /// it yet wait for another one, in front of all others.
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
        if self.spec.protocol == Protocol::Frames {
            slot.window = FIRST_WINDOW;
        }
        let lost = std::mem::take(&mut slot.in_hand);
        state.hand_out(self.timeout);
        drop(state);
        for (order, in_hand) in lost.into_values().enumerate() {
            let class = if order == 0 || why.class != "timeout" {
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

    /// Number of a run that has taken longer than it may take together with all that was before it.
    pub fn overdue(&self, place: usize) -> Option<u64> {
        let state = self.state.lock();
        let mut in_hand = state.slots[place].in_hand.iter();
        let late = in_hand.find(|(_, run)| run.since.elapsed() > run.limit);
        late.map(|(number, _)| *number)
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
