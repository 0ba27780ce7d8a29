//! Traffic of a stream by source and type, told from its last messages.

use std::collections::BTreeMap;

use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::{Bus, Slice, StoredMessage};
use oncue_proto::event;

/// Messages looked at in one stream, and at most so many bytes of them.
/// The newest, whatever came before: a stream that takes more between two looks is told by its mix at the end.
const SAMPLED_MESSAGES: u64 = 64;
const SAMPLED_BYTES: usize = 128 << 10;

/// Messages a stream took since the last look, and a sample of their origins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrafficMix {
    /// Messages taken since.
    pub taken: u64,
    /// Messages of the sample, by origin.
    pub shares: BTreeMap<TrafficSource, u64>,
}

/// Origin of an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrafficSource {
    /// `/FUNCTION`, or as its sender calls itself; empty where it does not say.
    pub source: String,
    pub ty: String,
}

impl TrafficMix {
    /// `None` where nothing was taken, or where it is the first look: what was there before is no traffic.
    pub async fn read(bus: &Bus, stream: &StreamInfo, before: Option<u64>) -> Option<Self> {
        let last = stream.state.last_seq;
        let taken = last.checked_sub(before?).filter(|taken| *taken > 0)?;
        let slice = Slice {
            from: last + 1 - taken.min(SAMPLED_MESSAGES),
            since: None,
            subject: ">",
            messages: SAMPLED_MESSAGES as usize,
            bytes: SAMPLED_BYTES,
        };
        let found = bus
            .read_slice(&stream.config.name, &slice)
            .await
            .inspect_err(|e| tracing::debug!(error = %e, "mix"))
            .ok()?;
        let mut shares: BTreeMap<TrafficSource, u64> = BTreeMap::new();
        for message in &found {
            *shares.entry(TrafficSource::of(message)).or_default() += 1;
        }
        Some(Self { taken, shares })
    }
}

impl TrafficSource {
    /// Of an event that is one JSON body whole, the subject says the type and nobody the source.
    fn of(message: &StoredMessage) -> Self {
        let ty = text(message, "ce-type");
        Self {
            source: text(message, "ce-source").unwrap_or_default(),
            ty: ty.unwrap_or_else(|| event::type_of_subject(&message.subject).to_owned()),
        }
    }
}

fn text(message: &StoredMessage, header: &str) -> Option<String> {
    event::percent_decode(message.header(header)?)
}
