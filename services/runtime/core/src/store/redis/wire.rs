//! Arguments and replies of `commit.lua`, in the order it documents.
//!
//! Numbers are packed into heads, little-endian, as the formats `RUN` and `GROUP` of the script unpack them: each
//! argument costs, and their passing is most of a commit's time.

use std::borrow::Cow;

use bytes::Bytes;
use redis::{Cmd, Pipeline, Value};

use crate::store::mark::{OutboxName, SeenMark};
use crate::store::{
    Change, CommitEvent, Entry, Expected, GRACE_MS, Keys, Mark, MarkState, Op, Purpose, Row,
    RowChange, Run, SKEW_MS, Status, StoreError, StoredOutputs,
};

/// Seconds that outputs wait for their commit, which is right behind them.
const UNCOMMITTED_S: u64 = 60;

/// Milliseconds of age that events of one group have in common: an event that is too old brings its neighbours back, so
/// an old one must not hold up the fresh.
const FENCED_TOGETHER_MS: u64 = 120_000;

/// Bytes in front of the outputs of one event in an outbox: hash of its id, and their length.
const FRAME_HEAD: usize = 16 + 4;

/// One call of `commit.lua`, behind the outputs of all its runs.
///
/// `function` is the script's name in Redis; `keys` are the worker's record, the outbox, its index and the marks; `record` is the
/// number of the commit; `outbox` is the name that marks will point to.
pub(super) fn commit_call(
    function: &str,
    names: &Keys,
    keys: [String; 4],
    record: &str,
    runs: &[Run],
    outbox: OutboxName,
) -> Pipeline {
    let groups: Vec<Vec<&[CommitEvent]>> = runs.iter().map(|run| groups(&run.events)).collect();
    // One buffer for the outputs of all runs: an outbox is one Redis string.
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
    let keys: Vec<String> = keys.into_iter().chain(keys_of(names, runs)).collect();
    call.cmd("FCALL").arg(function).arg(keys.len()).arg(keys);
    // One function, one stream, one horizon; the widest where that is changed under way.
    let horizon = runs
        .iter()
        .flat_map(|run| &run.events)
        .map(|e| e.mark.horizon)
        .max()
        .unwrap_or_default();
    // Head of the call: horizon, skew, record, bytes of outputs, number of runs.
    call.arg(horizon)
        .arg(SKEW_MS)
        .arg(record)
        .arg(outputs.len())
        .arg(runs.len());
    for (run, groups) in runs.iter().zip(&groups) {
        // For each run its head, which says how many of everything come behind it.
        push_head(run, groups.len(), &mut call);
        if let Some(row) = &run.row {
            push_row(row, &mut call);
        }
        for group in groups {
            push_group(group, outbox, &mut call);
        }
        for (n, event) in run.events.iter().enumerate() {
            for op in &event.ops {
                push_op(n + 1, op, &mut call);
            }
        }
        // Behind the operations, as the script reads them.
        for handled in &run.events {
            if let Some(entry) = &handled.entry {
                push_entry(handled, entry, &mut call);
            }
        }
    }
    call
}

/// Neighbours that are committed for one purpose and one redrive, and that are about of an age.
fn groups(events: &[CommitEvent]) -> Vec<&[CommitEvent]> {
    fn common(event: &CommitEvent) -> (u32, u64) {
        let mark = &event.mark;
        (mark.redrive, mark.fence / FENCED_TOGETHER_MS)
    }
    events
        .chunk_by(|a, b| a.purpose == b.purpose && common(a) == common(b))
        .collect()
}

/// Keys of a call behind the first four: for each run its row, one for each operation and each entry.
/// In the order in which the script reads them, that of the arguments.
fn keys_of(names: &Keys, runs: &[Run]) -> impl Iterator<Item = String> {
    runs.iter().flat_map(move |run| {
        let row = run
            .row
            .iter()
            .map(|row| names.row(row.key.table, &row.key.key));
        let ops = run
            .events
            .iter()
            .flat_map(move |e| e.ops.iter().map(|op| names.row(op.table, &e.mark.key)));
        let flows = run
            .events
            .iter()
            .filter_map(|e| Some(names.flow(&e.entry.as_ref()?.flow)));
        row.chain(ops).chain(flows)
    })
}

/// Head of a run, 36 bytes: version (`f64`; -1 = no row), then seven counts (`u32`): known fields and one (0 = the
/// version tells whether the row is fresh), fields to set, fields to delete, bytes in the outbox, groups, operations,
/// entries.
fn push_head(run: &Run, groups: usize, call: &mut Pipeline) {
    let row = run.row.as_ref();
    let basis = row.map(|row| &row.basis);
    let version = match basis {
        None => -1.0,
        Some(Expected::Version(version)) => *version as f64,
        Some(Expected::Fields(_)) => 0.0,
    };
    let known = match basis {
        Some(Expected::Fields(fields)) => 1 + fields.len(),
        _ => 0,
    };
    let mut head = Vec::with_capacity(36);
    head.extend(f64::to_le_bytes(version));
    for count in [
        known,
        row.map_or(0, |row| row.set.len()),
        row.map_or(0, |row| row.del.len()),
        run.events.iter().map(frame_len).sum(),
        groups,
        run.events.iter().map(|e| e.ops.len()).sum(),
        run.events.iter().filter(|e| e.entry.is_some()).count(),
    ] {
        head.extend((count as u32).to_le_bytes());
    }
    call.arg(head);
}

/// Fields of a row: known names, known values, fields to set, room for the version, fields to delete.
fn push_row(row: &RowChange, call: &mut Pipeline) {
    if let Expected::Fields(known) = &row.basis {
        for (field, _) in known {
            call.arg(stored(field).as_bytes());
        }
        for (_, value) in known {
            call.arg(&value[..]);
        }
    }
    for (field, value) in &row.set {
        call.arg(stored(field).as_bytes()).arg(&value[..]);
    }
    // Its value the script puts in: by its own clock, and above the one that is there.
    call.arg("_v").arg("");
    for field in &row.del {
        call.arg(stored(field).as_bytes());
    }
}

/// Group of events: its head, 33 bytes, then the entry of each: short id, length of the mark (`u8`), the mark. The head
/// holds kind (`u8`), number of events (`u32`), number of the redrive (`u32`), then as `f64` the seconds that the marks must
/// live and the earliest and the latest time that the age fence measures (Unix ms). The script stops a group as a whole;
/// [`fenced`] tells its events apart afterwards.
fn push_group(group: &[CommitEvent], outbox: OutboxName, call: &mut Pipeline) {
    let first = &group[0];
    let marks = group.iter().map(|handled| &handled.mark);
    let keep = marks.clone().map(|mark| mark.horizon + GRACE_MS).max();
    let oldest = marks.clone().map(|mark| mark.fence).min();
    let newest = marks.map(|mark| mark.fence).max();
    let mut head = Vec::with_capacity(33);
    head.push(kind(first.purpose));
    head.extend((group.len() as u32).to_le_bytes());
    head.extend(first.mark.redrive.to_le_bytes());
    for number in [keep.map(|ms| ms.div_ceil(1000)), oldest, newest] {
        head.extend((number.unwrap_or_default() as f64).to_le_bytes());
    }
    call.arg(head);
    for handled in group {
        let mut entry = Vec::with_capacity(26);
        entry.extend(handled.mark.short_id());
        // The length goes in front of what it is the length of, which is known behind it.
        let length = entry.len();
        entry.push(0);
        seen_mark(handled, outbox).encode_into(&mut entry);
        entry[length] = (entry.len() - length - 1) as u8;
        call.arg(entry);
    }
}

/// Kind of a group, as the script knows it.
fn kind(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::Apply => b'a',
        Purpose::DeadLetter => b'd',
        Purpose::Recall => b'q',
    }
}

/// Mark that the event leaves if it is committed, which one that is only recalled never is.
fn seen_mark(handled: &CommitEvent, outbox: OutboxName) -> SeenMark {
    let is_dead = handled.purpose == Purpose::DeadLetter;
    let has_outputs = handled.purpose == Purpose::Apply && !handled.outbox.is_empty();
    SeenMark {
        state: if is_dead {
            MarkState::Dead
        } else {
            MarkState::Applied
        },
        payload_hash: handled.payload_hash & 0xff_ffff,
        sequence: handled.mark.sequence,
        redrive: if is_dead { handled.mark.redrive } else { 0 },
        outbox: has_outputs.then(|| outbox.tag()),
    }
}

/// Operation of the `number`th event of its run, counted from 1: name, field or member, number, limit. Five arguments
/// for each, used or not, so that the script need not know a name to find the next operation.
fn push_op(number: usize, op: &Op, call: &mut Pipeline) {
    call.arg(number);
    match &op.change {
        Change::Add { field, by } => call.arg("add").arg(&*stored(field)).arg(*by).arg(0),
        Change::Max { field, to } => call.arg("max").arg(&*stored(field)).arg(*to).arg(0),
        Change::SetAdd { member } => call.arg("sadd").arg(member).arg(0).arg(0),
        Change::TopN {
            member,
            score,
            limit,
        } => call.arg("top").arg(member).arg(*score).arg(*limit),
        Change::Distinct { member } => call.arg("distinct").arg(member).arg(0).arg(0),
    };
}

/// Entry in the ledger of a flow: state (`d` done, `x` dead; `D`, `X` for an event of this function alone), function, keep (s), the event as id, type and content,
/// then the number of events that follow, and each of them.
fn push_entry(handled: &CommitEvent, entry: &Entry, call: &mut Pipeline) {
    let state = match (handled.purpose == Purpose::DeadLetter, entry.is_own) {
        (false, false) => "d",
        (true, false) => "x",
        (false, true) => "D",
        (true, true) => "X",
    };
    call.arg(state)
        .arg(&*handled.mark.function)
        .arg(entry.keep.as_secs().max(1));
    call.arg(&entry.id)
        .arg(&entry.ty)
        .arg(&entry.content)
        .arg(entry.follows.len());
    for (id, ty, content) in &entry.follows {
        call.arg(id).arg(ty).arg(content);
    }
}

/// Outputs of events as they stand in an outbox: for each event that has some, a frame. In the order of the events,
/// since the script keeps of an outbox the stretches of runs that were applied.
fn frames<'e>(events: impl Iterator<Item = &'e CommitEvent> + Clone) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(events.clone().map(frame_len).sum());
    for handled in events.filter(|handled| !handled.outbox.is_empty()) {
        push_frame(&handled.mark.id, &handled.outbox, &mut bytes);
    }
    bytes
}

/// Bytes of an event's frame, 0 for one without outputs.
fn frame_len(handled: &CommitEvent) -> usize {
    if handled.outbox.is_empty() {
        0
    } else {
        FRAME_HEAD + handled.outbox.len()
    }
}

/// Frame of one event: hash of its id (16 bytes), length of its outputs (`u32`, big-endian), the outputs.
pub(super) fn push_frame(id: &[u8; 16], outputs: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend(id);
    bytes.extend((outputs.len() as u32).to_be_bytes());
    bytes.extend(outputs);
}

/// Frames of an outbox in their order; a torn one at the end is left out. The outputs share the buffer, so nothing is
/// copied.
pub(super) fn read_frames(mut bytes: Bytes) -> Vec<StoredOutputs> {
    let mut frames = Vec::new();
    while bytes.len() >= FRAME_HEAD {
        let head = bytes.split_to(FRAME_HEAD);
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

/// Call that looks up the marks of events, in order: one reply for each, a mark or nil. Neighbours of one function
/// share its key.
pub(super) fn marks_call(function: &str, keys: &Keys, marks: &[&Mark]) -> Cmd {
    let groups: Vec<&[&Mark]> = marks.chunk_by(|a, b| a.function == b.function).collect();
    let mut call = redis::cmd("FCALL_RO");
    call.arg(function).arg(groups.len());
    for group in &groups {
        call.arg(keys.marks(&group[0].function));
    }
    for group in &groups {
        call.arg(group.len());
        for mark in *group {
            call.arg(mark.short_id());
        }
    }
    call
}

/// Reply of the script to one event.
pub(super) struct EventReply {
    /// Status of the event; a duplicate does not have its outputs yet.
    pub status: Status,
    /// Detail as it came: of a duplicate its mark.
    pub detail: Bytes,
}

/// Replies to the events of one run, in order. One that was applied answers with a number for all of them.
pub(super) fn event_replies(reply: Value, run: &Run) -> Vec<EventReply> {
    // A number is the short answer of the good case, which is nearly every one.
    let Value::Array(parts) = reply else {
        let applied = run.events.iter().map(|_| EventReply {
            status: Status::Applied,
            detail: Bytes::new(),
        });
        return applied.collect();
    };
    let parts: Vec<Bytes> = parts
        .into_iter()
        .filter_map(|part| redis::from_redis_value(part).ok())
        .collect();
    let replies = run.events.iter().zip(parts.chunks_exact(2));
    replies
        .map(|(handled, parts)| EventReply {
            status: status(&parts[0], &parts[1], handled),
            detail: parts[1].clone(),
        })
        .collect()
}

/// Status of one event by the script's word and its detail. A word that is not known counts as invalid with its
/// detail, and so ends in a dead letter that a person sees.
fn status(word: &[u8], detail: &Bytes, handled: &CommitEvent) -> Status {
    match word {
        b"duplicate" => Status::Duplicate(None),
        b"dead" => Status::Dead,
        b"conflict" => Status::Conflict,
        b"id_reuse" => Status::IdReuse,
        b"fence" => {
            let now = std::str::from_utf8(detail).ok();
            let now = now.and_then(|now| now.parse().ok()).unwrap_or_default();
            fenced(&handled.mark, now)
        }
        _ => Status::Invalid(String::from_utf8_lossy(detail).into_owned()),
    }
}

/// Status of an event in a group that the age fence stopped at `now` (Unix ms, by the clock of Redis): one of its
/// neighbours may be the one that is too old or too new.
fn fenced(mark: &Mark, now: u64) -> Status {
    if now > mark.fence + mark.horizon {
        Status::TooOld
    } else if mark.fence > now + SKEW_MS {
        Status::Clock
    } else {
        Status::Conflict
    }
}

/// Row from the reply to `HGETALL`. Fields come out sorted; an empty reply is the row that does not exist yet.
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

/// Name of a field in Redis. `_v` is where the version stands: a field that an author, or data that became a name,
/// calls so gets one more `_`.
pub(super) fn stored(field: &str) -> Cow<'_, str> {
    if is_version_like(field) {
        Cow::Owned(format!("_{field}"))
    } else {
        Cow::Borrowed(field)
    }
}

/// Name of a field as its author wrote it; the inverse of [`stored`].
fn named(stored: String) -> String {
    if is_version_like(&stored) {
        stored[1..].to_owned()
    } else {
        stored
    }
}

/// Whether a name is `v` behind one `_` or more.
///
/// So that `_v`, `__v` and so on move by one, and no two names meet.
fn is_version_like(field: &str) -> bool {
    field
        .strip_suffix('v')
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b == b'_'))
}
