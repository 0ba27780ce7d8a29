//! The delivery protocol, searched whole: every order of every step, with crashes, lost answers, workers that pause for
//! ever, time that passes and a store that goes back in time. Each rule has a broken twin, and the search must find what
//! goes wrong without it: a model that cannot fail says nothing.

mod protocol;
mod window;

use protocol::{
    Age, Broken, EVENTS, MESSAGES, Mark, Place, Protocol, Saved, Worker, World, output, task,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// What a model that did too little would stay below.
const FEWEST_STATES: usize = 100_000;

const ONCE: &str = "an event is applied at most once in the history that survives";
const AGREE: &str = "marks and state tell the same";
const STORED: &str = "what is published was stored, and one id has one content";
const NOTHING_LOST: &str =
    "what is acked was applied or dead-lettered, and what follows from it is on its way";

fn applied(world: &World, task: usize) -> u8 {
    if task < EVENTS {
        world.store.row.counts[task]
    } else {
        world.store.blind[task - EVENTS]
    }
}

fn agree(world: &World) -> bool {
    world
        .store
        .marks
        .iter()
        .enumerate()
        .all(|(task, mark)| match mark {
            Some(Mark::Applied(_)) => applied(world, task) > 0,
            Some(Mark::Dead) => true,
            None => applied(world, task) == 0 || world.age == Age::Forgotten,
        })
}

fn only_stored_is_published(protocol: &Protocol, world: &World) -> bool {
    (0..protocol.events).all(|event| {
        let published =
            [0, 1].map(|variant| world.streams[output(event, variant)] != Place::Absent);
        let stored = published
            .iter()
            .zip(world.stored[event])
            .all(|(published, stored)| stored || !published);
        // After a rollback another run may store another variant; the second function takes one of the two.
        stored && (published != [true, true] || world.saved == Saved::Restored)
    })
}

fn nothing_is_lost(protocol: &Protocol, world: &World) -> bool {
    let settled = (0..MESSAGES).filter(|message| world.streams[*message] == Place::Acked);
    let mut settled = settled
        .map(|message| applied(world, task(message)) > 0 || world.dead_letters[task(message)]);
    let follows = |event: usize| {
        let published = [0, 1]
            .into_iter()
            .any(|variant| world.streams[output(event, variant)] != Place::Absent);
        published || world.store.outbox[event].is_some()
    };
    let mut followed = (0..protocol.events)
        .filter(|event| applied(world, *event) > 0)
        .map(follows);
    settled.all(|settled| settled) && (protocol.functions == 1 || followed.all(|followed| followed))
}

fn all_done(protocol: &Protocol, world: &World) -> bool {
    let tasks = (0..protocol.events).chain(
        EVENTS
            ..EVENTS
                + if protocol.functions == 2 {
                    protocol.events
                } else {
                    0
                },
    );
    let idle = world.workers.iter().all(|worker| *worker == Worker::Idle);
    let done = world.streams.iter().all(|place| *place != Place::Pending);
    idle && done && tasks.into_iter().all(|task| applied(world, task) == 1)
}

pub fn properties() -> Vec<Property<Protocol>> {
    vec![
        Property::always(ONCE, |_, world: &World| {
            world
                .store
                .row
                .counts
                .iter()
                .chain(&world.store.blind)
                .all(|n| *n < 2)
        }),
        Property::always(AGREE, |_, world| agree(world)),
        Property::always(STORED, only_stored_is_published),
        Property::always(NOTHING_LOST, nothing_is_lost),
        // Guards: what must be possible for the search to mean anything.
        Property::sometimes("everything gets through", all_done),
        Property::sometimes(
            "a store that went back catches up",
            |protocol: &Protocol, world: &World| {
                all_done(protocol, world) && (world.saved == Saved::Restored || !protocol.goes_back)
            },
        ),
        Property::sometimes(
            "what is too old is dead-lettered and acked",
            |protocol: &Protocol, world: &World| {
                let dead = |message: usize| {
                    world.dead_letters[task(message)] && world.streams[message] == Place::Acked
                };
                !protocol.ages
                    || (0..MESSAGES)
                        .any(|message| dead(message) && applied(world, task(message)) == 0)
            },
        ),
    ]
}

/// Searches all there is and returns how many states that were.
fn holds(protocol: Protocol) -> usize {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    checker.unique_state_count()
}

/// Searches until something goes wrong, which must be `property`.
fn fails(protocol: Protocol, property: &'static str) {
    let broken = protocol.broken;
    let checker = protocol
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    let path = checker
        .discovery(property)
        .unwrap_or_else(|| panic!("{broken:?}: nothing found against {property:?}"));
    println!(
        "{broken:?}, against {property:?}, in {} states: {:?}",
        checker.unique_state_count(),
        path.into_actions()
    );
}

/// Two events through both functions and everything that may befall them is too much to search; each of these leaves
/// out a part. With `MODEL_DEEP=1` also those that take minutes.
#[test]
fn the_protocol_holds() {
    let parts = [
        (
            "two events",
            Protocol {
                ages: false,
                goes_back: false,
                ..Protocol::new(Broken::Nothing)
            },
            false,
        ),
        (
            "one event, everything",
            Protocol {
                events: 1,
                ..Protocol::new(Broken::Nothing)
            },
            false,
        ),
        (
            "two events, one function",
            Protocol {
                functions: 1,
                ..Protocol::new(Broken::Nothing)
            },
            false,
        ),
        (
            "two events, no ageing",
            Protocol {
                ages: false,
                ..Protocol::new(Broken::Nothing)
            },
            true,
        ),
        (
            "two events, no rollback",
            Protocol {
                goes_back: false,
                ..Protocol::new(Broken::Nothing)
            },
            true,
        ),
    ];
    let deep = std::env::var_os("MODEL_DEEP").is_some();
    let mut states = 0;
    for (name, protocol, _) in parts.into_iter().filter(|(_, _, long)| deep || !long) {
        let found = holds(protocol);
        println!("{name}: {found} states");
        states += found;
    }
    assert!(states > FEWEST_STATES, "only {states} states");
}

#[test]
fn each_broken_twin_is_found_out() {
    let twins = [
        (Broken::SeenCheck, ONCE),
        (Broken::Fence, ONCE),
        (Broken::VersionCheck, AGREE),
        (Broken::AckBeforeCommit, NOTHING_LOST),
        (Broken::PublishBeforeCommit, STORED),
        (Broken::MarksApart, AGREE),
        (Broken::OldAcksCount, NOTHING_LOST),
    ];
    for (broken, property) in twins {
        fails(Protocol::new(broken), property);
    }
}

/// Three events, one function, no ageing: what a worker can do that keeps a row through a rollback.
fn through_a_rollback(unique_versions: bool) -> Protocol {
    let protocol = Protocol::new(Broken::Nothing);
    Protocol {
        events: 3,
        functions: 1,
        ages: false,
        unique_versions,
        ..protocol
    }
}

/// Versions count up from what is there, so a rolled back row comes to bear a version a second time, for another
/// content. A worker that has read the lost row and commits only then overwrites what was applied since.
#[test]
fn a_row_kept_through_a_rollback_is_known_to_overwrite_another() {
    fails(through_a_rollback(false), AGREE);
    let states = holds(through_a_rollback(true));
    println!("{states} states with versions that are never given twice");
}
