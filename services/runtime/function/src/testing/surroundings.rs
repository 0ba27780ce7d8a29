//! Surroundings of one run, for a test that calls a handler itself.

use std::time::Duration;

use bytes::Bytes;
use oncue_core::store::Change;
use oncue_proto::event::{Meta, Origin};

use crate::context::{Context, Declared};
use crate::files::{FileStore, FilesInMemory};

/// Surroundings of one run: a [`Context`] with attempt, time and files of the test's choice.
///
/// ```
/// # use std::time::Duration;
/// # use oncue::{Context, Result, reject};
/// use oncue::testing::{Surroundings, operations};
///
/// async fn measure(_: (), _: &mut (), context: &Context) -> Result<()> {
///     let Some(file) = context.files().read(context.key(), 1 << 20).await? else {
///         return Err(reject("the file is gone"));
///     };
///     context.add("sizes", "bytes", file.len() as i64)
/// }
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let context = Surroundings::of("f1").attempt(2).file("f1", "hello").context();
/// measure((), &mut (), &context).await?;
/// assert_eq!(operations(&context), ["sizes/f1: add bytes 5"]);
/// # Ok::<(), oncue::error::Error>(()) }).unwrap();
/// ```
pub struct Surroundings {
    key: String,
    time: u64,
    attempt: u32,
    files: FilesInMemory,
}

impl Surroundings {
    /// Surroundings of an event with this key: its first attempt, one second after 1970 began, no files.
    pub fn of(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            time: 1000,
            attempt: 1,
            files: FilesInMemory::default(),
        }
    }

    /// Number of the attempt.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// When the event happened, counted from the beginning of 1970.
    #[must_use]
    pub fn time(mut self, since_1970: Duration) -> Self {
        self.time = since_1970.as_millis() as u64;
        self
    }

    /// A file of the app.
    #[must_use]
    pub fn file(self, name: &str, content: impl Into<Bytes>) -> Self {
        self.files.put(name, &[], content.into());
        self
    }

    /// The context itself.
    pub fn context(self) -> Context {
        let origin = Origin {
            stream: "test",
            stream_created: 1,
            sequence: 1,
            published: self.time,
            subject: "test.event.happened",
        };
        Context::new(
            Meta::of_origin(&origin).into(),
            self.key.into(),
            Declared::ALL,
            self.attempt,
            FileStore::Memory(self.files),
        )
    }
}

/// Changes that a handler has recorded in its context since this was last asked, a line each: `TABLE/KEY: add FIELD 5`.
pub fn operations(context: &Context) -> Vec<String> {
    let mut lines = Vec::new();
    for op in context.take_ops() {
        let change = match op.change {
            Change::Add { field, by } => format!("add {field} {by}"),
            Change::Max { field, to } => format!("max {field} {to}"),
            Change::SetAdd { member } => format!("set-add {member}"),
            Change::TopN {
                member,
                score,
                limit,
            } => format!("top {limit} {member} {score}"),
            Change::Distinct { member } => format!("distinct {member}"),
        };
        lines.push(format!("{}/{}: {change}", op.table, context.key()));
    }
    lines
}
