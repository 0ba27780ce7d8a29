//! `[flows]`: flows that get a ledger, and clients that wait for them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::Span;
use oncue_proto::event;

/// `[flows]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowsConfig {
    /// `ONCUE_TRACK`, or `[flows] track`: flows that are tracked. Default: those whose client asks.
    pub track: Track,
    /// How long a ledger stays after it was last written. Default 24 h.
    pub keep: Span,
    /// Longest a client of the gateway may wait for a flow (`Prefer: wait`). Default 30 s.
    pub max_wait: Span,
    /// Clients of one gateway that may wait or watch at the same time; others get 503. Default 1,000.
    pub max_waiters: usize,
}

/// No `[flows]` in the file.
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

/// Flows that are tracked: written `"asked"`, `"all"`, or a share like `0.01`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Track {
    /// Only where the client asks.
    Asked,
    /// Every flow.
    All,
    /// This share of all flows as well, between 0 and 1.
    Share(f64),
}

impl Track {
    /// Whether a flow is tracked that no client has asked to track. Decided by its id, so that all programs agree.
    pub fn wants(self, flow: &str) -> bool {
        match self {
            Self::Asked => false,
            Self::All => true,
            Self::Share(share) => {
                let hash = event::hash(&[b"track", flow.as_bytes()]);
                let number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
                f64::from(number) < share * (f64::from(u32::MAX) + 1.0)
            }
        }
    }
}

/// As a variable has it.
impl FromStr for Track {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = text
            .parse()
            .ok()
            .filter(|share| (0.0..=1.0).contains(share));
        match (text, share) {
            ("asked", _) => Ok(Self::Asked),
            ("all", _) => Ok(Self::All),
            (_, Some(share)) => Ok(Self::Share(share)),
            _ => Err(wrong(format_args!("{text:?}"))),
        }
    }
}

impl<'de> Deserialize<'de> for Track {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// Value as it stands in the file.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Whole(i64),
            Share(f64),
        }
        let track = match Written::deserialize(d) {
            Ok(Written::Word(word)) if word == "asked" => Ok(Self::Asked),
            Ok(Written::Word(word)) if word == "all" => Ok(Self::All),
            Ok(Written::Word(word)) => Err(wrong(format_args!("{word:?}"))),
            Ok(Written::Whole(n)) if n == 0 || n == 1 => Ok(Self::Share(n as f64)),
            Ok(Written::Whole(n)) => Err(wrong(n)),
            Ok(Written::Share(share)) if (0.0..=1.0).contains(&share) => Ok(Self::Share(share)),
            Ok(Written::Share(share)) => Err(wrong(share)),
            Err(_) => Err(wrong("neither a word nor a number")),
        };
        track.map_err(serde::de::Error::custom)
    }
}

/// Mistake that names what is written and what may be.
fn wrong(written: impl fmt::Display) -> String {
    format!("track is {written}; it is \"asked\", \"all\", or a share of all flows like 0.01")
}
