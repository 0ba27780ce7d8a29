//! What is said to Redis and what it answers, in the order `commit.lua` documents.

use std::borrow::Cow;

use bytes::Bytes;
use redis::{Pipeline, Value};

use crate::store::mark::OutboxName;
use crate::store::{
    Change, CommitEvent, Entry, Expected, Mark, Op, Purpose, Row, Run, SKEW_MS, Status, StoreError,
    StoredOutputs, row_key,
};
use oncue_proto::event;

/// How long outputs wait for their commit, which is right behind them: seconds.
const UNCOMMITTED_S: u64 = 60;

/// One call of `commit.lua`, in the order it documents, after the outputs of all its runs. `outbox` is the name of what
/// they will be found under.
pub(super) fn commit_call(
    function: &str,
    keys: [String; 3],
    record: &str,
    runs: &[Run],
    outbox: OutboxName,
) -> Pipeline {
    let groups: Vec<Vec<&[CommitEvent]>> = runs.iter().map(|run| groups(&run.events)).collect();
    let outputs = frames(runs.iter().flat_map(|run| &run.events));
    let mut call = redis::pipe();
    if !outputs.is_empty() {
        // Beforehand and not through the script, which would copy it: nothing finds it until the commit has named it.
        call.cmd("SET")
            .arg(&keys[1])
            .arg(&outputs)
            .arg("EX")
            .arg(UNCOMMITTED_S)
            .ignore();
    }
    let keys: Vec<String> = keys.into_iter().chain(keys_of(runs, &groups)).collect();
    call.cmd("FCALL").arg(function).arg(keys.len()).arg(keys);
    let horizon = runs
        .iter()
        .flat_map(|run| &run.events)
        .map(|e| e.mark.horizon)
        .max()
        .unwrap_or_default();
    call.arg(horizon)
        .arg(SKEW_MS)
        .arg(record)
        .arg(outputs.len())
        .arg(runs.len());
    let now = event::now_ms();
    for (run, groups) in runs.iter().zip(&groups) {
        push_run(run, groups.len(), &mut call);
        for group in groups {
            push_group(group, now, outbox, &mut call);
        }
        for (n, event) in run.events.iter().enumerate() {
            for op in &event.ops {
                push_op(n + 1, op, &mut call);
            }
        }
        for handled in &run.events {
            if let Some(entry) = &handled.entry {
                push_entry(handled, entry, &mut call);
            }
        }
    }
    call
}

/// Neighbours whose marks stand in one bucket.
fn groups(events: &[CommitEvent]) -> Vec<&[CommitEvent]> {
    events
        .chunk_by(|a, b| a.mark.shares_bucket(&b.mark) && a.purpose == b.purpose)
        .collect()
}

fn keys_of<'r>(
    runs: &'r [Run],
    groups: &'r [Vec<&'r [CommitEvent]>],
) -> impl Iterator<Item = String> + 'r {
    runs.iter().zip(groups).flat_map(|(run, groups)| {
        let row = run
            .row
            .iter()
            .map(|row| row_key(row.key.table, &row.key.key));
        let seen = groups.iter().flat_map(|group| group[0].mark.seen_keys());
        let ops = run
            .events
            .iter()
            .flat_map(|e| e.ops.iter().map(|op| row_key(op.table, &e.mark.key)));
        let flows = run
            .events
            .iter()
            .filter_map(|e| Some(e.entry.as_ref()?.flow.clone()));
        row.chain(seen).chain(ops).chain(flows)
    })
}

/// The head of a run and its row.
fn push_run(run: &Run, groups: usize, call: &mut Pipeline) {
    let count = |n: usize| (n as u32).to_le_bytes();
    let (set, del) = run
        .row
        .as_ref()
        .map_or((0, 0), |row| (row.set.len(), row.del.len()));
    let (version, known) = match run.row.as_ref().map(|row| &row.basis) {
        None => (-1.0, None),
        Some(Expected::Version(version)) => (*version as f64, None),
        Some(Expected::Fields(fields)) => (0.0, Some(fields)),
    };
    let ops = run.events.iter().map(|e| e.ops.len()).sum();
    let entries = run.events.iter().filter(|e| e.entry.is_some()).count();
    let outbox = run.events.iter().map(frame_len).sum();
    let mut head = Vec::with_capacity(36);
    head.extend(f64::to_le_bytes(version));
    for number in [
        known.map_or(0, |fields| 1 + fields.len()),
        set,
        del,
        outbox,
        groups,
        ops,
        entries,
    ] {
        head.extend(count(number));
    }
    call.arg(head);
    let Some(row) = &run.row else { return };
    for (field, _) in known.into_iter().flatten() {
        call.arg(stored(field).as_bytes());
    }
    for (_, value) in known.into_iter().flatten() {
        call.arg(&value[..]);
    }
    for (field, value) in &row.set {
        call.arg(stored(field).as_bytes()).arg(&value[..]);
    }
    call.arg("_v").arg(""); // the script puts it in
    for field in &row.del {
        call.arg(stored(field).as_bytes());
    }
}

fn push_group(group: &[CommitEvent], now: u64, outbox: OutboxName, call: &mut Pipeline) {
    let mark: &Mark = &group[0].mark;
    let fences = || group.iter().map(|handled| handled.mark.fence);
    let expiry = group
        .iter()
        .map(|handled| handled.mark.expiry(now))
        .max()
        .unwrap_or_default();
    let (oldest, newest) = (
        fences().min().unwrap_or_default(),
        fences().max().unwrap_or_default(),
    );
    let mut head = Vec::with_capacity(38);
    head.push(kind(group[0].purpose));
    head.extend((group.len() as u32).to_le_bytes());
    head.extend(mark.redrive.to_le_bytes());
    head.push(if mark.timed { 1 } else { 3 });
    for number in [expiry, oldest, newest] {
        head.extend((number as f64).to_le_bytes());
    }
    call.arg(head);
    for handled in group {
        call.arg(&handled.mark.id[..])
            .arg(mark_text(handled, outbox));
    }
}

fn kind(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::Apply => b'a',
        Purpose::Bury => b'd',
        Purpose::Recall => b'q',
    }
}

/// What the seen-mark will say: kind, payload hash, where the event stands in its stream, then the number of the redrive a
/// dead letter spent, or where the outputs are.
fn mark_text(handled: &CommitEvent, outbox: OutboxName) -> Vec<u8> {
    let mut text = Vec::with_capacity(24);
    text.push(kind(handled.purpose));
    text.extend(handled.payload_hash.to_be_bytes());
    text.extend(&handled.mark.sequence.to_be_bytes()[2..]); // what no server has counted to yet
    match handled.purpose {
        Purpose::Bury if handled.mark.redrive > 0 => {
            text.extend(itoa::Buffer::new().format(handled.mark.redrive).as_bytes());
        }
        Purpose::Apply if !handled.outbox.is_empty() => text.extend(outbox.bytes()),
        _ => {}
    }
    text
}

fn push_op(number: usize, op: &Op, call: &mut Pipeline) {
    let mut put = |name: &str, member: &str, value: i64, limit: u32| {
        call.arg(number).arg(name).arg(member).arg(value).arg(limit);
    };
    match &op.change {
        Change::Add { field, by } => put("add", &stored(field), *by, 0),
        Change::Max { field, to } => put("max", &stored(field), *to, 0),
        Change::SetAdd { member } => put("sadd", member, 0, 0),
        Change::TopN {
            member,
            score,
            limit,
        } => put("top", member, *score, *limit),
        Change::Distinct { member } => put("distinct", member, 0, 0),
    }
}

fn push_entry(handled: &CommitEvent, entry: &Entry, call: &mut Pipeline) {
    let state = if handled.purpose == Purpose::Bury {
        "x"
    } else {
        "d"
    };
    call.arg(state)
        .arg(handled.mark.function)
        .arg(entry.keep.as_secs().max(1));
    call.arg(&entry.id)
        .arg(&entry.ty)
        .arg(&entry.content)
        .arg(entry.follows.len());
    for (id, ty, content) in &entry.follows {
        call.arg(id).arg(ty).arg(content);
    }
}

/// The outputs of events as they stand in an outbox: for each event that has some, its id, their length and themselves.
fn frames<'e>(events: impl Iterator<Item = &'e CommitEvent> + Clone) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(events.clone().map(frame_len).sum());
    for handled in events.filter(|handled| !handled.outbox.is_empty()) {
        push_frame(&handled.mark.id, &handled.outbox, &mut bytes);
    }
    bytes
}

fn frame_len(handled: &CommitEvent) -> usize {
    if handled.outbox.is_empty() {
        0
    } else {
        20 + handled.outbox.len()
    }
}

pub(super) fn push_frame(id: &[u8; 16], outputs: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend(id);
    bytes.extend((outputs.len() as u32).to_be_bytes());
    bytes.extend(outputs);
}

/// Reads frames back; what is torn at the end is no frame.
pub(super) fn read_frames(mut bytes: Bytes) -> Vec<StoredOutputs> {
    let mut frames = Vec::new();
    while bytes.len() >= 20 {
        let head = bytes.split_to(20);
        let id = head[..16].try_into().unwrap_or_default();
        let len = u32::from_be_bytes(head[16..].try_into().unwrap_or_default()) as usize;
        if len > bytes.len() {
            break;
        }
        frames.push(StoredOutputs {
            id,
            outputs: bytes.split_to(len),
        });
    }
    frames
}

/// Statuses of one run.
pub(super) fn statuses(reply: Value, run: &Run) -> Vec<(Status, Bytes)> {
    let Value::Array(parts) = reply else {
        return run
            .events
            .iter()
            .map(|_| (Status::Applied, Bytes::new()))
            .collect();
    };
    let parts: Vec<Bytes> = parts
        .into_iter()
        .filter_map(|part| redis::from_redis_value(part).ok())
        .collect();
    run.events
        .iter()
        .zip(parts.chunks_exact(2))
        .map(|(e, said)| (status(&said[0], &said[1], e), said[1].clone()))
        .collect()
}

fn status(said: &[u8], detail: &Bytes, handled: &CommitEvent) -> Status {
    match said {
        b"duplicate" => Status::Duplicate(None),
        b"dead" => Status::Dead,
        b"conflict" => Status::Conflict,
        b"id_reuse" => Status::IdReuse,
        // Somebody in the group is too old or too new; Redis says by its clock who.
        b"fence" => {
            let now = std::str::from_utf8(detail)
                .ok()
                .and_then(|now| now.parse::<u64>().ok())
                .unwrap_or_default();
            let Mark { fence, horizon, .. } = handled.mark;
            match () {
                () if now > fence + horizon => Status::TooOld,
                () if fence > now + SKEW_MS => Status::Clock,
                () => Status::Conflict,
            }
        }
        _ => Status::Invalid(String::from_utf8_lossy(detail).into_owned()),
    }
}

pub(super) fn row(value: Value) -> Result<Row, StoreError> {
    let pairs: Vec<(String, Vec<u8>)> = redis::from_redis_value(value)
        .map_err(|e| StoreError::refused(format!("Redis: not a row: {e}")))?;
    let mut row = Row::default();
    for (field, value) in pairs {
        if field == "_v" {
            row.version = std::str::from_utf8(&value)
                .ok()
                .and_then(|v| v.parse().ok())
                .unwrap_or_default();
        } else {
            row.fields.push((named(field), value));
        }
    }
    row.fields.sort();
    Ok(row)
}

/// `_v` is where the version stands: a field that an author, or data that became a name, calls so gets one more `_`.
pub(super) fn stored(field: &str) -> Cow<'_, str> {
    if is_version_like(field) {
        Cow::Owned(format!("_{field}"))
    } else {
        Cow::Borrowed(field)
    }
}

fn named(stored: String) -> String {
    if is_version_like(&stored) {
        stored[1..].to_owned()
    } else {
        stored
    }
}

fn is_version_like(field: &str) -> bool {
    field
        .strip_suffix('v')
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b == b'_'))
}
