//! State of this process: the one place where telemetry is global.
//!
//! Spans, log lines and times come up deep inside handlers, Redis calls and panic hooks, where nobody could hand a
//! reference down, and a process has one environment, one collector and one clock. So all of it stands in one struct,
//! set once by [`Telemetry::start`](crate::Telemetry::start); where nothing was started, as in unit tests, every
//! question is answered as if telemetry were off.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;

use opentelemetry::metrics::Meter;

use crate::settings::Settings;
use crate::spans::SpanQueue;

/// Everything about telemetry that lasts as long as the process. Written once, then only read, so
/// no event waits for a lock.
pub(crate) struct Process {
    /// Environment as it was read at the start; later changes of variables have no effect.
    pub settings: Settings,
    /// Way of spans out; `None` where the process does not trace.
    pub queue: Option<&'static SpanQueue>,
    /// Instruments of the SDK; `None` where metrics are not pushed.
    pub meter: Option<Meter>,
    /// Id of this process, `service.instance.id`.
    pub instance: String,
    /// Labels of `target_info`.
    pub target: BTreeMap<String, String>,
    /// Start of telemetry, from which [`uptime`](crate::uptime) counts.
    pub started: Instant,
    /// Known once the configuration has been read.
    pub peers: OnceLock<Peers>,
}

/// Addresses of the servers, for `server.address` and `server.port`.
pub(crate) struct Peers {
    /// NATS, port 4222 unless named.
    pub nats: Address,
    /// Redis, port 6379 unless named.
    pub redis: Address,
}

/// Host and port of a server, without credentials.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Name or IP address; IPv6 without its brackets.
    pub host: String,
    /// Signed, since integers of OTLP are.
    pub port: i64,
}

/// Set by [`Telemetry::start`](crate::Telemetry::start); empty before, and in processes that start
/// no telemetry.
static PROCESS: OnceLock<Process> = OnceLock::new();

impl Process {
    /// The state, if telemetry was started.
    pub fn get() -> Option<&'static Self> {
        PROCESS.get()
    }

    /// The state, if this process traces.
    pub fn tracing() -> Option<&'static Self> {
        Self::get().filter(|process| process.queue.is_some())
    }

    /// Sets the state; a second start in one process (tests) keeps the first.
    pub fn set(self) {
        let _ = PROCESS.set(self);
    }
}

impl Address {
    /// Address of the first server in a URL or a list of them; `port` where none is named.
    ///
    /// Reads by hand and never fails: the configuration has checked the URL, and a span with an odd
    /// address is better than none. User, password, path and query are dropped.
    pub fn of_url(url: &str, port: i64) -> Self {
        let first = url.split(',').next().unwrap_or_default();
        let after = first.split_once("://").map_or(first, |(_, rest)| rest);
        let host = after.split(['/', '?']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let named = host
            .rsplit_once(':')
            .and_then(|(name, digits)| Some((name, digits.parse().ok()?)));
        let (name, port) = named.unwrap_or((host, port));
        Self {
            host: name.trim_matches(['[', ']']).to_owned(),
            port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn an_address_is_told_without_its_credentials() {
        for (url, host, port) in [
            ("nats://user:secret@one:4333,nats://two", "one", 4333),
            ("redis://:secret@10.0.0.1/3", "10.0.0.1", 6379),
            ("redis://[::1]:7000", "::1", 7000),
            ("host", "host", 6379),
        ] {
            let host = host.to_owned();
            assert_eq!(Address::of_url(url, 6379), Address { host, port }, "{url}");
        }
    }
}
