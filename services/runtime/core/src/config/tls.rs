//! TLS of the platform's own servers.

use std::path::PathBuf;

use serde::Deserialize;

/// `tls` of `[gateway]` and `[console]`: files in PEM, relative to that of the configuration, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate, and behind it those that lead to one that clients know.
    pub certificate: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
}
