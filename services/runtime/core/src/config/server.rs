//! Servers that a program connects to, and how it says who it is.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ServerUrl;

/// Beginning of the subjects of JetStream's API, in an account that has JetStream itself.
pub const JETSTREAM_API: &str = "$JS.API";
/// Beginning of the subjects at which clients of NATS hear answers.
pub const INBOX: &str = "_INBOX";

/// Files in PEM that a client of TLS uses besides the certificates of the system; read anew at each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTls {
    /// Certificates of authorities that the server's may come from.
    pub ca: Option<PathBuf>,
    /// Own certificate, for a server that asks for one.
    pub certificate: Option<PathBuf>,
    /// Private key of the own certificate.
    pub key: Option<PathBuf>,
}

impl ClientTls {
    /// Whether there is anything to use.
    pub fn is_used(&self) -> bool {
        self.ca.is_some() || self.certificate.is_some()
    }

    /// Own certificate with its key; the error says which of the two is missing.
    pub fn identity(&self) -> Result<Option<(&Path, &Path)>, String> {
        match (self.certificate.as_deref(), self.key.as_deref()) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err("a certificate needs its key".to_owned()),
            (None, Some(_)) => Err("a key needs its certificate".to_owned()),
        }
    }
}

/// NATS, as a program reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServer {
    /// `ONCUE_NATS_URL`, or `[nats] url`; default `nats://127.0.0.1:4222`. Several of a cluster are separated by commas.
    pub url: ServerUrl,
    /// `ONCUE_NATS_CREDENTIALS`, or `[nats] credentials`: file with the seed of an nkey, or with a JWT and a seed (`.creds`).
    /// Read anew at each connection. Default none: the user of the URL, if there is one.
    pub credentials: Option<PathBuf>,
    /// `ONCUE_NATS_API_PREFIX`, or `[nats] api_prefix`: beginning of the subjects of JetStream's API, which an account that
    /// imports it has under another name. Default [`JETSTREAM_API`].
    pub api_prefix: String,
    /// `ONCUE_NATS_INBOX_PREFIX`, or `[nats] inbox_prefix`: beginning of the subjects at which answers are heard, for an account
    /// in which not everybody may hear everybody's. Default [`INBOX`].
    pub inbox_prefix: String,
    /// `ONCUE_NATS_CA`, `ONCUE_NATS_CERTIFICATE` and `ONCUE_NATS_KEY`, or `[nats.tls]`.
    pub tls: ClientTls,
}

/// Redis, as a program reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisServer {
    /// `ONCUE_REDIS_URL`, or `[redis] url`; default `redis://127.0.0.1:6379`. Or sentinels, and the name of the primary they
    /// watch: `redis+sentinel://HOST:26379,HOST:26379/NAME`, or `rediss+sentinel://` where both speak TLS.
    pub url: ServerUrl,
    /// `ONCUE_REDIS_PASSWORD_FILE`, or `[redis] password_file`: password of the URL's user, which then has none there. Read
    /// anew at each connection.
    pub password_file: Option<PathBuf>,
    /// `ONCUE_REDIS_SENTINEL_PASSWORD_FILE`, or `[redis] sentinel_password_file`: password of the URL's `sentinel_user` at
    /// sentinels. Read anew each time they are asked.
    pub sentinel_password_file: Option<PathBuf>,
    /// `ONCUE_REDIS_CA`, `ONCUE_REDIS_CERTIFICATE` and `ONCUE_REDIS_KEY`, or `[redis.tls]`; for `rediss://` and
    /// `rediss+sentinel://`.
    pub tls: ClientTls,
}

impl<U: Into<ServerUrl>> From<U> for NatsServer {
    /// Server at a URL, which has no other credentials.
    fn from(url: U) -> Self {
        Self {
            url: url.into(),
            credentials: None,
            api_prefix: JETSTREAM_API.to_owned(),
            inbox_prefix: INBOX.to_owned(),
            tls: ClientTls::default(),
        }
    }
}

impl From<&NatsServer> for NatsServer {
    fn from(server: &NatsServer) -> Self {
        server.clone()
    }
}

impl<U: Into<ServerUrl>> From<U> for RedisServer {
    /// Server at a URL, which has no other credentials.
    fn from(url: U) -> Self {
        Self {
            url: url.into(),
            password_file: None,
            sentinel_password_file: None,
            tls: ClientTls::default(),
        }
    }
}

impl From<&RedisServer> for RedisServer {
    fn from(server: &RedisServer) -> Self {
        server.clone()
    }
}

impl NatsServer {
    /// Variables by which another process reaches it as this one does.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("ONCUE_NATS_URL", self.url.expose().to_owned()),
            ("ONCUE_NATS_API_PREFIX", self.api_prefix.clone()),
            ("ONCUE_NATS_INBOX_PREFIX", self.inbox_prefix.clone()),
        ];
        let tls = &self.tls;
        let files = [
            ("ONCUE_NATS_CREDENTIALS", &self.credentials),
            ("ONCUE_NATS_CA", &tls.ca),
            ("ONCUE_NATS_CERTIFICATE", &tls.certificate),
            ("ONCUE_NATS_KEY", &tls.key),
        ];
        env.extend(paths(files));
        env
    }
}

impl RedisServer {
    /// Variables by which another process reaches it as this one does.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![("ONCUE_REDIS_URL", self.url.expose().to_owned())];
        let tls = &self.tls;
        let files = [
            ("ONCUE_REDIS_PASSWORD_FILE", &self.password_file),
            (
                "ONCUE_REDIS_SENTINEL_PASSWORD_FILE",
                &self.sentinel_password_file,
            ),
            ("ONCUE_REDIS_CA", &tls.ca),
            ("ONCUE_REDIS_CERTIFICATE", &tls.certificate),
            ("ONCUE_REDIS_KEY", &tls.key),
        ];
        env.extend(paths(files));
        env
    }
}

/// Variables of the files that there are; absolute, since the other process may run elsewhere.
fn paths<const N: usize>(
    files: [(&'static str, &Option<PathBuf>); N],
) -> impl Iterator<Item = (&'static str, String)> {
    files.into_iter().filter_map(|(name, file)| {
        let file = file.as_ref()?;
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        Some((name, absolute.display().to_string()))
    })
}
