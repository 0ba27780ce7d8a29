//! `cors` of `[gateway]`: pages of other sites that may use the API.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use super::Span;

/// `cors` of `[gateway]`. Credentials in headers, which scripts set, are let through; cookies mean nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// Sites, each written like `https://shop.example.com`.
    pub origins: BTreeSet<String>,
    /// Time for which browsers need not ask again. Default 10 min.
    pub max_age: Option<Span>,
}

impl CorsConfig {
    /// Time for which browsers need not ask again.
    pub fn max_age(&self) -> Duration {
        self.max_age.map_or(Duration::from_mins(10), |age| age.0)
    }

    /// Refuses what no browser would ever send, and so would never match.
    ///
    /// # Errors
    /// A sentence about the section.
    pub(crate) fn check(&self) -> Result<(), String> {
        let wrong = self.origins.iter().find(|origin| !is_origin(origin));
        match wrong {
            Some(wrong) => Err(format!(
                "cors: {wrong:?} is no origin like \"https://shop.example.com\": scheme and host in lower case, a port \
                 where it is not the scheme's own, nothing behind"
            )),
            None => Ok(()),
        }
    }
}

fn is_origin(text: &str) -> bool {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|host| !host.is_empty() && host.bytes().all(is_of_host))
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:[]".contains(&byte)
}
