//! Log lines: one JSON object each, with the trace, span, flow and function it belongs to.
//!
//! A line as a collector reads it, broken here to fit:
//!
//! ```text
//! {"time":"2026-03-01T08:30:00.123Z","level":"WARN","service":"count-views","function":"count-views",
//!  "trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","flow_id":"...",
//!  "target":"count_views","message":"page without a title","page":"/home"}
//! ```
//!
//! | member | stands there |
//! |---|---|
//! | `time` (RFC 3339, UTC, milliseconds), `level`, `service`, `target`, `message` | always |
//! | `function` | in processes of functions |
//! | `trace_id`, `span_id` | inside an event or an author's span; `span_id` only where the process traces |
//! | `flow_id` | inside an event |
//! | fields of the line | last; integers up to 64 bits and booleans as such, all else as text |
//!
//! A handler cannot be asked to hand the event to each line it writes, so the event at hand is
//! state of the thread, set for every poll of the handler: between two polls a task may move to
//! another thread.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::task::{self, Poll};

use opentelemetry::Context;
use opentelemetry::trace::{SpanId, TraceContextExt as _, TraceId};
use tracing::field::{Field, Visit};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::spans::span_ids::{self, SpanIds};
use oncue_proto::event::{self, Meta};
use oncue_proto::text;

/// Filter of log lines and what is wrong with `RUST_LOG`, if anything.
pub(super) struct Filter {
    /// Levels by target, such as `async_nats=warn`; the longest target that fits a line decides.
    pub targets: Targets,
    /// Sentence for the log, once there is one.
    pub warning: Option<String>,
}

impl Filter {
    /// Reads `RUST_LOG`, a list of `target=level`, `target` and `level`. Filters by span and field, which the
    /// `env_logger` of `tracing` knows too (`target[span{field}]=level`), would need a regex engine in every
    /// function: they are refused with a warning. `own` is the level of telemetry itself where the variable is unset
    /// or unreadable.
    pub fn read(rust_log: Option<&str>, own: &str) -> Self {
        let text = rust_log.map(str::trim).filter(|text| !text.is_empty());
        match text.map(str::parse::<Targets>) {
            None => Self {
                targets: default_targets(own),
                warning: None,
            },
            // A target has no brackets: they would be taken for part of a name that nothing has.
            Some(Ok(targets)) if !text.is_some_and(|text| text.contains('[')) => Self {
                targets,
                warning: None,
            },
            Some(_) => Self {
                targets: default_targets(own),
                warning: Some(format!(
                    "RUST_LOG={:?} is not a list of target=level, with commas between them (filters by span and field are not supported); info is used",
                    text.unwrap_or_default()
                )),
            },
        }
    }
}

/// `info`, and less of the client library, which logs every reconnect.
/// `own` is the level of this crate, `OTEL_LOG_LEVEL`.
fn default_targets(own: &str) -> Targets {
    format!("info,async_nats=warn,oncue_telemetry={own}")
        .parse()
        .unwrap_or_default()
}

/// Format of a line, for `tracing_subscriber`. Names of fields are those that `deploy/TELEMETRY.md` lists.
pub(super) struct Json {
    /// `service.name` of the process, which `OTEL_SERVICE_NAME` does not change here.
    pub service: String,
    /// Name of the function; `None` in programs of Oncue.
    pub function: Option<String>,
}

/// The event that a thread is busy with. Written anew for each poll of a handler, so it takes no allocation.
#[derive(Default)]
struct Current {
    /// Whether an event is at hand. Where none is, the other fields are those of the last one, kept
    /// for their buffers.
    active: bool,
    /// Flow of the event.
    flow: String,
    /// Header that the event came with; empty where it came with none, or where `ids` say more.
    traceparent: String,
    /// Ids of the event's span; `None` where the process does not trace.
    ids: Option<SpanIds>,
}

thread_local! {
    /// One event for each thread: a thread polls one handler at a time.
    static CURRENT: RefCell<Current> = RefCell::default();
}

/// Guard: log lines of this thread belong to the event until it is dropped.
/// Guards do not nest: dropping any of them ends the event for the thread.
pub struct Entered;

/// Makes log lines of this thread belong to an event. `ids` are those of its span, where it is traced.
///
/// Trace id of the lines: that of `ids`, else that of the event's `traceparent`, else the one
/// derived from its flow.
pub fn enter(meta: &Meta, ids: Option<SpanIds>) -> Entered {
    CURRENT.with_borrow_mut(|current| {
        current.active = true;
        current.ids = ids;
        current.flow.clear();
        current.flow.push_str(&meta.flow);
        current.traceparent.clear();
        if ids.is_none() {
            current
                .traceparent
                .push_str(meta.traceparent.as_deref().unwrap_or_default());
        }
    });
    Entered
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| current.active = false);
    }
}

/// Future whose log lines and spans belong to an event.
///
/// Holds both for each poll and gives the thread back between them, so events that share a thread
/// do not mix.
pub struct InFlow<'a, F> {
    /// Handler of the event.
    pub inner: F,
    /// Attributes of the event, for its flow and its trace.
    pub meta: &'a Meta,
    /// Ids of the event's span, where it is traced.
    pub ids: Option<SpanIds>,
    /// Parent of authors' spans, where there are any.
    pub context: Option<Context>,
}

impl<F: Future + Unpin> Future for InFlow<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let _log = enter(self.meta, self.ids);
        let _spans = self.context.clone().map(Context::attach);
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Trace, span and flow that a line belongs to.
#[derive(Default)]
struct Origin {
    /// Trace of the author's span, or of the event.
    trace: Option<TraceId>,
    /// Innermost span that is known.
    span: Option<SpanId>,
    /// Flow of the event; an author's span has none of its own.
    flow: Option<String>,
}

impl Origin {
    /// Origin of a line written here: the author's span if one is open, or else the event at hand.
    fn here() -> Self {
        let context = Context::current();
        let span = context.span().span_context().clone();
        // Not to be had when something panics that has just been writing it.
        let mut origin = CURRENT.with(|current| match current.try_borrow() {
            Ok(current) if current.active => Self::of_event(&current),
            _ => Self::default(),
        });
        if span.is_valid() {
            origin.trace = Some(span.trace_id());
            origin.span = Some(span.span_id());
        }
        origin
    }

    /// The event's own span, or the trace it came with, or the one that everybody derives from its flow.
    fn of_event(current: &Current) -> Self {
        let brought = span_ids::parse(&current.traceparent).map(|(trace, ..)| trace);
        let trace = current.ids.map(|ids| ids.trace).or(brought);
        Self {
            trace: Some(trace.unwrap_or_else(|| span_ids::trace_of(&current.flow))),
            span: current.ids.map(|ids| ids.span),
            flow: Some(current.flow.clone()),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields {
            named: self.function.is_some(),
            ..Fields::default()
        };
        event.record(&mut fields);
        let origin = Origin::here();
        let meta = event.metadata();
        let time = event::format_time(event::now_ms());
        write!(
            out,
            r#"{{"time":"{time}","level":"{}","service":{}"#,
            meta.level(),
            quote(&self.service)
        )?;
        if let Some(function) = &self.function {
            write!(out, r#","function":{}"#, quote(function))?;
        }
        if let Some(trace) = origin.trace {
            write!(out, r#","trace_id":"{trace}""#)?;
        }
        if let Some(span) = origin.span {
            write!(out, r#","span_id":"{span}""#)?;
        }
        if let Some(flow) = origin.flow {
            write!(out, r#","flow_id":{}"#, quote(&flow))?;
        }
        write!(
            out,
            r#","target":{},"message":{}{}}}"#,
            quote(meta.target()),
            quote(&fields.message),
            fields.rest
        )?;
        writeln!(out)
    }
}

/// Text as a JSON string, in which nothing steers the terminal it may be shown on.
fn quote(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    text::escaped(&json, |_| false).into_owned()
}

/// Fields of one line, as JSON members behind the fixed ones.
#[derive(Default)]
struct Fields {
    /// Field `message`, which `tracing` gives the text of a line.
    message: String,
    /// Other fields, each `,"name":value`.
    rest: String,
    /// Whether `function` stands in the line already; twice, it would make the line ambiguous.
    named: bool,
}

impl Fields {
    /// Appends one field; `json` is its value as JSON. Writing to a string does not fail.
    fn put(&mut self, field: &Field, json: &dyn fmt::Display) {
        if !(self.named && field.name() == "function") {
            let _ = write!(self.rest, ",{}:{json}", quote(field.name()));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Debug text may hold anything, so it becomes a string. Kinds without a method below come
        // here too, floats among them.
        let text = format!("{value:?}");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, &quote(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value);
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn rust_log_is_a_list_of_targets_and_levels() {
        let filter = Filter::read(Some("warn,mine=debug,other=off"), "info");
        assert!(filter.targets.would_enable("mine::inner", &Level::DEBUG));
        assert!(!filter.targets.would_enable("other", &Level::ERROR));
        assert!(!filter.targets.would_enable("else", &Level::INFO));
        assert_eq!(filter.warning, None);
        for unset in [None, Some(" ")] {
            let filter = Filter::read(unset, "off");
            assert!(filter.targets.would_enable("mine", &Level::INFO));
            assert!(
                !filter
                    .targets
                    .would_enable("async_nats::client", &Level::INFO)
            );
            assert!(
                !filter
                    .targets
                    .would_enable("oncue_telemetry", &Level::ERROR)
            );
            assert_eq!(filter.warning, None);
        }
    }

    #[test]
    fn text_of_others_does_not_steer_a_terminal() {
        let quoted = quote("a\u{202e}gpj\u{9b}2J\u{1b}[2J");
        assert_eq!(quoted, r#""a\u202egpj\u009b2J\u001b[2J""#);
        assert_eq!(quote("שלום"), "\"שלום\"");
    }

    #[test]
    fn a_filter_that_is_not_understood_is_said_and_not_guessed() {
        for broken in ["mine[span{id=3}]=debug", "mine=loud", "[span]=trace"] {
            let filter = Filter::read(Some(broken), "info");
            assert!(
                filter.targets.would_enable("mine", &Level::INFO),
                "{broken}"
            );
            assert!(
                !filter.targets.would_enable("mine", &Level::DEBUG),
                "{broken}"
            );
            assert!(filter.warning.is_some_and(|text| text.contains(broken)));
        }
    }
}
