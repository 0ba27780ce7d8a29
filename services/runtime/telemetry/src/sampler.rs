//! Sampler: decides which traces are kept whole. The spans of what fails are kept in any case, by who makes them.
//!
//! | `OTEL_TRACES_SAMPLER` | a trace that begins here | a trace that came |
//! |---|---|---|
//! | `always_on` | kept | kept |
//! | `always_off` | not kept | not kept |
//! | `traceidratio` | by its id | by its id |
//! | `parentbased_` and one of these | as that one says | as it was where it came from |
//!
//! A decision depends on nothing but the trace id and the flag that came, so processes with the
//! same settings decide alike on a trace, and none has to ask another.

use opentelemetry::trace::TraceId;
use opentelemetry_sdk::trace::Sampler as SdkSampler;

/// Decision on a trace that begins here, `OTEL_TRACES_SAMPLER` and `_ARG`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Root {
    /// `always_on`, the default.
    All,
    /// `always_off`: only spans of failures.
    None,
    /// Share of all traces, 0 to 1.
    Ratio(f64),
}

/// Sampler of the specification [OpenTelemetry trace SDK, built-in samplers].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// Decision where no other process has made one.
    pub root: Root,
    /// Whether a trace that came from elsewhere is sampled as it was there.
    /// True by default, and for every name that begins with `parentbased_`.
    pub parent_based: bool,
}

impl Sampler {
    /// Whether a span is kept; `parent` says whether that of another process was.
    /// Without a parent, or where the sampler is not parent-based, the root's rule holds.
    pub fn keeps(&self, trace: TraceId, parent: Option<bool>) -> bool {
        match (parent.filter(|_| self.parent_based), self.root) {
            (Some(sampled), _) => sampled,
            (None, Root::All) => true,
            (None, Root::None) => false,
            (None, Root::Ratio(ratio)) => within(trace, ratio),
        }
    }

    /// Sampler of the SDK with the same decisions, for spans that authors make with `tracing`.
    /// Inside an event their parent is the event's span, whose sampled flag the SDK is given.
    pub fn for_sdk(&self) -> SdkSampler {
        let root = match self.root {
            Root::All => SdkSampler::AlwaysOn,
            Root::None => SdkSampler::AlwaysOff,
            Root::Ratio(ratio) => SdkSampler::TraceIdRatioBased(ratio),
        };
        if self.parent_based {
            SdkSampler::ParentBased(Box::new(root))
        } else {
            root
        }
    }
}

/// Whether a trace id falls within the ratio, by the same bits as the SDK, so that all processes
/// and all spans agree on a trace: the upper 63 of the last 64 bits, compared with `ratio` times
/// 2^63. Ids are random or hashes, so that is the share of traces.
fn within(trace: TraceId, ratio: f64) -> bool {
    let bytes = trace.to_bytes();
    let low = u64::from_be_bytes(bytes[8..].try_into().unwrap_or_default()) >> 1;
    ratio >= 1.0 || low < (ratio.max(0.0) * (1_u64 << 63) as f64) as u64
}

#[cfg(test)]
mod tests {
    use opentelemetry::Context;
    use opentelemetry::trace::SpanKind;
    use opentelemetry_sdk::trace::{SamplingDecision, ShouldSample as _};

    use super::*;

    #[test]
    fn ours_and_the_sdks_agree_on_every_trace() {
        let mut random = fastrand::Rng::with_seed(7);
        for ratio in [0.0, 0.01, 0.5, 0.999, 1.0] {
            let sampler = Sampler {
                root: Root::Ratio(ratio),
                parent_based: false,
            };
            let mut kept = 0;
            for _ in 0..2000 {
                let trace = TraceId::from_bytes(random.u128(1..).to_be_bytes());
                let sdk = sampler.for_sdk().should_sample(
                    None::<&Context>,
                    trace,
                    "",
                    &SpanKind::Consumer,
                    &[],
                    &[],
                );
                assert_eq!(
                    sampler.keeps(trace, None),
                    sdk.decision == SamplingDecision::RecordAndSample
                );
                kept += u32::from(sampler.keeps(trace, None));
            }
            assert!(
                (f64::from(kept) / 2000.0 - ratio).abs() < 0.05,
                "{kept} of 2000 at {ratio}"
            );
        }
    }

    #[test]
    fn who_continues_a_trace_does_as_its_beginning_did() {
        let trace = TraceId::from_bytes([9; 16]);
        let sampler = Sampler {
            root: Root::None,
            parent_based: true,
        };
        assert!(
            sampler.keeps(trace, Some(true))
                && !sampler.keeps(trace, Some(false))
                && !sampler.keeps(trace, None)
        );
        let alone = Sampler {
            parent_based: false,
            ..sampler
        };
        assert!(!alone.keeps(trace, Some(true)));
    }
}
