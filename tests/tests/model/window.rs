//! The window in which an id counts once: marks that expire, copies that say another time, letters that are redriven, and
//! upkeep that comes when it likes. One event, one clock, which is that of Redis.
//!
//! The other model takes all events to be of one age and forgets all marks at once. Here each mark has the time of its
//! commit, and the edges are met tick by tick. Workers need no place of their own: what counts of a delivery is when it is
//! committed, and `commit.lua` is one step.

use stateright::{Checker, HasDiscoveries, Model, Property};

/// Age in ticks at which an event is refused.
const HORIZON: u8 = 2;
/// How far ahead of the clock an event's time may be.
const SKEW: u8 = 1;
/// By how much a mark outlives the horizon: more than the skew.
const GRACE: u8 = 2;
/// Ticks of a slot: a mark says in which it expires, modulo `SLOTS`.
const SLOT: u8 = 2;
const SLOTS: u8 = 6;
/// Once around the slots, and past the end of the marks that are made then.
const END: u8 = SLOT * (SLOTS + 2) + HORIZON;
const REDRIVES: usize = 2;
/// What a model that did too little would stay below.
const FEWEST_STATES: usize = 10_000;

const SAME_TIME: &str = "a copy that says the same time is never applied again";
const WITHIN: &str = "no copy is applied again within the horizon, whatever time it says";
const LETTER: &str = "a letter comes to life by a redrive alone";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    Nothing,
    /// An event may be as old as it likes.
    NoFence,
    /// An event may be of any day to come.
    NoSkewBound,
    /// A mark is gone with the horizon.
    NoGrace,
    /// A mark outlives the horizon by the skew, and no more.
    GraceIsSkew,
    /// A mark's days begin with the event's time, not with the commit.
    FromEventTime,
    /// A mark expires with the slot in which its last day is.
    SlotRoundedDown,
    /// Upkeep compares slots as if they did not begin anew.
    SlotsWithoutEnd,
    /// A letter comes to life for every copy.
    AnyCopyRevives,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Content {
    Applied,
    /// With the number of the redrive that it spent.
    Dead(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mark {
    content: Content,
    slot: u8,
}

/// Copy of the event: the time that the fence measures, and the number of its redrive, 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Copy {
    fence: u8,
    redrive: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Application {
    at: u8,
    copy: Copy,
    /// Redrive that the letter had spent of which it is the end.
    letter: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: u8,
    mark: Option<Mark>,
    first: Option<Application>,
    second: Option<Application>,
    has_letter: bool,
    /// Moments of its redrives, by number.
    redriven: [Option<u8>; REDRIVES],
    /// Whether the last step was a refusal by the fence.
    is_fenced: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Tick,
    Commit(Copy),
    Bury(Copy),
    Redrive,
    Tend,
}

struct Window {
    broken: Broken,
}

impl Window {
    fn mark(&self, now: u8, content: Content, copy: Copy) -> Mark {
        let must_live = match self.broken {
            Broken::NoGrace => now + HORIZON,
            Broken::GraceIsSkew => now + HORIZON + SKEW,
            Broken::FromEventTime => copy.fence + HORIZON + GRACE,
            _ => now + HORIZON + GRACE,
        };
        let slot = if self.broken == Broken::SlotRoundedDown {
            must_live / SLOT
        } else {
            must_live.div_ceil(SLOT)
        };
        Mark {
            content,
            slot: slot % SLOTS,
        }
    }

    /// Whether the mark says that there is nothing left to do.
    fn is_settled(&self, world: &World, copy: Copy) -> bool {
        world.mark.is_some_and(|mark| match mark.content {
            Content::Applied => true,
            Content::Dead(number) => {
                copy.redrive <= number && self.broken != Broken::AnyCopyRevives
            }
        })
    }

    fn is_fenced(&self, now: u8, copy: Copy) -> bool {
        let is_old = now > copy.fence + HORIZON && self.broken != Broken::NoFence;
        let is_ahead = copy.fence > now + SKEW && self.broken != Broken::NoSkewBound;
        is_old || is_ahead
    }

    fn is_expired(&self, now: u8, mark: Mark) -> bool {
        let slot = now / SLOT;
        if self.broken == Broken::SlotsWithoutEnd {
            return slot % SLOTS >= mark.slot;
        }
        (slot % SLOTS + SLOTS - mark.slot) % SLOTS < SLOTS / 2
    }
}

impl Model for Window {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            // So that there can be an event from before the horizon.
            now: HORIZON + 1,
            mark: None,
            first: None,
            second: None,
            has_letter: false,
            redriven: [None; REDRIVES],
            is_fenced: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // All that can be wrong is then.
        if world.second.is_some() {
            return;
        }
        let times = world.now - HORIZON - 1..=world.now + 2 * HORIZON + SKEW;
        let mut copies: Vec<Copy> = times.map(|fence| Copy { fence, redrive: 0 }).collect();
        copies.extend(world.first.map(|first| first.copy));
        for (number, fence) in (1..).zip(world.redriven.into_iter().flatten()) {
            copies.push(Copy {
                fence,
                redrive: number,
            });
        }
        for copy in copies {
            actions.extend([Action::Commit(copy), Action::Bury(copy)]);
        }
        if world.has_letter && world.redriven.contains(&None) {
            actions.push(Action::Redrive);
        }
        if world
            .mark
            .is_some_and(|mark| self.is_expired(world.now, mark))
        {
            actions.push(Action::Tend);
        }
        if world.now < END {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.is_fenced = false;
        match action {
            Action::Tick => next.now += 1,
            Action::Tend => next.mark = None,
            Action::Redrive => {
                let free = next.redriven.iter_mut().find(|at| at.is_none())?;
                *free = Some(world.now);
            }
            Action::Commit(copy) if self.is_settled(world, copy) => return None,
            Action::Commit(copy) if self.is_fenced(world.now, copy) => next.is_fenced = true,
            Action::Commit(copy) => {
                let application = Application {
                    at: world.now,
                    copy,
                    letter: match world.mark {
                        Some(Mark {
                            content: Content::Dead(number),
                            ..
                        }) => Some(number),
                        _ => None,
                    },
                };
                if next.first.is_none() {
                    next.first = Some(application);
                } else {
                    next.second = Some(application);
                }
                next.mark = Some(self.mark(world.now, Content::Applied, copy));
            }
            Action::Bury(copy) if self.is_settled(world, copy) => return None,
            Action::Bury(copy) => {
                next.has_letter = true;
                next.mark = Some(self.mark(world.now, Content::Dead(copy.redrive), copy));
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAME_TIME, |_, world: &World| {
                let again = world.first.zip(world.second);
                again.is_none_or(|(first, second)| first.copy != second.copy)
            }),
            Property::always(WITHIN, |_, world: &World| {
                let again = world.first.zip(world.second);
                again.is_none_or(|(first, second)| second.at > first.at + HORIZON)
            }),
            Property::always(LETTER, |_, world: &World| {
                let mut applied = world.first.into_iter().chain(world.second);
                applied.all(|one| one.letter.is_none_or(|number| one.copy.redrive > number))
            }),
            // Guards: the edges are met.
            Property::sometimes("applied at the last moment", |_, world: &World| {
                let first = world.first;
                first.is_some_and(|first| first.at == first.copy.fence + HORIZON)
            }),
            Property::sometimes("applied as early as can be", |_, world: &World| {
                let first = world.first;
                first.is_some_and(|first| first.at + SKEW == first.copy.fence)
            }),
            Property::sometimes("refused for its age", |_, world: &World| world.is_fenced),
            Property::sometimes("applied by the last redrive", |_, world: &World| {
                let first = world.first;
                first.is_some_and(|first| usize::from(first.copy.redrive) == REDRIVES)
            }),
            // Nobody is promised more than the horizon.
            Property::sometimes("forgotten, and stamped anew", |_, world: &World| {
                world.second.is_some()
            }),
        ]
    }
}

#[test]
fn the_window_holds() {
    let window = Window {
        broken: Broken::Nothing,
    };
    let checker = window.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    println!("{states} states");
    assert!(states > FEWEST_STATES, "only {states} states");
}

#[test]
fn each_broken_window_is_found_out() {
    for (broken, property) in [
        (Broken::NoFence, SAME_TIME),
        (Broken::NoSkewBound, SAME_TIME),
        (Broken::NoGrace, SAME_TIME),
        (Broken::GraceIsSkew, SAME_TIME),
        (Broken::FromEventTime, WITHIN),
        (Broken::SlotRoundedDown, SAME_TIME),
        (Broken::SlotsWithoutEnd, WITHIN),
        (Broken::AnyCopyRevives, LETTER),
    ] {
        let only = HasDiscoveries::AnyOf([property].into());
        let checker = Window { broken }.checker().threads(2).finish_when(only);
        let found = checker.spawn_bfs().join().discovery(property);
        let path = found.unwrap_or_else(|| panic!("{broken:?}: nothing against {property:?}"));
        println!(
            "{broken:?}, against {property:?}: {:?}",
            path.into_actions()
        );
    }
}
