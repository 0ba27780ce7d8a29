//! The steps of the protocol, as the worker and `commit.lua` take them, over a store and streams made of
//! a few small numbers.
//!
//! One function counts the events of one key in a versioned row and emits an output for each; its handler is not
//! deterministic, so an output comes in two variants. A second function counts the outputs, blindly. A worker that does
//! nothing for a while is a worker whose turn has not come: pauses and redelivery need no action of their own. All
//! events are of one age; the NATS window is taken never to help, so a copy is always stored and delivered.

use stateright::{Model, Property};

pub const EVENTS: usize = 3;
/// Work that counts once: each event for the first function, then each output for the second.
pub const TASKS: usize = 2 * EVENTS;
/// Messages: the events, then two variants of the output of each.
pub const MESSAGES: usize = 3 * EVENTS;

pub type Message = usize;

pub fn task(message: Message) -> usize {
    if message < EVENTS {
        message
    } else {
        EVENTS + (message - EVENTS) / 2
    }
}

pub fn output(event: usize, variant: u8) -> Message {
    EVENTS + 2 * event + usize::from(variant)
}

/// Stands for the hash of the payload.
fn payload(message: Message) -> u8 {
    if message < EVENTS {
        0
    } else {
        ((message - EVENTS) % 2) as u8
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Broken {
    Nothing,
    SeenCheck,
    Fence,
    VersionCheck,
    AckBeforeCommit,
    /// And so publishes what the handler came up with.
    PublishBeforeCommit,
    /// Marks are kept in another place than state, which does not go back with it.
    MarksApart,
    /// The replay uses the old consumer, so that acks of deliveries from before it count.
    OldAcksCount,
}

/// What is searched.
pub struct Protocol {
    pub broken: Broken,
    pub events: usize,
    /// One, or two with outputs between them.
    pub functions: u8,
    pub ages: bool,
    pub goes_back: bool,
    /// A version is never given twice, not even after a rollback.
    pub unique_versions: bool,
}

/// How often each event was counted, as one field would tell: it is written from what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub version: u8,
    pub counts: [u8; EVENTS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    Applied(u8),
    Dead,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Store {
    pub row: Row,
    pub blind: [u8; EVENTS],
    pub marks: [Option<Mark>; TASKS],
    pub outbox: [Option<u8>; EVENTS],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Saved {
    NotYet,
    At(Store),
    Restored,
}

/// How old the events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Age {
    Young,
    BeyondHorizon,
    /// And beyond the grace: what was marked is forgotten.
    Forgotten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Absent,
    Pending,
    Acked,
}

/// Where a worker stands with its delivery; `old` says that a consumer from before the rollback made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Worker {
    Idle,
    Holds {
        message: Message,
        row: Row,
        known: bool,
        drawn: Option<u8>,
        old: bool,
    },
    Follows {
        message: Message,
        variant: u8,
        old: bool,
    },
    Buries {
        message: Message,
        old: bool,
    },
    Settles {
        message: Message,
        old: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub store: Store,
    pub saved: Saved,
    pub streams: [Place; MESSAGES],
    /// By id, as in the stream: two variants of one output share theirs.
    pub dead_letters: [bool; TASKS],
    /// Whether a commit ever stored this variant, in whatever history.
    pub stored: [[bool; 2]; EVENTS],
    pub age: Age,
    /// The highest version ever given.
    pub versions: u8,
    /// In order: which of them it is makes no difference.
    pub workers: [Worker; 2],
}

/// Whether the answer comes through is what the flags say.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Deliver(usize, Message),
    Commit {
        worker: usize,
        variant: u8,
        answered: bool,
    },
    PublishEarly(usize, u8),
    Publish {
        worker: usize,
        answered: bool,
    },
    Bury(usize),
    Ack(usize),
    Crash(usize),
    Sweep(usize),
    Age,
    Save,
    RollBackAndReplay,
}

impl Protocol {
    pub fn new(broken: Broken) -> Self {
        Self {
            broken,
            events: 2,
            functions: 2,
            ages: true,
            goes_back: true,
            unique_versions: false,
        }
    }

    /// Only the first event's handler is not deterministic: one is enough, and the search stays small.
    fn variants(&self, message: Message) -> std::ops::Range<u8> {
        0..if message == 0 && self.functions == 2 {
            2
        } else {
            1
        }
    }

    fn read(&self, world: &World, message: Message, drawn: Option<u8>, old: bool) -> Worker {
        let row = if message < EVENTS {
            world.store.row
        } else {
            Row::default()
        };
        let known = world.store.marks[task(message)].is_some() && self.broken != Broken::SeenCheck;
        Worker::Holds {
            message,
            row,
            known,
            drawn,
            old,
        }
    }

    /// `commit.lua`, and what the worker does next.
    fn commit(&self, world: &mut World, holding: Worker, variant: u8) -> Worker {
        let Worker::Holds {
            message,
            row,
            known,
            drawn,
            old,
        } = holding
        else {
            return holding;
        };
        let (task, first) = (task(message), message < EVENTS);
        let follow = |variant| Worker::Follows {
            message,
            variant,
            old,
        };
        let mark = world.store.marks[task].filter(|_| self.broken != Broken::SeenCheck);
        match mark {
            Some(Mark::Dead) => return Worker::Settles { message, old },
            Some(Mark::Applied(other)) if other != payload(message) => {
                return Worker::Buries { message, old };
            }
            Some(Mark::Applied(_)) => match world.store.outbox.get(task).copied().flatten() {
                Some(stored) => return follow(stored),
                None => return Worker::Settles { message, old },
            },
            None if known => return self.read(world, message, drawn, old),
            None => {}
        }
        if world.age > Age::Young && self.broken != Broken::Fence {
            return Worker::Buries { message, old };
        }
        if first && row.version != world.store.row.version && self.broken != Broken::VersionCheck {
            return self.read(world, message, drawn, old);
        }
        world.store.marks[task] = Some(Mark::Applied(payload(message)));
        if !first {
            world.store.blind[task - EVENTS] += 1;
            return Worker::Settles { message, old };
        }
        let last = if self.unique_versions {
            world.versions
        } else {
            row.version
        };
        world.store.row = Row {
            version: last + 1,
            ..row
        };
        world.store.row.counts[task] += 1;
        world.versions = world.versions.max(last + 1);
        if self.functions == 1 {
            return Worker::Settles { message, old };
        }
        world.store.outbox[task] = Some(variant);
        world.stored[task][usize::from(variant)] = true;
        follow(variant)
    }

    fn roll_back(&self, world: &mut World) {
        let Saved::At(saved) = std::mem::replace(&mut world.saved, Saved::Restored) else {
            return;
        };
        let marks = std::mem::replace(&mut world.store, saved).marks;
        if self.broken == Broken::MarksApart {
            world.store.marks = marks;
        }
        for place in world
            .streams
            .iter_mut()
            .filter(|place| **place == Place::Acked)
        {
            *place = Place::Pending;
        }
        for worker in world
            .workers
            .iter_mut()
            .filter(|_| self.broken != Broken::OldAcksCount)
        {
            match worker {
                Worker::Idle => {}
                Worker::Holds { old, .. }
                | Worker::Follows { old, .. }
                | Worker::Buries { old, .. }
                | Worker::Settles { old, .. } => *old = true,
            }
        }
    }

    fn steps(&self, world: &World, worker: usize, actions: &mut Vec<Action>) {
        match world.workers[worker] {
            Worker::Idle => {
                let pending =
                    (0..MESSAGES).filter(|message| world.streams[*message] == Place::Pending);
                actions.extend(pending.map(|message| Action::Deliver(worker, message)));
                return;
            }
            Worker::Holds {
                message,
                drawn: None,
                ..
            } if self.broken == Broken::PublishBeforeCommit && message < EVENTS => {
                actions.extend(
                    self.variants(message)
                        .map(|variant| Action::PublishEarly(worker, variant)),
                );
            }
            Worker::Holds { message, drawn, .. } => {
                let variants = drawn.map_or(self.variants(message), |drawn| drawn..drawn + 1);
                actions.extend(variants.flat_map(|variant| {
                    [true, false].map(|answered| Action::Commit {
                        worker,
                        variant,
                        answered,
                    })
                }));
            }
            Worker::Follows { .. } => {
                actions.extend([true, false].map(|answered| Action::Publish { worker, answered }));
            }
            Worker::Buries { .. } => actions.push(Action::Bury(worker)),
            // An ack that is lost leaves what a crash leaves.
            Worker::Settles { .. } => actions.push(Action::Ack(worker)),
        }
        actions.push(Action::Crash(worker));
    }

    fn work(&self, world: &mut World, action: &Action) {
        match *action {
            Action::Deliver(worker, message) => {
                world.workers[worker] = self.read(world, message, None, false);
                if self.broken == Broken::AckBeforeCommit {
                    world.streams[message] = Place::Acked;
                }
            }
            Action::Commit {
                worker,
                variant,
                answered,
            } => {
                let next = self.commit(world, world.workers[worker], variant);
                if answered {
                    world.workers[worker] = next;
                }
            }
            Action::PublishEarly(worker, variant) => {
                let Worker::Holds { message, drawn, .. } = &mut world.workers[worker] else {
                    return;
                };
                *drawn = Some(variant);
                world.streams[output(*message, variant)] = Place::Pending;
            }
            Action::Publish { worker, answered } => {
                let Worker::Follows {
                    message,
                    variant,
                    old,
                } = world.workers[worker]
                else {
                    return;
                };
                world.streams[output(message, variant)] = Place::Pending;
                if answered {
                    world.store.outbox[message] = None;
                    world.workers[worker] = Worker::Settles { message, old };
                }
            }
            Action::Bury(worker) => {
                let Worker::Buries { message, old } = world.workers[worker] else {
                    return;
                };
                // Published, and only then recorded: a crash in between repeats both.
                if std::mem::replace(&mut world.dead_letters[task(message)], true) {
                    world.store.marks[task(message)].get_or_insert(Mark::Dead);
                    world.workers[worker] = Worker::Settles { message, old };
                }
            }
            Action::Ack(worker) => {
                let Worker::Settles { message, old } =
                    std::mem::replace(&mut world.workers[worker], Worker::Idle)
                else {
                    return;
                };
                if !old {
                    world.streams[message] = Place::Acked;
                }
            }
            Action::Crash(worker) => world.workers[worker] = Worker::Idle,
            _ => {}
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut streams = [Place::Absent; MESSAGES];
        streams[..self.events].fill(Place::Pending);
        vec![World {
            store: Store::default(),
            saved: Saved::NotYet,
            streams,
            dead_letters: [false; TASKS],
            stored: [[false; 2]; EVENTS],
            age: Age::Young,
            versions: 0,
            workers: [Worker::Idle; 2],
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.steps(world, 0, actions);
        if world.workers[0] != world.workers[1] {
            self.steps(world, 1, actions);
        }
        actions.extend(
            (0..EVENTS)
                .filter(|event| world.store.outbox[*event].is_some())
                .map(Action::Sweep),
        );
        if self.ages && world.age < Age::Forgotten {
            actions.push(Action::Age);
        }
        match world.saved {
            Saved::NotYet if self.goes_back => actions.push(Action::Save),
            Saved::At(_) => actions.push(Action::RollBackAndReplay),
            _ => {}
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Sweep(event) => {
                let variant = next.store.outbox[event].take()?;
                next.streams[output(event, variant)] = Place::Pending;
            }
            Action::Age if world.age == Age::Young => next.age = Age::BeyondHorizon,
            Action::Age => (next.age, next.store.marks) = (Age::Forgotten, [None; TASKS]),
            Action::Save => next.saved = Saved::At(world.store.clone()),
            Action::RollBackAndReplay => self.roll_back(&mut next),
            action => self.work(&mut next, &action),
        }
        next.workers.sort_unstable();
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties()
    }
}
