//! Settings of the webhook from the environment, read whole before anything is opened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Webhook;
use super::signature::Signer;
use super::target::Target;

/// A request ends before the function does, so that the failure says what happened.
pub const LONGEST_TIMEOUT: Duration = Duration::from_mins(1);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const NAMES: [&str; 5] = [
    "WEBHOOK_URL",
    "WEBHOOK_SECRET",
    "WEBHOOK_ALLOW_PRIVATE",
    "WEBHOOK_TIMEOUT",
    "WEBHOOK_DELIVERY",
];

/// How often a request may be sent for one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    AtLeastOnce,
    AtMostOnce,
}

pub struct Settings {
    /// `None` without an address.
    pub webhook: Option<Webhook>,
    pub delivery: Delivery,
}

impl Settings {
    /// From the environment; a variable that is empty counts as not set.
    ///
    /// # Errors
    /// Every mistake there is, a line each, none of them quoting an address or a secret.
    pub fn from_env() -> Result<Self, Vec<String>> {
        let mut found = BTreeMap::new();
        let mut mistakes = Vec::new();
        for name in NAMES {
            match std::env::var_os(name).map(std::ffi::OsString::into_string) {
                Some(Ok(text)) => drop(found.insert(name, text)),
                Some(Err(_)) => mistakes.push(format!("{name} is not UTF-8")),
                None => {}
            }
        }
        match Self::read(&found) {
            Ok(settings) if mistakes.is_empty() => Ok(settings),
            Ok(_) => Err(mistakes),
            Err(more) => Err([mistakes, more].concat()),
        }
    }

    fn read(variables: &BTreeMap<&str, String>) -> Result<Self, Vec<String>> {
        let url = get(variables, "WEBHOOK_URL");
        let secret = get(variables, "WEBHOOK_SECRET");
        let mut mistakes = Vec::new();
        let allow_private = noted(
            get(variables, "WEBHOOK_ALLOW_PRIVATE").map_or(Ok(false), yes_or_no),
            &mut mistakes,
        );
        let timeout = noted(
            get(variables, "WEBHOOK_TIMEOUT").map_or(Ok(DEFAULT_TIMEOUT), timeout),
            &mut mistakes,
        );
        let delivery = noted(
            get(variables, "WEBHOOK_DELIVERY").map_or(Ok(Delivery::AtLeastOnce), delivery),
            &mut mistakes,
        );
        let target = url.and_then(|text| noted(target(text), &mut mistakes));
        let signer = secret.map(Signer::parse).and_then(|read| {
            read.map_err(|e| mistakes.extend(e.iter().map(|e| format!("WEBHOOK_SECRET: {e}"))))
                .ok()
        });
        if url.is_some() && secret.is_none() {
            mistakes
                .push("WEBHOOK_SECRET is not set: without it no receiver can tell our requests from others'".into());
        }
        // Only now, and only if it will be needed: reading root certificates takes some milliseconds.
        let https = target.as_ref().is_some_and(Target::is_https) && mistakes.is_empty();
        let tls = https
            .then(native_roots)
            .and_then(|read| noted(read.and_then(connector), &mut mistakes));
        let (Some(allow_private), Some(timeout), Some(delivery), true) =
            (allow_private, timeout, delivery, mistakes.is_empty())
        else {
            return Err(mistakes);
        };
        let webhook = target.zip(signer).map(|(target, signer)| Webhook {
            target,
            signer,
            tls,
            allow_private,
            timeout,
        });
        Ok(Self { webhook, delivery })
    }
}

/// A variable that is set to more than white space.
fn get<'v>(variables: &'v BTreeMap<&str, String>, name: &str) -> Option<&'v str> {
    variables
        .get(name)
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
}

/// A value, or nothing and one mistake more.
fn noted<T>(read: Result<T, String>, mistakes: &mut Vec<String>) -> Option<T> {
    read.map_err(|mistake| mistakes.push(mistake)).ok()
}

fn target(text: &str) -> Result<Target, String> {
    Target::parse(text).map_err(|e| format!("WEBHOOK_URL {e}"))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("WEBHOOK_ALLOW_PRIVATE is {text:?}: write true or false"))
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|e| {
        format!("WEBHOOK_TIMEOUT: {text:?} is no duration like \"30s\" or \"2h\": {e}")
    })?;
    if (SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&timeout) {
        return Ok(timeout);
    }
    Err(format!(
        "WEBHOOK_TIMEOUT is {text:?}, and must be {SHORTEST_TIMEOUT:?} to {LONGEST_TIMEOUT:?}"
    ))
}

fn delivery(text: &str) -> Result<Delivery, String> {
    match text {
        "at-least-once" => Ok(Delivery::AtLeastOnce),
        "at-most-once" => Ok(Delivery::AtMostOnce),
        other => Err(format!(
            "WEBHOOK_DELIVERY is {other:?}: write at-least-once or at-most-once"
        )),
    }
}

fn native_roots() -> Result<Vec<CertificateDer<'static>>, String> {
    let read = rustls_native_certs::load_native_certs();
    if read.certs.is_empty() {
        let why = read
            .errors
            .first()
            .map_or("none are installed".to_owned(), ToString::to_string);
        return Err(format!(
            "WEBHOOK_URL is https, but there are no root certificates ({why}): install ca-certificates, or say where \
             they are in SSL_CERT_FILE"
        ));
    }
    Ok(read.certs)
}

/// TLS 1.2 and 1.3 with ring, trusting `roots`. The provider is named here: what the process has installed, if
/// anything, is not ours to rely on.
pub fn connector(roots: Vec<CertificateDer<'static>>) -> Result<TlsConnector, String> {
    let mut trusted = RootCertStore::empty();
    // A machine's store holds some that are older than the rules; those are left out.
    trusted.add_parsable_certificates(roots);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn read(variables: &[(&'static str, &str)]) -> Result<Settings, Vec<String>> {
        Settings::read(
            &variables
                .iter()
                .map(|(name, text)| (*name, (*text).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn nothing_set_is_nothing_to_do() {
        for variables in [
            &[][..],
            &NAMES.map(|name| (name, " ")),
            &[("WEBHOOK_SECRET", SECRET)],
        ] {
            let settings = read(variables).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
            assert!(settings.webhook.is_none());
            assert_eq!(settings.delivery, Delivery::AtLeastOnce);
        }
    }

    #[test]
    fn all_is_read() {
        let settings = read(&[
            ("WEBHOOK_URL", "http://example.com/hook"),
            ("WEBHOOK_SECRET", SECRET),
            ("WEBHOOK_ALLOW_PRIVATE", "true"),
            ("WEBHOOK_TIMEOUT", "2s"),
            ("WEBHOOK_DELIVERY", "at-least-once"),
        ]);
        let webhook = settings
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
            .webhook
            .expect("an address");
        assert_eq!(webhook.target.to_string(), "http://example.com:80/hook");
        assert!(webhook.allow_private && webhook.tls.is_none());
        assert_eq!(webhook.timeout, Duration::from_secs(2));
        let settings = read(&[
            ("WEBHOOK_URL", "http://example.com/"),
            ("WEBHOOK_SECRET", SECRET),
        ]);
        let webhook = settings
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
            .webhook
            .expect("an address");
        assert!(
            !webhook.allow_private,
            "private addresses are refused unless asked for"
        );
    }

    #[test]
    fn every_mistake_is_told_and_no_secret_with_it() {
        let mistakes = read(&[
            (
                "WEBHOOK_URL",
                "ftp://ann:hunter2@example.com/?token=hunter3",
            ),
            ("WEBHOOK_SECRET", "hunter4 whsec_hunter5"),
            ("WEBHOOK_ALLOW_PRIVATE", "yes"),
            ("WEBHOOK_TIMEOUT", "soon"),
            ("WEBHOOK_DELIVERY", "sometimes"),
        ]);
        let mistakes = mistakes.err().expect("mistakes");
        let expected = [
            "WEBHOOK_ALLOW_PRIVATE is \"yes\": write true or false",
            "WEBHOOK_TIMEOUT: \"soon\" is no duration",
            "WEBHOOK_DELIVERY is \"sometimes\": write at-least-once or at-most-once",
            "WEBHOOK_URL is neither https nor http",
            "WEBHOOK_SECRET: secret number 1 does not begin with \"whsec_\"",
            "WEBHOOK_SECRET: secret number 2 ",
        ];
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:?}");
        for (mistake, expected) in mistakes.iter().zip(expected) {
            assert!(mistake.starts_with(expected), "{mistake}");
        }
        assert!(!mistakes.join("\n").contains("hunter"), "{mistakes:?}");
    }

    #[test]
    fn single_mistakes() {
        let url = ("WEBHOOK_URL", "http://example.com/");
        let secret = ("WEBHOOK_SECRET", SECRET);
        for (variables, part) in [
            (&[url][..], "WEBHOOK_SECRET is not set"),
            (&[url, secret, ("WEBHOOK_TIMEOUT", "0s")], "10ms to 60s"),
            (&[url, secret, ("WEBHOOK_TIMEOUT", "2min")], "10ms to 60s"),
            (&[("WEBHOOK_DELIVERY", "once")], "write at-least-once"),
            (
                &[("WEBHOOK_URL", "https://ann:pw@example.com/"), secret],
                "user name or password",
            ),
        ] {
            let mistakes = read(variables).err().expect("mistakes");
            assert!(
                mistakes.len() == 1 && mistakes[0].contains(part),
                "{mistakes:?}"
            );
        }
    }
}
