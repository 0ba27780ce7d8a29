//! What a case does: random runs on a few keys and ids, often in each other's way.

use std::collections::BTreeMap;

use oncue_core::store::{Change, Purpose};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{AGES, IDS, KEYS, TABLES};

#[derive(Debug, Clone)]
pub enum Step {
    Commit(Vec<RunPlan>),
    /// The outboxes that hold outputs of an event are marked as published.
    Publish(usize, usize),
}

#[derive(Debug, Clone)]
pub struct RunPlan {
    pub key: usize,
    pub row: Option<RowPlan>,
    pub events: Vec<EventPlan>,
}

#[derive(Debug, Clone)]
pub struct RowPlan {
    /// Whether the row is told by all it holds, and not by its version.
    pub remembered: bool,
    /// Added to the version that is there, or which other content it is said to have.
    pub ahead: u64,
    pub set: BTreeMap<String, String>,
    pub del: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct EventPlan {
    pub id: usize,
    pub age: usize,
    pub timed: bool,
    pub payload: u32,
    pub ops: Vec<(usize, Change)>,
    pub outbox: Vec<u8>,
    pub purpose: Purpose,
}

fn field() -> impl Strategy<Value = String> {
    "[nmo]"
}

/// Near the ends of what fits, and where a double would round. Not the lowest: see
/// `known::the_lowest_number_is_known_to_stick`.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -5..5i64, 1 => prop::sample::select(vec![9_007_199_254_740_993, 8_000_000_000_000_000_000, i64::MAX])]
}

fn change() -> impl Strategy<Value = (usize, Change)> {
    let member = || "[xyz]";
    prop_oneof![
        (
            Just(1),
            (field(), number()).prop_map(|(field, by)| Change::Add { field, by })
        ),
        (
            Just(1),
            (field(), number()).prop_map(|(field, to)| Change::Max { field, to })
        ),
        (
            Just(2),
            member().prop_map(|member| Change::SetAdd { member })
        ),
        (
            Just(3),
            (member(), -3..3i64, 1..3u32).prop_map(|(member, score, limit)| Change::TopN {
                member,
                score,
                limit
            })
        ),
        (
            Just(4),
            member().prop_map(|member| Change::Distinct { member })
        ),
    ]
}

fn operation() -> impl Strategy<Value = (usize, Change)> {
    // One in eight goes to a table of another kind.
    (change(), prop::option::weighted(0.12, 0..TABLES.len()))
        .prop_map(|((fits, change), other)| (other.unwrap_or(fits), change))
}

fn event() -> impl Strategy<Value = EventPlan> {
    let age = prop_oneof![8 => 0..1usize, 1 => 1..AGES.len()];
    let purpose = prop_oneof![8 => Just(Purpose::Apply), 1 => Just(Purpose::DeadLetter), 1 => Just(Purpose::Recall)];
    let payload = prop_oneof![12 => Just(7u32), 1 => Just(8u32)];
    (
        0..IDS,
        age,
        prop::bool::weighted(0.8),
        payload,
        vec(operation(), 0..3),
        vec(any::<u8>(), 0..3),
        purpose,
    )
        .prop_map(|(id, age, timed, payload, ops, outbox, purpose)| {
            let event = EventPlan {
                id,
                age,
                timed,
                payload,
                ops: Vec::new(),
                outbox: Vec::new(),
                purpose,
            };
            // As the worker asks: a dead letter and a question bring nothing to apply, and nothing of it is checked.
            if purpose == Purpose::Apply {
                EventPlan {
                    ops,
                    outbox,
                    ..event
                }
            } else {
                event
            }
        })
}

fn row() -> impl Strategy<Value = RowPlan> {
    let values = prop::collection::btree_map(field(), "[0-9]{1,3}|-[1-9]|x", 0..3);
    let row = (
        any::<bool>(),
        prop_oneof![6 => Just(0u64), 1 => 1..4u64],
        values,
        vec(field(), 0..2),
    );
    row.prop_map(|(remembered, ahead, set, mut del)| {
        del.retain(|field| !set.contains_key(field)); // a row either has a field or has not
        RowPlan {
            remembered,
            ahead,
            set,
            del,
        }
    })
}

fn run() -> impl Strategy<Value = RunPlan> {
    (0..KEYS, prop::option::of(row()), vec(event(), 1..4)).prop_map(|(key, row, mut events)| {
        if row.is_some() {
            // `Context` refuses operations on the table of the row that the handler holds.
            for event in &mut events {
                event.ops.retain(|(table, _)| *table != 0);
            }
        }
        RunPlan { key, row, events }
    })
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![8 => vec(run(), 1..3).prop_map(Step::Commit), 1 => (0..KEYS, 0..IDS).prop_map(|(k, i)| Step::Publish(k, i))]
}
