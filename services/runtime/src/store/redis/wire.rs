//! What is said to Redis and what it answers, in the order `commit.lua` documents.

use std::borrow::Cow;

use bytes::Bytes;
use redis::Value;

use crate::store::{Change, Handled, Mark, Op, Purpose, Row, Status, StoreError, row_key};

/// Arguments of one call, as bytes.
#[derive(Default)]
pub(super) struct Args(pub Vec<Vec<u8>>);

impl Args {
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.push(bytes.as_ref().to_vec());
        self
    }

    pub fn number(&mut self, number: u64) -> &mut Self {
        self.bytes(itoa::Buffer::new().format(number))
    }
}

pub(super) fn push_event(handled: &Handled, now: u64, keys: &mut Vec<String>, args: &mut Args) {
    let mark: &Mark = &handled.mark;
    let seen = mark.seen_keys();
    let purpose = match handled.purpose {
        Purpose::Apply => "a",
        Purpose::Bury => "d",
        Purpose::Recall => "q",
    };
    args.bytes(purpose).bytes(mark.id).number(mark.fence).number(mark.redrive.into());
    args.bytes(handled.payload_hash.to_be_bytes()).number(seen.len() as u64);
    args.number(mark.expiry(now)).number(handled.ops.len() as u64);
    keys.extend(seen);
    for op in &handled.ops {
        push_op(op, args);
        keys.push(row_key(op.table, &mark.key));
    }
    args.bytes(&handled.outbox);
    keys.push(mark.outbox_key());
    keys.push(mark.unpublished_key());
}

fn push_op(op: &Op, args: &mut Args) {
    let mut put = |name: &str, member: &str, number: i64, limit: u32| {
        args.bytes(name).bytes(member).bytes(itoa::Buffer::new().format(number)).number(limit.into());
    };
    match &op.change {
        Change::Add { field, by } => put("add", &stored(field), *by, 0),
        Change::Max { field, to } => put("max", &stored(field), *to, 0),
        Change::SetAdd { member } => put("sadd", member, 0, 0),
        Change::TopN { member, score, limit } => put("top", member, *score, *limit),
        Change::Distinct { member } => put("distinct", member, 0, 0),
    }
}

pub(super) fn status(reply: &[Bytes]) -> Status {
    let detail = &reply[1];
    match &reply[0][..] {
        b"applied" => Status::Applied,
        b"duplicate" => Status::Duplicate(Some(detail.clone()).filter(|outbox| !outbox.is_empty())),
        b"dead" => Status::Dead,
        b"conflict" => Status::Conflict,
        b"too_old" => Status::TooOld,
        b"clock" => Status::Clock,
        b"id_reuse" => Status::IdReuse,
        _ => Status::Invalid(String::from_utf8_lossy(detail).into_owned()),
    }
}

pub(super) fn row(value: Value) -> Result<Row, StoreError> {
    let pairs: Vec<(String, Vec<u8>)> =
        redis::from_redis_value(value).map_err(|e| StoreError::refused(format!("Redis: not a row: {e}")))?;
    let mut row = Row::default();
    for (field, value) in pairs {
        if field == "_v" {
            row.version = std::str::from_utf8(&value).ok().and_then(|v| v.parse().ok()).unwrap_or_default();
        } else {
            row.fields.push((named(field), value));
        }
    }
    row.fields.sort();
    Ok(row)
}

/// `_v` is where the version stands: a field that an author, or data that became a name, calls so gets one more `_`.
pub(super) fn stored(field: &str) -> Cow<'_, str> {
    if is_version_like(field) { Cow::Owned(format!("_{field}")) } else { Cow::Borrowed(field) }
}

fn named(stored: String) -> String {
    if is_version_like(&stored) { stored[1..].to_owned() } else { stored }
}

fn is_version_like(field: &str) -> bool {
    field.strip_suffix('v').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b == b'_'))
}
