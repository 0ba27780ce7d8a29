//! Addresses of NATS and Redis, which may hold a password and must reach no log with it. A type, and no function that
//! hides the password: a `String` would sooner or later be printed by somebody who did not know.

use std::fmt;

use serde::Deserialize;

/// Parameters of a Redis URL that may be shown; whatever else stands behind `?` may be a secret.
const SHOWN_PARAMETERS: [&str; 2] = ["db", "protocol"];

/// URL of a server, or of several separated by commas; not checked before it is used. Prints without user, password
/// and token, in whatever form they stand there; only [`expose`](Self::expose) gives them away.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// URL with its secrets, to connect with.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Why this can be no address of NATS; `None` for one that may be.
    pub fn not_of_nats(&self) -> Option<String> {
        let mut schemes = self
            .0
            .split(',')
            .filter_map(|server| Some(server.trim().split_once("://")?.0));
        let wrong = schemes.find(|scheme| !["nats", "tls"].contains(scheme))?;
        Some(format!(
            "begins with {wrong}:// and is no address of NATS: write nats://HOST:4222, or tls://HOST:4222"
        ))
    }

    /// Same servers for somebody without credentials.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        let servers = self.0.split(',').map(|server| {
            let (scheme, rest) = server.split_once("://").unwrap_or(("", server));
            let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
            if scheme.is_empty() {
                address.to_owned()
            } else {
                format!("{scheme}://{address}")
            }
        });
        Self(servers.collect::<Vec<_>>().join(","))
    }

    /// Whether it names Redis Sentinels, and not the server itself.
    pub fn names_sentinels(&self) -> bool {
        self.0
            .split_once("://")
            .is_some_and(|(scheme, _)| scheme.ends_with("+sentinel"))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Behind `?` stand parameters, of which a Redis URL may have a user and a password.
        let (address, parameters) = match self.0.split_once('?') {
            Some((address, parameters)) => (address, Some(parameters)),
            None => (self.0.as_str(), None),
        };
        // A password may itself hold an `@`, or a `?`: whatever stands before the last one is left out.
        if let Some(parameters) = parameters.filter(|parameters| parameters.contains('@')) {
            // Unless it may be a parameter's: then nothing is sure, and nothing is shown.
            if address.contains('@') || parameters.contains('=') {
                return write!(f, "{}***", scheme(address));
            }
            let host = parameters.rsplit('@').next().unwrap_or_default();
            return write!(f, "{}***@{host}", scheme(address));
        }
        match address.rfind('@') {
            Some(at) => write!(f, "{}***{}", scheme(address), &address[at..])?,
            None => f.write_str(address)?,
        }
        let Some(parameters) = parameters else {
            return Ok(());
        };
        for (number, parameter) in parameters.split('&').enumerate() {
            f.write_str(if number == 0 { "?" } else { "&" })?;
            match parameter.split_once('=') {
                Some((name, _)) if !SHOWN_PARAMETERS.contains(&name) => write!(f, "{name}=***")?,
                Some(_) => f.write_str(parameter)?,
                None => f.write_str("***")?,
            }
        }
        Ok(())
    }
}

/// Scheme of an address with `://`; empty where there is none.
fn scheme(address: &str) -> &str {
    address
        .find("://")
        .map_or("", |scheme| &address[..scheme + "://".len()])
}

/// As [`Display`](fmt::Display) has it, in quotes: a configuration may be printed as a whole.
impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Any text may be a URL; the client that connects says whether it is one.
impl From<String> for ServerUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl From<&String> for ServerUrl {
    fn from(url: &String) -> Self {
        Self(url.clone())
    }
}

impl From<&str> for ServerUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

/// For functions that take `impl Into<ServerUrl>`.
impl From<&Self> for ServerUrl {
    fn from(url: &Self) -> Self {
        url.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_something_else_is_told_from_one_of_nats() {
        for right in ["nats://a:1, nats://b", "tls://me:p@a", "a:4222", "a,b"] {
            assert_eq!(ServerUrl::from(right).not_of_nats(), None, "{right}");
        }
        for wrong in ["http://a:4222", "nats://a,redis://:s3cret@b"] {
            let why = ServerUrl::from(wrong).not_of_nats().expect(wrong);
            assert!(
                why.contains("nats://HOST") && !why.contains("s3cret"),
                "{why}"
            );
        }
    }

    #[test]
    fn an_anonymous_url_names_nobody() {
        for (url, anonymous) in [
            ("nats://me:s3@a:1, nats://b", "nats://a:1, nats://b"),
            ("redis://u:p@[::1]:6379/2", "redis://[::1]:6379/2"),
            ("me@a", "a"),
        ] {
            let made = ServerUrl::from(url).anonymous();
            // Blanks around servers are none of its business.
            let bare = |text: &str| text.replace(' ', "");
            assert_eq!(bare(made.expose()), bare(anonymous));
        }
    }

    #[test]
    fn no_form_prints_a_password() {
        for (url, shown) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("nats://me:s3cret@a:1", "nats://***@a:1"),
            ("nats://s3cret@a", "nats://***@a"),
            ("nats://a:1, nats://me:s3cret@b,c", "nats://***@b,c"),
            ("me:s3cret@a:1", "***@a:1"),
            ("redis://:s3cret@h@a/2", "redis://***@a/2"),
            ("redis://:s3cret?s3cret@a", "redis://***@a"),
            (
                "redis+unix:///r.sock?db=2&user=me&pass=s3cret",
                "redis+unix:///r.sock?db=2&user=***&pass=***",
            ),
            ("unix:///r.sock?pass=s3cret", "unix:///r.sock?pass=***"),
            ("unix:///r.sock?s3cret", "unix:///r.sock?***"),
            ("unix:///r.sock?pass=a@s3cret", "unix://***"),
            (
                "redis+sentinel://me:s3cret@a:1,b/main/2?sentinel_user=me&sentinel_pass=s3cret",
                "redis+sentinel://***@a:1,b/main/2?sentinel_user=***&sentinel_pass=***",
            ),
            (
                "redis+sentinel://a/main?sentinel_pass=a@s3cret",
                "redis+sentinel://***",
            ),
            (
                "redis+sentinel://:p@a/main?s3cret@s3cret",
                "redis+sentinel://***",
            ),
        ] {
            let url = ServerUrl::from(url);
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("s3cret"), "{url:?}");
        }
    }
}
