//! `[flows]`: which flows get a ledger, and who may wait for them.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::Span;
use oncue_proto::event;

/// `[flows]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowsConfig {
    /// Which flows are tracked. Default: those whose client asks.
    pub track: Track,
    /// How long a ledger stays after it was last written. Default 24 h.
    pub keep: Span,
    /// Longest a client of the gateway may wait for a flow (`Prefer: wait`). Default 30 s.
    pub max_wait: Span,
    /// Clients of one gateway that may wait or watch at the same time; others get 503. Default 1,000.
    pub max_waiters: usize,
}

impl Default for FlowsConfig {
    fn default() -> Self {
        Self {
            track: Track::Asked,
            keep: Span(Duration::from_hours(24)),
            max_wait: Span(Duration::from_secs(30)),
            max_waiters: 1000,
        }
    }
}

/// Written `"asked"`, `"all"`, or a share like `0.01`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Track {
    /// Only where the client asks.
    Asked,
    All,
    /// This share of all flows as well, between 0 and 1.
    Share(f64),
}

impl Track {
    /// Whether a flow is tracked that nobody has asked to track. Decided by its id, so that all agree.
    pub fn wants(self, flow: &str) -> bool {
        match self {
            Self::Asked => false,
            Self::All => true,
            Self::Share(share) => {
                let hash = event::hash(&[b"track", flow.as_bytes()]);
                let place = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
                f64::from(place) < share * (f64::from(u32::MAX) + 1.0)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Track {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Word(String),
            Whole(i64),
            Share(f64),
        }
        let bad = |what: &dyn std::fmt::Display| {
            D::Error::custom(format!(
                "track is {what}; it is \"asked\", \"all\", or a share of all flows like 0.01"
            ))
        };
        match Either::deserialize(d).map_err(|_| bad(&"neither a word nor a number"))? {
            Either::Word(word) if word == "asked" => Ok(Self::Asked),
            Either::Word(word) if word == "all" => Ok(Self::All),
            Either::Word(word) => Err(bad(&format!("{word:?}"))),
            Either::Whole(n) if n == 0 || n == 1 => Ok(Self::Share(n as f64)),
            Either::Whole(n) => Err(bad(&n)),
            Either::Share(share) if (0.0..=1.0).contains(&share) => Ok(Self::Share(share)),
            Either::Share(share) => Err(bad(&share)),
        }
    }
}
