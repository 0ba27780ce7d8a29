//! A function: a name, a handler, and everything its signature says. The types of event and row end here: beyond this
//! file a function is [`Erased`], so that the worker is compiled once and not for every function.

use std::any::Any;
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;
use oncue_proto::oncue::v1::TimerFired;
use oncue_proto::{Contract, DecodeError, Draft, Emit, Event as _, Format, Trigger};

use crate::context::{Context, Declared};
use crate::error::{Error, Result};
use crate::foreign::{Foreign, ForeignCall, Keyed, Keys};
use crate::state::{self, AnyRow, RowError, State};
use oncue_core::bus::layout;
use oncue_core::config::{Limits, Span};
use oncue_core::model::manifest::{FileUse, Manifest};
use oncue_core::store::Fields;
use oncue_proto::event;

/// An async function of event, row and context. Implemented for every plain `async fn` of that shape; one lifetime for
/// both borrows is what lets the compiler infer it.
pub trait Handler<'a, E, S>: Send + Sync {
    /// Events that follow.
    type Out: Emit;
    /// Future of one run.
    type Future: Future<Output = Result<Self::Out>> + Send + 'a;

    /// Runs the handler on one event and the row of its key.
    fn call(&self, event: E, state: &'a mut S, context: &'a Context) -> Self::Future;
}

impl<'a, F, E, S, Fut, O> Handler<'a, E, S> for F
where
    F: Fn(E, &'a mut S, &'a Context) -> Fut + Send + Sync,
    Fut: Future<Output = Result<O>> + Send + 'a,
    O: Emit,
    S: 'a,
{
    type Out = O;
    type Future = Fut;

    fn call(&self, event: E, state: &'a mut S, context: &'a Context) -> Fut {
        self(event, state, context)
    }
}

/// A function: a name, a handler, and limits. Made from an async function, whose signature says the rest, and given to
/// [`run`](crate::run). `E` is the event it acts on.
///
/// ```
/// # use oncue::{Context, Function, Result};
/// # use oncue_app_events::web::PageViewed;
/// # async fn count_views(_: PageViewed, _: &mut (), _: &Context) -> Result<()> { Ok(()) }
/// let function = Function::new("count-views", count_views)
///     .version(env!("CARGO_PKG_VERSION"))
///     .concurrency(16)
///     .timeout(std::time::Duration::from_secs(5));
/// assert_eq!(function.manifest()?.triggers, ["web.page.viewed"]);
/// # Ok::<(), String>(())
/// ```
pub struct Function<E> {
    pub(crate) erased: Erased,
    event: PhantomData<fn(E)>,
}

/// Version of a function that does not say its own.
const NO_VERSION: &str = "0.0.0";

/// A decoded event, its type erased.
pub(crate) type AnyEvent = Box<dyn Any + Send + Sync>;
/// Type, encoding and payload to event.
type Decode = Box<dyn Fn(&str, Format, &[u8]) -> Result<AnyEvent, DecodeError> + Send + Sync>;
/// One run of the handler; the outputs come back as drafts, without identity yet.
type Call = Box<
    dyn for<'a> Fn(AnyEvent, &'a mut dyn AnyRow, &'a Context) -> BoxFuture<'a, Result<Vec<Draft>>>
        + Send
        + Sync,
>;

/// A function without its types.
///
/// Shared by all runs through the worker's handler. Its closures know the types and nobody else
/// does, so the worker is compiled once.
pub(crate) struct Erased {
    /// Name of function and binary, part of that of the consumer; last token of `dlq.<app>.<name>`.
    pub name: &'static str,
    /// Version of the author's crate.
    pub version: &'static str,
    /// Name of the key it gives its events; `None` for their own.
    key_name: Option<&'static str>,
    /// Table of its rows; empty for none.
    pub table: &'static str,
    /// Version of its rows.
    pub row_version: u32,
    /// Limits as the code says; those of `oncue.toml` replace them.
    pub limits: Limits,
    /// Whether a run that was begun may never be begun again.
    pub at_most_once: bool,
    /// Event types to act on.
    triggers: Vec<&'static str>,
    /// Whether it hears its own timer alone.
    pub per_function: bool,
    /// Event types that may follow.
    emits: Vec<&'static str>,
    /// Types among `emits` that may be delayed.
    delays: Vec<&'static str>,
    /// Tables of its blind operations; `None` for any.
    pub changes: Option<&'static [&'static str]>,
    files: FileUse,
    /// Contracts of both, with repetitions.
    contracts: Vec<&'static Contract>,
    /// Payload to event.
    pub decode: Decode,
    /// Key of the row that an event is about.
    pub key: Box<dyn Fn(&AnyEvent) -> String + Send + Sync>,
    /// Row from the fields in Redis.
    pub open: fn(&Fields) -> Result<Box<dyn AnyRow>, RowError>,
    /// The handler on one event and its row.
    pub call: Call,
    /// The handler on all events of a key at once, where it is in another process; `open` and `call` are of no use then.
    pub foreign: Option<ForeignCall>,
    /// Runs that its processes can have under way at a time; those of one in this process are not bounded here.
    pub side_by_side: usize,
}

impl<E: Trigger> Function<E> {
    /// A function called `name` (also the name of its binary and of its consumer: renaming it starts it anew).
    pub fn new<S, O, H>(name: &'static str, handler: H) -> Self
    where
        S: State,
        O: Emit,
        H: for<'a> Handler<'a, E, S, Out = O> + Clone + 'static,
    {
        let erased = Erased {
            name,
            version: NO_VERSION,
            key_name: None,
            table: S::TABLE,
            row_version: S::VERSION,
            limits: Limits::default(),
            at_most_once: false,
            triggers: E::types(),
            per_function: E::PER_FUNCTION,
            emits: O::types(),
            delays: O::delayed(),
            changes: Some(&[]),
            files: FileUse::None,
            contracts: [E::contracts(), O::contracts()].concat(),
            decode: Box::new(|ty, format, payload| Ok(Box::new(E::decode(ty, format, payload)?))),
            key: Box::new(|event| {
                event
                    .downcast_ref::<E>()
                    .map(|e| e.key().to_owned())
                    .unwrap_or_default()
            }),
            open: state::open::<S>,
            call: Box::new(move |event, row, context| {
                let handler = handler.clone();
                Box::pin(async move {
                    // Both were made by the closures above, from the same E and S.
                    let event = event
                        .downcast::<E>()
                        .map_err(|_| Error::retry("event of another type"))?;
                    let state = row
                        .as_any()
                        .downcast_mut::<S>()
                        .ok_or_else(|| Error::retry("row of another type"))?;
                    let mut drafts = Vec::new();
                    handler
                        .call(*event, state, context)
                        .await?
                        .emit(&mut drafts);
                    Ok(drafts)
                })
            }),
            foreign: None,
            side_by_side: usize::MAX,
        };
        Self {
            erased,
            event: PhantomData,
        }
    }

    /// Version of the function's own crate, `env!("CARGO_PKG_VERSION")`: shown in the manifest, in traces
    /// (`faas.version`), and where two programs of one function differ. Default `0.0.0`, since a library cannot see the
    /// version of the crate that calls it.
    #[must_use]
    pub fn version(mut self, version: &'static str) -> Self {
        self.erased.version = version;
        self
    }

    /// Another key than the event's own: the row the function works on, and what it does one after another. `name` says
    /// which key that is, such as `owner`, and is compared with what runs: rows stand under their key, so `oncue apply`
    /// lets no other one in while events wait.
    #[must_use]
    pub fn keyed_by<K: Into<String>>(
        mut self,
        name: &'static str,
        key: impl Fn(&E) -> K + Send + Sync + 'static,
    ) -> Self {
        self.erased.key_name = Some(name);
        self.erased.key = Box::new(move |event| {
            event
                .downcast_ref::<E>()
                .map(|e| key(e).into())
                .unwrap_or_default()
        });
        self
    }

    /// Tables besides the row's own that the handler changes by the blind operations of its [`Context`]; an operation on
    /// another one is rejected. Part of the manifest, from which the function's rights follow.
    #[must_use]
    pub fn changes(mut self, tables: &'static [&'static str]) -> Self {
        self.erased.changes = Some(tables);
        self
    }

    /// Lets the handler read the app's [files](Context::files).
    #[must_use]
    pub fn reads_files(mut self) -> Self {
        self.erased.files = self.erased.files.max(FileUse::Read);
        self
    }

    /// Lets the handler read, write and delete the app's [files](Context::files).
    #[must_use]
    pub fn writes_files(mut self) -> Self {
        self.erased.files = FileUse::Write;
        self
    }

    /// Events one worker holds at a time. Default 2,000, and 32 MiB; small for handlers that are heavy on memory or CPU.
    #[must_use]
    pub fn concurrency(mut self, events: usize) -> Self {
        self.erased.limits.concurrency = events.max(1);
        self
    }

    /// Longest run on one event; then it counts as failed. Default 30 s.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.erased.limits.timeout = Span(limit);
        self
    }

    /// Deliveries before an event is dead-lettered. Default 6.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.erased.limits.attempts = attempts.max(1);
        self
    }

    /// At most one run on an event, for calls to the outside that must not be repeated: that a run begins is written
    /// down first, any failure is a dead letter at once, and an interrupted run one with the reason `outcome_unknown`.
    /// Only for functions without a row, whose run could otherwise be refused after the call.
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.erased.at_most_once = true;
        self.erased.limits.attempts = 1;
        self
    }

    /// The function as data.
    ///
    /// # Errors
    /// The signature asks for the impossible: triggers on two streams, a bad name, a row at most once.
    pub fn manifest(&self) -> std::result::Result<Manifest, String> {
        self.erased.manifest()
    }

    /// Encoded `google.protobuf.FileDescriptorSet` with the types of all events in the signature, as `--contract` prints
    /// it: for programs that carry these events without being built with them. Without the platform's own types.
    pub fn contract(&self) -> Vec<u8> {
        self.erased.contract()
    }
}

/// A text for the rest of the process, which runs one function: as the names in a program's source are.
fn leaked(text: String) -> &'static str {
    text.leak()
}

fn leaked_all(texts: Vec<String>) -> Vec<&'static str> {
    texts.into_iter().map(leaked).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// Characters of a function's name, which is also the name of a program, a consumer and a subject token.
fn is_plain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

/// Characters of a table's name: none that ends it in the keys of rows, or means others to Redis in a pattern.
fn is_of_table(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

impl Erased {
    /// A function whose handler is in another process.
    ///
    /// # Errors
    /// Its contract lacks what its manifest names; a sentence for people.
    pub fn foreign(foreign: Foreign) -> std::result::Result<Self, String> {
        let keys = Keys::new(&foreign).map_err(|why| format!("{}: {why}", foreign.name))?;
        let per_function = foreign.triggers.is_empty();
        let triggers = if per_function {
            vec![TimerFired::TYPE]
        } else {
            leaked_all(foreign.triggers)
        };
        let emits = leaked_all(foreign.emits);
        Ok(Self {
            name: leaked(foreign.name),
            version: leaked(foreign.version),
            key_name: foreign.key.map(leaked),
            table: leaked(foreign.table),
            row_version: foreign.row_version,
            limits: foreign.limits,
            at_most_once: foreign.at_most_once,
            triggers,
            per_function,
            emits: emits.clone(),
            // Its program does not say which.
            delays: emits,
            changes: foreign.changes.map(|tables| &*leaked_all(tables).leak()),
            files: foreign.files,
            contracts: vec![Box::leak(Box::new(Contract::new(foreign.contract.leak())))],
            decode: Box::new(move |ty, format, payload| {
                Ok(Box::new(keys.read(ty, format, payload)?))
            }),
            key: Box::new(|event| {
                let keyed = event.downcast_ref::<Keyed>();
                keyed.map(|keyed| keyed.key.clone()).unwrap_or_default()
            }),
            open: state::open::<()>,
            call: Box::new(|_, _, _| {
                Box::pin(async { Err(Error::retry("the handler is in another process")) })
            }),
            foreign: Some(foreign.call),
            side_by_side: foreign.side_by_side,
        })
    }

    /// Uses that its contexts let it make of tables and files.
    pub fn declared(&self) -> Declared {
        Declared {
            function: self.name,
            table: self.table,
            changes: self.changes,
            files: self.files,
        }
    }

    pub fn contract(&self) -> Vec<u8> {
        oncue_proto::merge(self.contracts.iter().copied())
    }

    /// Contracts of its events, with repetitions.
    #[cfg(feature = "testing")]
    pub fn contracts(&self) -> &[&'static Contract] {
        &self.contracts
    }

    pub fn manifest(&self) -> std::result::Result<Manifest, String> {
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(is_plain) {
            return Err(format!(
                "function name {:?} must be 1 to 64 of a-z, 0-9 and '-'",
                self.name
            ));
        }
        let tables = self.changes.iter().flat_map(|tables| tables.iter());
        let mut tables = tables.chain([&self.table]);
        if let Some(table) = tables.find(|table| !table.chars().all(is_of_table)) {
            return Err(format!(
                "{}: {table:?} is no name of a table: letters, digits, '-', '_' and '.'",
                self.name
            ));
        }
        let stream = event::stream_of_type(self.triggers[0]);
        if let Some(other) = self
            .triggers
            .iter()
            .find(|ty| event::stream_of_type(ty) != stream)
        {
            return Err(format!(
                "{}: {} and {other} are of two domains, and a function reads one stream",
                self.name, self.triggers[0]
            ));
        }
        if self.at_most_once && !self.table.is_empty() {
            return Err(format!(
                "{}: a function that runs at most once cannot own a row, on whose account its run might be refused after the call",
                self.name
            ));
        }
        // A function without an event hears only its own timer.
        let filters = if self.per_function {
            vec![event::subject(TimerFired::TYPE, self.name)]
        } else {
            layout::filters(&self.triggers)
        };
        Ok(Manifest {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            stream: stream.to_owned(),
            triggers: owned(&self.triggers),
            filters,
            key: self.key_name.map(str::to_owned),
            row_version: self.row_version,
            table: Some(self.table)
                .filter(|table| !table.is_empty())
                .map(str::to_owned),
            emits: owned(&self.emits),
            delays: owned(&self.delays),
            changes: owned(self.changes.unwrap_or(&["*"])),
            files: self.files,
            limits: self.limits.clone(),
        })
    }
}
