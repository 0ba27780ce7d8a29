//! Monitoring page of nats-server: how often it writes to disk stands nowhere else.

use std::time::Duration;

use serde::Deserialize;

use super::report::REPLY_TIMEOUT;
use crate::http;
use crate::settings::Address;

/// Port of the page where nobody says otherwise (`nats-server -m 8222`).
const DEFAULT_MONITORING_PORT: u16 = 8222;
const DEFAULT_NATS_PORT: u16 = 4222;

/// `/varz` [nats-server `monitor.go`], as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Varz {
    /// Port for clients, by which one server is told from another.
    port: u16,
    jetstream: JetStreamVarz,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JetStreamVarz {
    config: JetStreamConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JetStreamConfig {
    /// Nanoseconds.
    sync_interval: u64,
    sync_always: bool,
}

impl Varz {
    /// Whether every write reaches the disk before it is answered (`sync_interval: always`).
    pub fn sync_always(&self) -> bool {
        self.jetstream.config.sync_always
    }

    pub fn sync_interval(&self) -> Duration {
        Duration::from_nanos(self.jetstream.config.sync_interval)
    }
}

/// `/varz` of the very server at `nats_url`; the error says why it is not known.
pub async fn varz(nats_url: &str) -> Result<Varz, String> {
    let server = Address::of(nats_url, DEFAULT_NATS_PORT).ok_or("the NATS URL names no host")?;
    let address = std::env::var("ONCUE_NATS_MONITOR")
        .ok()
        .filter(|named| !named.is_empty())
        .map_or_else(
            || format!("{}:{DEFAULT_MONITORING_PORT}", server.bracketed_host()),
            |named| without_scheme(&named).to_owned(),
        );
    let (status, body) = http::get(&address, "/varz", REPLY_TIMEOUT).await?;
    let varz: Varz = serde_json::from_str(&body)
        .map_err(|_| format!("{address}/varz is {status} and not JSON"))?;
    // Two servers on one machine cannot both have the default port of the page.
    if varz.port != server.port {
        let port = varz.port;
        return Err(format!("{address} belongs to another server (port {port})"));
    }
    Ok(varz)
}

fn without_scheme(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_with_and_without_jetstream() {
        let page = r#"{"server_id":"N","port":4222,"jetstream":{"config":{"max_memory":1,"sync_interval":120000000000}}}"#;
        let varz: Varz = serde_json::from_str(page).unwrap();
        assert_eq!(varz.sync_interval(), Duration::from_mins(2));
        assert!(!varz.sync_always());
        let off: Varz = serde_json::from_str(r#"{"port":4222,"jetstream":{}}"#).unwrap();
        assert_eq!((off.port, off.sync_interval()), (4222, Duration::ZERO));
    }

    #[test]
    fn an_address_may_be_given_as_a_url() {
        assert_eq!(without_scheme("http://nats:8222/"), "nats:8222");
        assert_eq!(without_scheme("nats:8222"), "nats:8222");
    }
}
