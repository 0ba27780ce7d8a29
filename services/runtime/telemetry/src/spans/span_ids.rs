//! Ids of spans, and the headers in which they travel with an event [W3C Trace Context, W3C Baggage].
//!
//! ```text
//! traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//!              |  trace id, 16 bytes               span id, 8 bytes flags: 01 sampled, 02 random
//!              version
//! tracestate:  oncue=s:1028;w:256,vendor=value
//! ```

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};

use oncue_proto::event;

/// Headers of a message or request that say which trace it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carrier {
    /// Trace, parent span and flags, 55 bytes in version 00 [W3C Trace Context 3.2].
    pub traceparent: Option<String>,
    /// Members of several vendors [W3C Trace Context 3.3]; ours is `oncue`, see [`Size`].
    pub tracestate: Option<String>,
    /// Values of the application, passed on as they came [W3C Baggage].
    pub baggage: Option<String>,
}

/// Ids of a span that may be exported, or not. They are drawn when the work begins and hold either way, so that a
/// span can be built when it has become worth it. Handed on by copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanIds {
    /// Trace id, shared by all that follows from one beginning.
    pub trace: TraceId,
    /// Id of the span itself, drawn at random.
    pub span: SpanId,
    /// `SpanId::INVALID` for a root.
    pub parent: SpanId,
    /// Whether the parent is in another process.
    pub remote: bool,
    /// Sampled (01) and random (02); other bits are dropped when they come.
    pub flags: TraceFlags,
}

/// Spans that one event adds to its trace, as a rule: sent, handled, read and committed in Redis.
/// An estimate for [`Size`], on the high side: reading and committing may be shared with other
/// events.
const SPANS_PER_EVENT: u64 = 4;

impl SpanIds {
    /// Ids of a span in the trace that `traceparent` tells of; `None` where it is malformed.
    pub fn after(traceparent: &str) -> Option<Self> {
        let (trace, parent, flags) = parse(traceparent)?;
        Some(Self {
            trace,
            span: new_span(),
            parent,
            remote: true,
            flags,
        })
    }

    /// Ids of a span that begins `trace`, not sampled.
    /// The sampler has yet to be asked; see [`with_sampled`](Self::with_sampled).
    pub fn root(trace: TraceId) -> Self {
        Self {
            trace,
            span: new_span(),
            parent: SpanId::INVALID,
            remote: false,
            flags: TraceFlags::default(),
        }
    }

    /// Ids of a span below this one, in this process.
    /// Same trace and flags.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span: new_span(),
            parent: self.span,
            remote: false,
            ..*self
        }
    }

    /// Whether the trace is kept whole. Spans of failures are made without it.
    pub fn sampled(&self) -> bool {
        self.flags.is_sampled()
    }

    /// Same ids with the sampled flag set or cleared.
    #[must_use]
    pub fn with_sampled(self, sampled: bool) -> Self {
        Self {
            flags: self.flags.with_sampled(sampled),
            ..self
        }
    }

    /// Header for what this span causes [W3C Trace Context 3.2].
    pub fn traceparent(&self) -> String {
        traceparent(self.trace, self.span, self.flags)
    }

    /// Ids as the SDK wants them.
    /// Without `tracestate`: authors' spans stay in the process, and none of them is passed on.
    pub fn span_context(&self) -> SpanContext {
        SpanContext::new(self.trace, self.span, self.flags, false, TraceState::NONE)
    }

    /// Context in which authors' spans become children of this one.
    pub fn context(&self) -> opentelemetry::Context {
        opentelemetry::Context::new().with_remote_span_context(self.span_context())
    }
}

/// Header of version 00, the one that is always written.
fn traceparent(trace: TraceId, span: SpanId, flags: TraceFlags) -> String {
    event::traceparent(trace.to_bytes(), span.to_bytes(), flags.to_u8())
}

/// `None` for anything malformed, which counts as absent [W3C Trace Context 3.2.2.3]. Of a later version only what
/// this one knows is read.
///
/// | refused | by |
/// |---|---|
/// | upper-case hex | [W3C Trace Context 3.2.2.2] |
/// | ids that are all zeros | [W3C Trace Context 3.2.2.3, 3.2.2.4] |
/// | version `ff` | [W3C Trace Context 3.2.2.1] |
/// | version 00 with more behind the flags | [W3C Trace Context 3.2.2.2] |
pub(crate) fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let well_formed = bytes.len() >= 55
        && bytes[..55].iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
        && &bytes[..2] != b"ff"
        && (bytes.len() == 55 || (&bytes[..2] != b"00" && bytes[55] == b'-'));
    if !well_formed {
        return None;
    }
    let trace = TraceId::from_hex(&text[3..35])
        .ok()
        .filter(|id| *id != TraceId::INVALID)?;
    let span = SpanId::from_hex(&text[36..52])
        .ok()
        .filter(|id| *id != SpanId::INVALID)?;
    let flags = TraceFlags::new(u8::from_str_radix(&text[53..55], 16).ok()?);
    // Sampled and random; the others have no meaning yet and must be zero.
    Some((trace, span, flags & TraceFlags::new(3)))
}

/// Random id, never zero. Ids have to be unlike each other and need not be secret, so a fast
/// generator will do.
fn new_span() -> SpanId {
    SpanId::from_bytes(fastrand::u64(1..).to_be_bytes())
}

/// Random id, never zero, for a trace that belongs to no flow.
pub(crate) fn new_trace() -> TraceId {
    TraceId::from_bytes(fastrand::u128(1..).to_be_bytes())
}

/// The trace of a flow whose root event brought none: every function that acts on it derives the same.
pub(crate) fn trace_of(flow: &str) -> TraceId {
    TraceId::from_bytes(event::trace_id(flow))
}

/// The trace in which a flow goes on once the one before is full.
/// A hash of the flow and the event `cause`, so a redelivery of that event goes on in the same
/// trace.
pub fn next_trace(flow: &str, cause: &str) -> TraceId {
    TraceId::from_bytes(event::hash(&[b"trace", flow.as_bytes(), cause.as_bytes()]))
}

/// How large a trace has become, as far as one path through it can tell: it takes every branch for as broad as its
/// own. Travels in `tracestate`, so nobody has to be asked. Two events of a chain with 256 outputs each: 4 spans,
/// then 4 + 4 * 256, then 4 + 4 * 256 + 4 * 65,536, which is over the default budget of 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Spans from the beginning of the trace to this depth.
    spans: u64,
    /// Events side by side at this depth.
    width: u64,
}

impl Size {
    /// Size of a trace with one event in it.
    pub const START: Self = Self {
        spans: SPANS_PER_EVENT,
        width: 1,
    };

    /// Size as an event brings it in its `tracestate`; that of a new trace where it brings none.
    pub fn of(tracestate: Option<&str>) -> Self {
        let own = tracestate
            .unwrap_or_default()
            .split(',')
            .find_map(|member| member.trim().strip_prefix("oncue="));
        own.and_then(Self::parse).unwrap_or(Self::START)
    }

    /// Reads `s:<spans>;w:<width>`, our member of `tracestate`.
    /// `None` for anything else; the trace then counts as new.
    fn parse(member: &str) -> Option<Self> {
        let (spans, width) = member.split_once(';')?;
        let width = width.strip_prefix("w:")?.parse().ok()?;
        Some(Self {
            spans: spans.strip_prefix("s:")?.parse().ok()?,
            width,
        })
        .filter(|size| size.width > 0)
    }

    /// Size one level further down, where each event is followed by `outputs`.
    /// Saturates, since a client may send any number.
    #[must_use]
    pub fn grown(self, outputs: u64) -> Self {
        let width = self.width.saturating_mul(outputs);
        Self {
            width,
            spans: self
                .spans
                .saturating_add(width.saturating_mul(SPANS_PER_EVENT)),
        }
    }

    /// Whether a flow should go on in a new trace, given the spans that one may have.
    pub fn exceeds(self, budget: u64) -> bool {
        self.spans > budget
    }

    /// `tracestate` with our member first, as who changes it must put it; others' stay, the oldest giving way where
    /// there is no room [W3C Trace Context 3.3.1]. At most 32 members, and no more of others' once 512 characters are
    /// full.
    pub fn into_state(self, others: Option<&str>) -> String {
        let mut state = format!("oncue=s:{};w:{}", self.spans, self.width);
        let others = others.unwrap_or_default().split(',').map(str::trim);
        for member in others
            .filter(|m| !m.is_empty() && !m.starts_with("oncue="))
            .take(31)
        {
            if state.len() + member.len() > 512 {
                break;
            }
            state.push(',');
            state.push_str(member);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_is_read_to_the_letter() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let ids = SpanIds::after(good).expect("well-formed");
        assert_eq!(traceparent(ids.trace, ids.parent, ids.flags), good);
        assert!(ids.sampled() && ids.remote);
        // A later version may say more; what is passed on is version 00, and flags without a meaning are dropped.
        let later = format!("cc{}-more", &good[2..]).replace("-01-", "-fb-");
        let (trace, span, flags) = parse(&later).expect("a later version");
        assert_eq!(traceparent(trace, span, flags), good.replace("-01", "-03"));
        for bad in [
            "",
            &good[..54],
            &format!("{good}-more"),
            &good.replace("00-0a", "ff-0a"),
            &good.to_uppercase(),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
            &good.replace("-01", "-+1"),
            &good.replace("b7ad", "b7aé"),
        ] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_chain_stays_in_one_trace_and_a_broad_flow_does_not() {
        let mut chain = Size::START;
        for _ in 0..event::MAX_HOPS {
            chain = Size::of(Some(&chain.grown(1).into_state(None)));
        }
        assert!(!chain.exceeds(10_000), "{chain:?}");
        let broad = Size::of(Some(&Size::START.grown(256).into_state(None)));
        assert!(
            !broad.exceeds(10_000) && broad.grown(256).exceeds(10_000),
            "{broad:?}"
        );
    }

    #[test]
    fn the_members_of_others_stay_and_ours_comes_first() {
        let state = Size::START.into_state(Some("vendor=a, oncue=s:9;w:9,other=b"));
        assert_eq!(state, "oncue=s:4;w:1,vendor=a,other=b");
        let long: Vec<String> = (0..40).map(|n| format!("v{n}=1")).collect();
        assert_eq!(
            Size::START
                .into_state(Some(&long.join(",")))
                .split(',')
                .count(),
            32
        );
        for broken in ["oncue=", "oncue=s:1", "oncue=s:x;w:1", "oncue=s:1;w:0"] {
            assert_eq!(Size::of(Some(broken)), Size::START, "{broken}");
        }
    }
}
