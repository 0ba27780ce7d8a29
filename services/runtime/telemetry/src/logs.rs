//! Log lines: one JSON object each, with the trace, span, flow and function it belongs to.

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

/// Filter of log lines and what is wrong with `RUST_LOG`, if anything.
pub(super) struct Filter {
    pub targets: Targets,
    pub warning: Option<String>,
}

impl Filter {
    /// Reads `RUST_LOG`, a list of `target=level`, `target` and `level`. Filters by span and field, which the `env_logger`
    /// of `tracing` knows too (`target[span{field}]=level`), would need a regex engine in every function: they are refused
    /// with a warning. `own` is the level of telemetry itself where the variable is unset or unreadable.
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
fn default_targets(own: &str) -> Targets {
    format!("info,async_nats=warn,oncue_telemetry={own}")
        .parse()
        .unwrap_or_default()
}

/// Format of a line, for `tracing_subscriber`. Names of fields are those that `deploy/TELEMETRY.md` lists.
pub(super) struct Json {
    pub service: String,
    pub function: Option<String>,
}

/// The event that a thread is busy with. Written anew for each poll of a handler, so it takes no allocation.
#[derive(Default)]
struct Current {
    active: bool,
    flow: String,
    traceparent: String,
    ids: Option<SpanIds>,
}

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::default();
}

/// Guard: log lines of this thread belong to the event until it is dropped.
pub struct Entered;

/// Makes log lines of this thread belong to an event. `ids` are those of its span, where it is traced.
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
pub struct InFlow<'a, F> {
    pub inner: F,
    pub meta: &'a Meta,
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
    trace: Option<TraceId>,
    span: Option<SpanId>,
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

/// Text as a JSON string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Fields of one line, as JSON members behind the fixed ones.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
    /// Whether `function` stands in the line already; twice, it would make the line ambiguous.
    named: bool,
}

impl Fields {
    fn put(&mut self, field: &Field, json: &dyn fmt::Display) {
        if !(self.named && field.name() == "function") {
            let _ = write!(self.rest, ",{}:{json}", quote(field.name()));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
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
