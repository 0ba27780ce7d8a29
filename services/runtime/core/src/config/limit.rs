//! `[limit.NAME]`: how much one client may ask for, counted for all gateways together.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::Span;

/// `[limit.NAME]`: a rate that `[gateway] limit`, routes and webhooks name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// Requests that may come in each `per`, spread over it.
    pub rate: u32,
    /// Default 1 min, at most a day.
    #[serde(default = "minute")]
    pub per: Span,
    /// Most that may come at once. Default: `rate`.
    pub burst: Option<u32>,
    /// Clients that are counted as one. Default [`LimitBy::Address`].
    #[serde(default)]
    pub by: LimitBy,
}

/// Clients that a limit counts as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LimitBy {
    /// `address`: an IPv4 address, or the /64 of an IPv6 address.
    #[default]
    Address,
    /// `identity`: whoever the credential is of; without one as `address`.
    Identity,
    /// `route`: everybody together, for each path of the gateway.
    Route,
    /// `claim.NAME`: a claim of the credential, such as a tenant; without it as `identity`.
    Claim(String),
}

fn minute() -> Span {
    Span(Duration::from_mins(1))
}

impl<'de> Deserialize<'de> for LimitBy {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match text.as_str() {
            "address" => Ok(Self::Address),
            "identity" => Ok(Self::Identity),
            "route" => Ok(Self::Route),
            other => match other.strip_prefix("claim.") {
                Some(name) if !name.is_empty() => Ok(Self::Claim(name.to_owned())),
                _ => Err(D::Error::custom(format!(
                    "{other:?} is none of \"address\", \"identity\", \"route\" and \"claim.NAME\""
                ))),
            },
        }
    }
}

impl LimitConfig {
    /// Time in which one request is earned.
    pub fn interval(&self) -> Duration {
        self.per.0 / self.rate.max(1)
    }

    /// Most that may come at once.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.rate)
    }

    /// Refuses a limit that lets nothing pass, or that cannot be counted.
    ///
    /// # Errors
    /// A sentence about the section.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rate == 0 || self.burst() == 0 {
            return Err("rate and burst are at least 1".to_owned());
        }
        let day = Duration::from_hours(24);
        if self.per.0 > day || self.interval() < Duration::from_micros(1) {
            return Err("per is at most a day, and long enough for rate".to_owned());
        }
        if self.interval() * self.burst() > 10 * day {
            return Err("burst is more than comes in ten days".to_owned());
        }
        Ok(())
    }
}
