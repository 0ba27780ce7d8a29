//! Certificates that the configuration names, and how long they are good for.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncue_core::config::{Config, TlsConfig};
use oncue_proto::event::format_time;
use x509_cert::Certificate;

use super::report::Report;

/// Time before the end from which on a finding says so.
const AHEAD: Duration = Duration::from_hours(30 * 24);
const ADVICE: &str = "put a new one in the place of the file: servers read it again within seconds, clients at their next connection";

/// Looks at each file.
pub fn check(config: &Config, report: &mut Report) {
    let before = report.0.len();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    for Named { whose, file, kind } in named(config) {
        let shown = file.display();
        match end(&file, kind) {
            Err(why) => report.fix(
                format!("{whose}: {shown}: {why}"),
                "a PEM file with certificates is expected",
            ),
            Ok(end) => {
                let date = format_time(u64::try_from(end.as_millis()).unwrap_or(u64::MAX));
                if end <= now {
                    report.fix(format!("{whose} has expired at {date}: {shown}"), ADVICE);
                } else if end.saturating_sub(now) < AHEAD {
                    report.fix(format!("{whose} expires at {date}: {shown}"), ADVICE);
                } else {
                    report.good(format!("{whose} is good until {date}"));
                }
            }
        }
    }
    report.label(before, "certificates");
}

/// File that the configuration names.
struct Named {
    whose: &'static str,
    file: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Certificate, and those that lead to one that others know: of no use once one of them has expired.
    Chain,
    /// Authorities, of which any does.
    Authorities,
}

impl Named {
    fn new(whose: &'static str, file: Option<PathBuf>, kind: Kind) -> Option<Self> {
        file.map(|file| Self { whose, file, kind })
    }
}

fn named(config: &Config) -> impl Iterator<Item = Named> {
    let nats = &config.nats.tls;
    let redis = &config.redis.tls;
    let gateway = own(config, config.gateway.tls.as_ref());
    let console = own(config, config.console.tls.as_ref());
    let nats_own = nats.certificate.clone();
    let redis_own = redis.certificate.clone();
    let files = [
        Named::new("certificate of the gateway", gateway, Kind::Chain),
        Named::new("certificate of the console", console, Kind::Chain),
        Named::new("client certificate for NATS", nats_own, Kind::Chain),
        Named::new("authority of NATS", nats.ca.clone(), Kind::Authorities),
        Named::new("client certificate for Redis", redis_own, Kind::Chain),
        Named::new("authority of Redis", redis.ca.clone(), Kind::Authorities),
    ];
    files.into_iter().flatten()
}

fn own(config: &Config, tls: Option<&TlsConfig>) -> Option<PathBuf> {
    tls.map(|tls| config.beside(&tls.certificate))
}

/// Time since the epoch from which on a file is of no use.
fn end(file: &Path, kind: Kind) -> Result<Duration, String> {
    let pem = fs::read(file).map_err(|e| e.to_string())?;
    let certificates = Certificate::load_pem_chain(&pem).map_err(|e| e.to_string())?;
    let ends = certificates.iter().map(|certificate| {
        let validity = certificate.tbs_certificate.validity;
        validity.not_after.to_unix_duration()
    });
    let end = match kind {
        Kind::Chain => ends.min(),
        Kind::Authorities => ends.max(),
    };
    end.ok_or_else(|| "it holds no certificate".to_owned())
}
