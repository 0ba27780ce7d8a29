//! What a handler has besides its event and its row.

use parking_lot::Mutex;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use pbjson_types::Timestamp;

use crate::error::{Error, Result, reject};
use oncue_core::bus::Bus;
use oncue_core::bus::objects::Object;
use oncue_core::store::{Change, Op};
use oncue_proto::event::{self, Meta};

/// The event's surroundings, files, and changes that need no row.
///
/// The blind operations work on the event's own key in another table than the function's row. They commute, so any
/// number of events may change one key at once without conflict; they are applied with the event or not at all.
pub struct Context {
    meta: Arc<Meta>,
    key: Arc<str>,
    function: &'static str,
    table: &'static str,
    attempt: u32,
    bus: Option<Bus>,
    dry: bool,
    ops: Mutex<Vec<Op>>,
}

impl Context {
    pub(crate) fn new(
        meta: Arc<Meta>,
        key: Arc<str>,
        function: &'static str,
        table: &'static str,
        attempt: u32,
        bus: Option<Bus>,
    ) -> Self {
        Self {
            meta,
            key,
            function,
            table,
            attempt,
            bus,
            dry: false,
            ops: Mutex::default(),
        }
    }

    /// The same for a run whose result is only shown.
    pub(crate) fn dry(self) -> Self {
        Self { dry: true, ..self }
    }

    /// Whether an operator only wants to see what the function would do (`oncue dlq redrive --dry-run`): state, outputs
    /// and files stay as they are, but calls to the outside are the handler's own and it must not make them now.
    pub fn is_dry_run(&self) -> bool {
        self.dry
    }

    /// Id of the event: the same for every attempt and every copy.
    pub fn id(&self) -> &str {
        &self.meta.id
    }

    /// What the function is keyed by.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Id of the root event of the flow.
    pub fn flow(&self) -> &str {
        &self.meta.flow
    }

    /// Type, source, cause and the rest.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// When the event happened: the same for every attempt, unlike the clock.
    pub fn time(&self) -> Timestamp {
        let ms = self.meta.time as i64;
        Timestamp {
            seconds: ms / 1000,
            nanos: (ms % 1000) as i32 * 1_000_000,
        }
    }

    /// 1 for the first delivery. A retry after a crash counts as well.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// For calls to the outside world, which can only be made at least once: a key that stays the same however often
    /// this function is run on this event. `step` tells several calls apart.
    pub fn idempotency_key(&self, step: &str) -> String {
        event::idempotency_key(&self.meta.id, self.function, step)
    }

    /// Adds to an integer field of the key's row in `table`.
    pub fn add(&self, table: &'static str, field: &str, by: i64) -> Result<()> {
        self.change(
            table,
            Change::Add {
                field: field.to_owned(),
                by,
            },
        )
    }

    /// Raises an integer field of the key's row in `table`, or leaves it.
    pub fn max(&self, table: &'static str, field: &str, to: i64) -> Result<()> {
        self.change(
            table,
            Change::Max {
                field: field.to_owned(),
                to,
            },
        )
    }

    /// Adds a member to the key's set in `table`.
    pub fn set_add(&self, table: &'static str, member: &str) -> Result<()> {
        self.change(
            table,
            Change::SetAdd {
                member: member.to_owned(),
            },
        )
    }

    /// Gives a member a score in the key's ranking in `table`, which keeps the `limit` highest.
    pub fn top_n(&self, table: &'static str, member: &str, score: i64, limit: u32) -> Result<()> {
        self.change(
            table,
            Change::TopN {
                member: member.to_owned(),
                score,
                limit: limit.max(1),
            },
        )
    }

    /// Counts a member in the key's approximate count of distinct members in `table` (HyperLogLog, 0.81 % error).
    pub fn distinct(&self, table: &'static str, member: &str) -> Result<()> {
        self.change(
            table,
            Change::Distinct {
                member: member.to_owned(),
            },
        )
    }

    /// A blind change of the very row the handler holds would be lost under it.
    fn change(&self, table: &'static str, change: Change) -> Result<()> {
        if table.is_empty() || table == self.table {
            return Err(reject(format!(
                "{change:?} changes the row table {table:?} behind the handler's back; change the row itself"
            )));
        }
        self.ops.lock().push(Op { table, change });
        Ok(())
    }

    pub(crate) fn take_ops(&self) -> Vec<Op> {
        std::mem::take(&mut self.ops.lock())
    }

    /// The files of the app. Not part of the commit: give objects names that a second run gives again.
    pub fn files(&self) -> Files<'_> {
        Files {
            bus: self.bus.as_ref(),
            dry: self.dry,
        }
    }
}

/// Stored files, by object name.
pub struct Files<'c> {
    bus: Option<&'c Bus>,
    dry: bool,
}

impl Files<'_> {
    fn bus(&self) -> Result<&Bus> {
        self.bus
            .ok_or_else(|| Error::retry("this context has no files"))
    }

    /// Size, digest and metadata; `None` when there is no such file (any more).
    pub async fn stat(&self, name: &str) -> Result<Option<Object>> {
        Ok(self.bus()?.object(name).await?)
    }

    /// The bytes as a stream; a few hundred KiB of memory whatever the size. Fails at the end if the digest is wrong.
    pub async fn open(
        &self,
        name: &str,
    ) -> Result<Option<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>>> {
        let bus = self.bus()?;
        let object = bus.object(name).await?;
        Ok(object.map(|object| bus.read_object(&object, 0..object.size)))
    }

    /// The bytes whole; more than `limit` of them is an error.
    pub async fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(object) = self.stat(name).await? else {
            return Ok(None);
        };
        if object.size > limit {
            return Err(reject(format!(
                "file {name} has {} bytes, more than the {limit} allowed",
                object.size
            )));
        }
        let mut bytes = Vec::with_capacity(object.size as usize);
        let mut parts = std::pin::pin!(self.bus()?.read_object(&object, 0..object.size));
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part?);
        }
        Ok(Some(bytes))
    }

    /// Stores `bytes` under `name`, replacing what is there.
    pub async fn put(
        &self,
        name: &str,
        metadata: &[(&str, &str)],
        bytes: impl Into<Bytes>,
    ) -> Result<Object> {
        let bytes: Bytes = bytes.into();
        if self.dry {
            return Ok(Object::of_bytes(name, metadata, &bytes));
        }
        let limit = bytes.len() as u64;
        Ok(self
            .bus()?
            .put_object(name, metadata, futures::stream::iter([Ok(bytes)]), limit)
            .await?)
    }

    /// Deletes; a file that is not there is deleted already.
    pub async fn delete(&self, name: &str) -> Result<()> {
        if self.dry {
            return Ok(());
        }
        Ok(self.bus()?.delete_object(name).await?)
    }
}
