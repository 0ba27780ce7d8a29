//! The store in a map: what `commit.lua` does, said again in Rust, for unit tests without a server. The same suite
//! runs on both, so this is also the model the Redis one is held to.

mod ledger;

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use oncue_core::store::mark::OutboxName;
use oncue_core::store::{
    Change, CommitEvent, Committed, Expected, Keys, Mark, MarkState, Op, Purpose, Read, ReadResult,
    Row, Run, SKEW_MS, StateValue, Status, StoredOutputs, StreamPosition, Unpublished,
};
use oncue_proto::event;

/// State in memory, with a clock that tests can set.
#[derive(Clone, Default)]
pub struct MapStore(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Rows by key, as [`Keys::row`] writes it.
    rows: HashMap<String, Row>,
    /// Values of blind operations by the same keys; a key is here or among the rows, as in Redis it has one type.
    blind: HashMap<String, Blind>,
    /// By function and hash of the id.
    seen: HashMap<(Arc<str>, [u8; 16]), Seen>,
    /// By commit time, or by minus the time of publishing.
    outboxes: BTreeMap<String, (i64, Vec<StoredOutputs>)>,
    /// Runs that were begun and did not commit, by key: what a poison event is known by.
    runs: HashMap<String, i64>,
    /// Plain hashes: flow ledgers and what was observed.
    hashes: HashMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Unix milliseconds at which a test has stopped the clock; `None` while it runs.
    now: Option<u64>,
}

/// Values that the operations checked so far in a run will leave behind.
#[derive(Clone, Default)]
struct Plan {
    /// Types of keys, as `TYPE` of Redis names them.
    kinds: HashMap<String, &'static str>,
    /// Integers by key and field.
    values: HashMap<(String, String), i128>,
}

/// Seen-mark of an event.
struct Seen {
    /// Set aside as a dead letter; a later redrive may still apply it.
    dead: bool,
    /// CRC-32 of the payload: the same id with another one is a reuse, and no duplicate.
    payload: u32,
    /// Number of the redrive that has left it; 0 for the event itself.
    redrive: u32,
    /// Key of the outbox with what followed; empty where nothing did.
    outbox: String,
    /// Place in the stream; 0 where it is not known.
    sequence: u64,
}

enum Blind {
    Set(BTreeSet<String>),
    Top(BTreeMap<String, i64>),
    Distinct(BTreeSet<String>),
}

impl MapStore {
    /// Stops the clock at `now` (Unix ms).
    pub fn set_now(&self, now: u64) {
        self.lock().now = Some(now);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// Rows and marks of several runs, in their order; a row that is not there is one without fields.
    pub fn read(&self, asks: &[Read]) -> Vec<ReadResult> {
        let inner = self.lock();
        let results = asks.iter().map(|ask| ReadResult {
            row: ask
                .row
                .as_ref()
                .and_then(|row| inner.rows.get(&Keys::default().row(row.table, &row.key)))
                .cloned()
                .unwrap_or_default(),
            seen: ask.marks.iter().map(|mark| inner.settled(mark)).collect(),
        });
        results.collect()
    }

    /// States of events, in the order of the marks; `None` for one that left no mark.
    pub fn settled(&self, marks: &[Mark]) -> Vec<Option<MarkState>> {
        let inner = self.lock();
        let states = marks.iter().map(|mark| {
            let seen = inner.seen(mark)?;
            Some(if seen.dead {
                MarkState::Dead
            } else {
                MarkState::Applied
            })
        });
        states.collect()
    }

    /// Where the event stands in its stream, by the mark that the function has left; `None` without a mark, or without a place
    /// in it.
    pub fn place(&self, id: &str, function: &str) -> Option<StreamPosition> {
        let inner = self.lock();
        let seen = inner.seen(&Mark::of_id(&function.into(), id))?;
        (seen.sequence > 0).then_some(StreamPosition {
            sequence: seen.sequence,
            has_outputs: !seen.outbox.is_empty(),
        })
    }

    /// Commits runs one after the other under one lock, as the script does in one call: each is written all or not at all, and
    /// whether it is does not depend on the others. Outputs of all of them go into one outbox.
    pub fn commit(&self, runs: &[Run]) -> Committed {
        let mut inner = self.lock();
        let first = runs
            .iter()
            .flat_map(|run| &run.events)
            .find(|handled| !handled.outbox.is_empty());
        let name = OutboxName::new(first.map_or(0, |handled| handled.mark.partition));
        let key = Keys::default().outbox(name, first.map_or("", |handled| &handled.mark.function));
        let statuses = runs.iter().map(|run| inner.commit(run, &key)).collect();
        let outbox = inner.outboxes.contains_key(&key).then_some(key);
        Committed { statuses, outbox }
    }

    /// Counts a run of an event that is about to begin, and returns how many there have been with it.
    pub fn started(&self, mark: &Mark) -> u32 {
        let mut inner = self.lock();
        let runs = inner.runs.entry(Keys::default().runs(mark)).or_default();
        *runs += 1;
        u32::try_from(*runs).unwrap_or(0)
    }

    /// Takes back a run that was no attempt: it lost a race for its row, or its worker was told to stop.
    pub fn uncount(&self, mark: &Mark) {
        let mut inner = self.lock();
        *inner.runs.entry(Keys::default().runs(mark)).or_default() -= 1;
    }

    /// Notes that all outputs of these outboxes are in their streams. With `keep` they stay for a recovery of NATS, under the time
    /// of now; without they go.
    pub fn published(&self, outbox_keys: &[String], keep: bool) {
        let mut inner = self.lock();
        let now = inner.now();
        for key in outbox_keys {
            match inner.outboxes.get_mut(key) {
                Some((at, _)) if keep => *at = -(now as i64),
                _ => drop(inner.outboxes.remove(key)),
            }
        }
    }

    /// Leaves in an outbox what is still to be published, and keeps what was, in an outbox of its own.
    pub fn split(&self, key: &str, left: &[StoredOutputs], keep: &[StoredOutputs]) {
        let mut inner = self.lock();
        let now = inner.now();
        if let Some((_, frames)) = inner.outboxes.get_mut(key) {
            *frames = left.to_vec();
        }
        if !keep.is_empty() {
            inner.outboxes.insert(
                format!("{key}.{:08x}", fastrand::u32(..)),
                (-(now as i64), keep.to_vec()),
            );
        }
    }

    /// Outboxes that were committed at `before` or earlier, Unix ms, and are not noted as published.
    pub fn unpublished(&self, before: u64) -> Vec<Unpublished> {
        self.outboxes(|at| at > 0 && at <= before as i64)
    }

    /// Outboxes that were published at `since` or later, Unix ms, and are kept.
    pub fn kept(&self, since: u64) -> Vec<Unpublished> {
        self.outboxes(|at| at <= -(since as i64))
    }

    /// Forgets outboxes of a function that were published at `before` or earlier, Unix ms.
    pub fn forget(&self, function: &str, before: u64) {
        for old in self.outboxes(|at| at < 0 && at >= -(before as i64)) {
            if Keys::function_of(&old.outbox_key) == function {
                self.lock().outboxes.remove(&old.outbox_key);
            }
        }
    }

    fn outboxes(&self, wanted: impl Fn(i64) -> bool) -> Vec<Unpublished> {
        let inner = self.lock();
        let found = inner.outboxes.iter().filter(|(_, (at, _))| wanted(*at));
        found
            .map(|(key, (_, frames))| Unpublished {
                outbox_key: key.clone(),
                frames: frames.clone(),
            })
            .collect()
    }

    /// Value under a key of a table, of whatever kind it is; `None` where there is none.
    pub fn show(&self, table: &str, key: &str) -> Option<StateValue> {
        let inner = self.lock();
        let key = Keys::default().row(table, key);
        if let Some(row) = inner.rows.get(&key) {
            return Some(StateValue::Row(row.clone()));
        }
        Some(match inner.blind.get(&key)? {
            Blind::Set(members) => StateValue::Members(members.iter().cloned().collect()),
            Blind::Top(scores) => {
                let mut ranking: Vec<_> =
                    scores.iter().map(|(m, s)| (m.clone(), *s as f64)).collect();
                ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| b.0.cmp(&a.0)));
                StateValue::Ranking(ranking)
            }
            Blind::Distinct(members) => StateValue::Count(members.len() as u64),
        })
    }
}

impl Inner {
    fn now(&self) -> u64 {
        self.now.unwrap_or_else(event::now_ms)
    }

    fn commit(&mut self, run: &Run, outbox: &str) -> Vec<Status> {
        let now = self.now();
        // Each event is looked at before anything is written. The plan carries what operations of earlier events will leave,
        // so that two that fit alone and not together are found as the script finds them.
        let mut ids = BTreeSet::new();
        let mut blocked: Vec<Option<Status>> = Vec::new();
        let mut plan = Plan::default();
        for handled in &run.events {
            let fresh = ids.insert(handled.mark.id);
            blocked.push(
                self.check(handled, now, &mut plan)
                    .or((!fresh).then_some(Status::Conflict)),
            );
        }
        let row = run
            .row
            .as_ref()
            .map(|row| (row, Keys::default().row(row.key.table, &row.key.key)));
        if let Some((_, key)) = row.as_ref().filter(|(_, key)| self.blind.contains_key(key)) {
            return run
                .events
                .iter()
                .map(|_| Status::Invalid(format!("the row is a {}", self.kind(key))))
                .collect();
        }
        // One event that must not be applied holds back the run: the row that the handler saw came from all of them.
        let stale = row
            .as_ref()
            .is_some_and(|(row, key)| !self.is_as_seen(key, &row.basis));
        if stale || blocked.iter().any(Option::is_some) {
            return blocked
                .into_iter()
                .map(|status| status.unwrap_or(Status::Conflict))
                .collect();
        }
        if let Some((change, key)) =
            row.filter(|(change, _)| !change.set.is_empty() || !change.del.is_empty())
        {
            let row = self.rows.entry(key).or_default();
            // Microseconds, as the script has them, and higher each time, also where the clock stands.
            row.version = (now * 1000).max(row.version + 1);
            row.fields.retain(|(field, _)| {
                !change.del.contains(field) && !change.set.iter().any(|(f, _)| f == field)
            });
            row.fields.extend(change.set.iter().cloned());
            row.fields.sort();
        }
        for handled in &run.events {
            self.write(handled, now, outbox);
        }
        run.events.iter().map(|_| Status::Applied).collect()
    }

    fn is_as_seen(&self, key: &str, basis: &Expected) -> bool {
        let row = self.rows.get(key);
        match basis {
            Expected::Version(version) => row.map_or(0, |row| row.version) == *version,
            Expected::Fields(fields) => row.map_or(&[][..], |row| &row.fields) == fields,
        }
    }

    /// Reason for which an event cannot be applied now, in the order in which the script asks: mark, purpose, age, operations.
    fn check(&self, handled: &CommitEvent, now: u64, plan: &mut Plan) -> Option<Status> {
        let mark = &handled.mark;
        match self.seen(mark) {
            Some(seen) if seen.dead && mark.redrive > seen.redrive => {}
            Some(seen) => return Some(self.status(seen, handled)),
            None => {}
        }
        match handled.purpose {
            Purpose::Apply => {}
            Purpose::DeadLetter => return None,
            Purpose::Recall => return Some(Status::Conflict),
        }
        if now > mark.fence + mark.horizon {
            return Some(Status::TooOld);
        }
        if mark.fence > now + SKEW_MS {
            return Some(Status::Clock);
        }
        let mut own = plan.clone();
        let why = handled
            .ops
            .iter()
            .find_map(|op| self.check_op(op, &mark.key, &mut own));
        if why.is_none() {
            *plan = own;
        }
        why.map(Status::Invalid)
    }

    fn seen(&self, mark: &Mark) -> Option<&Seen> {
        self.seen.get(&(mark.function.clone(), mark.id))
    }

    /// Status of an event that has left a mark.
    fn status(&self, seen: &Seen, handled: &CommitEvent) -> Status {
        if seen.payload != handled.payload_hash && handled.purpose != Purpose::DeadLetter {
            return Status::IdReuse;
        }
        if seen.dead {
            return Status::Dead;
        }
        let outbox = self.outboxes.get(&seen.outbox).filter(|(at, _)| *at > 0);
        let frames = outbox.into_iter().flat_map(|(_, frames)| frames);
        let mut own = frames.filter(|frame| frame.id == handled.mark.id);
        Status::Duplicate(own.next().map(|frame| frame.outputs.clone()))
    }

    fn settled(&self, mark: &Mark) -> bool {
        self.seen(mark)
            .is_some_and(|seen| !seen.dead || mark.redrive <= seen.redrive)
    }

    fn kind(&self, key: &str) -> &'static str {
        match self.blind.get(key) {
            Some(Blind::Set(_)) => "set",
            Some(Blind::Top(_)) => "zset",
            Some(Blind::Distinct(_)) => "string",
            None if self.rows.contains_key(key) => "hash",
            None => "none",
        }
    }

    /// Reason for which an operation cannot be done on what is there, or on what the plan says will be.
    fn check_op(&self, op: &Op, key: &str, plan: &mut Plan) -> Option<String> {
        let key = Keys::default().row(op.table, key);
        let (name, want) = match &op.change {
            Change::Add { .. } => ("add", "hash"),
            Change::Max { .. } => ("max", "hash"),
            Change::SetAdd { .. } => ("sadd", "set"),
            Change::TopN { .. } => ("top", "zset"),
            Change::Distinct { .. } => ("distinct", "string"),
        };
        let kind = plan
            .kinds
            .get(&key)
            .copied()
            .unwrap_or_else(|| self.kind(&key));
        if kind != "none" && kind != want {
            return Some(format!("{name} on a {kind}"));
        }
        plan.kinds.insert(key.clone(), want);
        let (Change::Add { field, by: number } | Change::Max { field, to: number }) = &op.change
        else {
            return None;
        };
        let place = (key, field.clone());
        let Some(value) = plan
            .values
            .get(&place)
            .copied()
            .or_else(|| self.integer(&place.0, field))
        else {
            return Some(format!("{name} on a field that holds no integer"));
        };
        let number = i128::from(*number);
        let value = if name == "add" {
            value + number
        } else {
            value.max(number)
        };
        // Redis counts in 64 bits and refuses beyond them; the script stops well before, where Lua still writes whole numbers.
        if value.abs() > 9_000_000_000_000_000_000 || number.abs() > 9_000_000_000_000_000_000 {
            return Some(format!("{name} overflows"));
        }
        plan.values.insert(place, value);
        None
    }

    /// 0 for a field that is not there; `None` for one that holds no integer as Redis writes it.
    fn integer(&self, key: &str, field: &str) -> Option<i128> {
        let Some(text) = self.field(key, field) else {
            return Some(0);
        };
        text.parse::<i128>().ok().filter(|n| n.to_string() == text)
    }

    fn field(&self, key: &str, field: &str) -> Option<String> {
        let (_, value) = self
            .rows
            .get(key)?
            .fields
            .iter()
            .find(|(name, _)| name == field)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    fn write(&mut self, handled: &CommitEvent, now: u64, outbox: &str) {
        let mark = &handled.mark;
        let outbox = if handled.outbox.is_empty() {
            ""
        } else {
            outbox
        };
        for op in &handled.ops {
            self.apply(op, &mark.key);
        }
        let seen = Seen {
            dead: handled.purpose == Purpose::DeadLetter,
            payload: handled.payload_hash,
            redrive: mark.redrive,
            outbox: outbox.to_owned(),
            sequence: mark.sequence,
        };
        self.seen.insert((mark.function.clone(), mark.id), seen);
        if !handled.outbox.is_empty() {
            let frame = StoredOutputs {
                id: mark.id,
                outputs: handled.outbox.clone(),
            };
            self.outboxes
                .entry(outbox.to_owned())
                .or_insert((now as i64, Vec::new()))
                .1
                .push(frame);
        }
    }

    fn apply(&mut self, op: &Op, key: &str) {
        let key = Keys::default().row(op.table, key);
        match &op.change {
            Change::Add { field, by } => {
                let old = self
                    .field(&key, field)
                    .and_then(|old| old.parse().ok())
                    .unwrap_or(0i64);
                self.set_field(&key, field, old + by);
            }
            Change::Max { field, to } => {
                let old: Option<i64> = self.field(&key, field).and_then(|old| old.parse().ok());
                if old.is_none_or(|old| old < *to) {
                    self.set_field(&key, field, *to);
                }
            }
            Change::SetAdd { member } => {
                if let Blind::Set(set) = self
                    .blind
                    .entry(key)
                    .or_insert_with(|| Blind::Set(BTreeSet::new()))
                {
                    set.insert(member.clone());
                }
            }
            Change::TopN {
                member,
                score,
                limit,
            } => {
                if let Blind::Top(top) = self
                    .blind
                    .entry(key)
                    .or_insert_with(|| Blind::Top(BTreeMap::new()))
                {
                    top.insert(member.clone(), *score);
                    while top.len() > *limit as usize {
                        let lowest = top
                            .iter()
                            .min_by_key(|(m, s)| (**s, (*m).clone()))
                            .map(|(m, _)| m.clone());
                        lowest.map(|m| top.remove(&m));
                    }
                }
            }
            Change::Distinct { member } => {
                if let Blind::Distinct(set) = self
                    .blind
                    .entry(key)
                    .or_insert_with(|| Blind::Distinct(BTreeSet::new()))
                {
                    set.insert(member.clone());
                }
            }
        }
    }

    fn set_field(&mut self, key: &str, field: &str, value: i64) {
        let now = self.now();
        let row = self.rows.entry(key.to_owned()).or_default();
        row.version = (now * 1000).max(row.version + 1);
        row.fields.retain(|(name, _)| name != field);
        row.fields
            .push((field.to_owned(), value.to_string().into_bytes()));
        row.fields.sort();
    }
}
