//! One JSON object a line: what happened, and which trace, span, flow and function it belongs to.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::task::{self, Poll};

use opentelemetry::Context;
use opentelemetry::trace::{SpanId, TraceContextExt as _, TraceId};
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::place::{self, SpanIds};
use oncue_proto::event::{self, Meta};

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
    place: Option<SpanIds>,
}

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::default();
}

/// Log lines and authors' spans until this is dropped belong to the event.
pub struct Entered;

pub fn enter(meta: &Meta, place: Option<SpanIds>) -> Entered {
    CURRENT.with_borrow_mut(|current| {
        current.active = true;
        current.place = place;
        current.flow.clear();
        current.flow.push_str(&meta.flow);
        current.traceparent.clear();
        if place.is_none() {
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

/// A future whose log lines and spans belong to an event.
pub struct InFlow<'a, F> {
    pub inner: F,
    pub meta: &'a Meta,
    pub place: Option<SpanIds>,
    /// What authors' spans are children of, where there are any.
    pub context: Option<Context>,
}

impl<F: Future + Unpin> Future for InFlow<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let _log = enter(self.meta, self.place);
        let _spans = self.context.clone().map(Context::attach);
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Trace, span and flow of what is being logged.
fn here() -> (Option<(TraceId, Option<SpanId>)>, Option<String>) {
    let context = Context::current();
    let span = context.span().span_context().clone();
    let of_context = span
        .is_valid()
        .then(|| (span.trace_id(), Some(span.span_id())));
    // Not to be had when something panics that has just been writing it.
    CURRENT.with(|current| match current.try_borrow() {
        Ok(current) if current.active => {
            let place = current.place.map(|place| (place.trace, Some(place.span)));
            let brought = || place::parse(&current.traceparent).map(|(trace, ..)| (trace, None));
            let derived = || (place::trace_of(&current.flow), None);
            let trace = of_context
                .or(place)
                .or_else(brought)
                .unwrap_or_else(derived);
            (Some(trace), Some(current.flow.clone()))
        }
        _ => (of_context, None),
    })
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
        let (trace, flow) = here();
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
        if let Some((trace, span)) = trace {
            write!(out, r#","trace_id":"{trace}""#)?;
            if let Some(span) = span {
                write!(out, r#","span_id":"{span}""#)?;
            }
        }
        if let Some(flow) = flow {
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

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
    /// The function is said already; twice, it would make the line ambiguous.
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
