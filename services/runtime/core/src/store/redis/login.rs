//! Login to Redis, beyond what its URL says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisError, TlsCertificates};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::ClientTls;

/// Proof of who comes, besides what the URL says; read from its files at each connection, so that they can be replaced while
/// the process runs.
pub(super) struct Login {
    /// Password of the URL's user.
    pub password_file: Option<PathBuf>,
    /// Password of the URL's user at sentinels.
    pub sentinel_password_file: Option<PathBuf>,
    /// Certificates.
    pub tls: ClientTls,
}

impl Login {
    /// Client for a server; fails where a file cannot be read.
    pub fn client(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        self.open(info, self.password_file.as_deref())
    }

    /// Client for a sentinel; fails where a file cannot be read.
    pub fn sentinel(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        self.open(info, self.sentinel_password_file.as_deref())
    }

    fn open(
        &self,
        mut info: ConnectionInfo,
        password: Option<&Path>,
    ) -> Result<Client, RedisError> {
        if let Some(file) = password {
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

    /// TLS of a connection that the client library does not make; fails where a file cannot be read.
    pub fn tls(&self) -> Result<Arc<ClientConfig>, RedisError> {
        let mut authorities = RootCertStore::empty();
        if let Some(file) = &self.tls.ca {
            for certificate in certificates(file)? {
                authorities
                    .add(certificate)
                    .map_err(|e| unusable(file, e))?;
            }
        } else {
            authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let config = ClientConfig::builder().with_root_certificates(authorities);
        let config = match self.tls.identity().map_err(invalid)? {
            Some((certificate, key)) => {
                let own = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(key, e))?;
                let config = config.with_client_auth_cert(certificates(certificate)?, own);
                config.map_err(|e| unusable(certificate, e))?
            }
            None => config.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

/// Certificates of a file; the error names it.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, RedisError> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    found.map_err(|e| unusable(file, e))
}

/// Content of a file; the error names it.
fn read(file: &Path) -> Result<Vec<u8>, RedisError> {
    std::fs::read(file).map_err(|e| unusable(file, e))
}

fn unusable(file: &Path, why: impl std::fmt::Display) -> RedisError {
    invalid(format!("cannot read {}: {why}", file.display()))
}

fn invalid(why: String) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, why).into()
}
