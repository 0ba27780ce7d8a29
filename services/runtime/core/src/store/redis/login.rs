//! Login to Redis, beyond what its URL says.

use std::path::{Path, PathBuf};

use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisError, TlsCertificates};

use crate::config::ClientTls;

/// Proof of who comes, besides what the URL says; read from its files at each connection, so that they can be replaced while
/// the process runs.
pub(super) struct Login {
    /// Password of the URL's user.
    pub password_file: Option<PathBuf>,
    /// Certificates.
    pub tls: ClientTls,
}

impl Login {
    /// Client for a server; fails where a file cannot be read.
    pub fn client(&self, mut info: ConnectionInfo) -> Result<Client, RedisError> {
        if let Some(file) = &self.password_file {
            let password = String::from_utf8(read(file)?)
                .map_err(|_| invalid(format!("{} is no text", file.display())))?;
            let settings = info.redis_settings().clone();
            info = info.set_redis_settings(settings.set_password(password.trim()));
        }
        if !self.tls.is_used() {
            return Client::open(info);
        }
        let identity = self.tls.identity().map_err(invalid)?;
        let client_tls = identity.map(|(certificate, key)| {
            Ok::<_, RedisError>(ClientTlsConfig {
                client_cert: read(certificate)?,
                client_key: read(key)?,
            })
        });
        let root_cert = self.tls.ca.as_deref().map(read).transpose()?;
        let certificates = TlsCertificates {
            client_tls: client_tls.transpose()?,
            root_cert,
        };
        Client::build_with_tls(info, certificates)
    }
}

/// Content of a file; the error names it.
fn read(file: &Path) -> Result<Vec<u8>, RedisError> {
    let text = std::fs::read(file);
    text.map_err(|e| invalid(format!("cannot read {}: {e}", file.display())))
}

fn invalid(why: String) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, why).into()
}
