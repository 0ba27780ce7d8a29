//! TLS of a server, with rustls and ring: 1.2 and 1.3, HTTP/2 and HTTP/1.1.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oncue_core::config::{Config, TlsConfig};
use parking_lot::{Mutex, RwLock};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Pause between two looks at the files. Certificates are renewed weeks before they end.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Name of HTTP/2 in ALPN [RFC 9113 section 3.1].
pub(crate) const HTTP_2: &[u8] = b"h2";

/// Certificate and key of a server. Files that change are read again, so a renewed certificate needs no restart; connections
/// that are open keep the one they began with.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    acceptor: RwLock<TlsAcceptor>,
    /// Content that was read last, whether or not it could be used.
    content: Mutex<Content>,
}

/// Bytes of both files.
#[derive(PartialEq, Eq)]
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files of a section of the configuration, if it names some.
    ///
    /// # Errors
    /// A line that names the section and the file that is not there, or what is wrong with the two.
    pub fn of(
        files: Option<&TlsConfig>,
        config: &Config,
        section: &str,
    ) -> Result<Option<Arc<Self>>, String> {
        let Some(files) = files else {
            return Ok(None);
        };
        let certificate = config.beside(&files.certificate);
        let loaded = Self::load(certificate, config.beside(&files.key));
        loaded
            .map(Some)
            .map_err(|why| format!("[{section}] tls: {why}"))
    }

    /// Reads both files; an error says what is wrong with which.
    fn load(certificate: PathBuf, key: PathBuf) -> Result<Arc<Self>, String> {
        let content = Content::read(&certificate, &key)?;
        let acceptor = content
            .acceptor()
            .map_err(|why| format!("{} and {}: {why}", certificate.display(), key.display()))?;
        Ok(Arc::new(Self {
            certificate,
            key,
            acceptor: RwLock::new(acceptor),
            content: Mutex::new(content),
        }))
    }

    /// Acceptor with the certificate as it is now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.read().clone()
    }

    /// Looks at the files for as long as it is polled.
    pub(crate) async fn follow(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    /// Reads the files, and uses them if they have changed and fit together. What does not is left alone until it changes:
    /// the two are rarely replaced at one moment.
    fn look(&self) {
        let content = match Content::read(&self.certificate, &self.key) {
            Ok(content) => content,
            Err(why) => {
                tracing::warn!("the certificate stays as it was: {why}");
                return;
            }
        };
        let mut known = self.content.lock();
        if *known == content {
            return;
        }
        match content.acceptor() {
            Ok(acceptor) => {
                *self.acceptor.write() = acceptor;
                tracing::info!(
                    certificate = %self.certificate.display(),
                    "the certificate was renewed"
                );
            }
            Err(why) => tracing::warn!(
                certificate = %self.certificate.display(),
                "the certificate stays as it was: {why}"
            ),
        }
        *known = content;
    }
}

impl Content {
    fn read(certificate: &Path, key: &Path) -> Result<Self, String> {
        Ok(Self {
            certificate: read(certificate)?,
            key: read(key)?,
        })
    }

    /// Acceptor of HTTP/1.1 and 2, with ring for cryptography and the versions of TLS that rustls holds safe, 1.2 and 1.3. Key and
    /// certificate that do not belong together are found here.
    fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(said)?;
        if chain.is_empty() {
            return Err("there is no certificate in the first".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(said)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(said)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(said)?;
        config.alpn_protocols = vec![HTTP_2.to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn said(e: impl Display) -> String {
    e.to_string()
}
