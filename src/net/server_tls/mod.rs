//! TLS of listeners: the server's certificate, and those of clients.
//!
//! The certificate is the user's (`ServerCertificate::Files`), or one that is signed by an authority of our own, which clients are
//! given once (`authority`). Files are read again when they change. With a client authority, clients are asked for a
//! certificate, and its name is who they are (`identity`).

mod authority;
mod doubts;
mod identity;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::{Connection, Principal};
use crate::pem;
use crate::reload::Reloaded;
use authority::Authority;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many configurations are kept: one for each address of this machine that clients reach, and each kind of door.
const MAX_CONFIGS: usize = 64;

/// The TLS settings of listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsSettings {
    /// The server's certificate.
    pub certificate: ServerCertificate,
    /// A PEM file of the authorities that sign clients' certificates.
    pub client_ca: Option<PathBuf>,
}

/// Where the server's certificate is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerCertificate {
    /// PEM files.
    Files {
        /// The certificate, with the intermediate ones behind it.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Made by this process, and signed by an authority that is kept in a folder.
    Generated {
        /// The folder.
        folder: PathBuf,
        /// The host names and addresses that it is for, beside those of this machine.
        names: Vec<String>,
    },
}

impl ServerCertificate {
    /// The file of the authority in `folder`, with its key.
    pub fn secret(folder: &Path) -> PathBuf {
        authority::secret(folder)
    }
}

/// What one door's clients have to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TlsRules {
    /// The protocol, by its ALPN name.
    pub protocol: &'static str,
    /// Whether a client without a certificate is turned away, where there is a client authority.
    pub requires_certificate: bool,
}

/// Why listeners can have no TLS.
#[derive(Debug, thiserror::Error)]
#[error("the {what} {path}: {reason}", path = path.display())]
pub struct ServerTlsError {
    /// What is wrong.
    pub(super) what: &'static str,
    /// Its file or folder.
    pub(super) path: PathBuf,
    /// What is wrong with it.
    pub(super) reason: String,
    /// What the user can do about it.
    pub(super) hint: Option<String>,
}

impl ServerTlsError {
    fn new(what: &'static str, path: &Path, reason: impl ToString) -> Self {
        Self { what, path: pem::shown(path), reason: reason.to_string(), hint: None }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// TLS of this process's listeners.
#[derive(Debug)]
pub struct ServerTls {
    files: Reloaded<Files>,
    authority: Option<Authority>,
    configs: Mutex<HashMap<(Option<IpAddr>, TlsRules), Config>>,
}

/// What the files hold.
#[derive(Debug)]
struct Files {
    certificate: Option<Arc<CertifiedKey>>,
    clients: Option<Arc<RootCertStore>>,
}

/// A configuration, and what it was made of.
#[derive(Debug)]
struct Config {
    files: Arc<Files>,
    outdated: Option<Instant>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads and checks the files; makes the authority if there is none and one is needed.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn open(settings: ServerTlsSettings) -> Result<Self, ServerTlsError> {
        let authority = match &settings.certificate {
            ServerCertificate::Files { .. } => None,
            ServerCertificate::Generated { folder, names } => Some(Authority::open(folder, names.clone())?),
        };
        let mut paths: Vec<_> = settings.client_ca.iter().cloned().collect();
        if let ServerCertificate::Files { cert, key } = &settings.certificate {
            paths.extend([cert.clone(), key.clone()]);
        }
        let files = Reloaded::open("TLS of listeners", paths, move || Files::read(&settings))?;
        Ok(Self { files, authority, configs: Mutex::default() })
    }

    /// What clients are to trust, for people: which certificate it is, and its fingerprint.
    pub fn describe(&self) -> Vec<String> {
        if let Some(authority) = &self.authority {
            return authority.describe();
        }
        let certificate = self.files.current().certificate.clone();
        let shown = certificate.iter().filter_map(|it| it.cert.first()).map(fingerprint);
        shown.map(|fingerprint| format!("TLS certificate of listeners: sha256 {fingerprint}")).collect()
    }

    /// Makes a TLS connection of one that was accepted. The client is its certificate, if it has one.
    ///
    /// # Errors
    /// When the handshake fails, or takes too long.
    pub async fn accept(
        &self,
        stream: TcpStream,
        peer: Principal,
        rules: TlsRules,
    ) -> io::Result<Connection<TlsStream<TcpStream>>> {
        let config = self.config(stream.local_addr()?.ip(), rules)?;
        let accepting = TlsAcceptor::from(config).accept(stream);
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
        let io = timeout(HANDSHAKE, accepting).await.map_err(|_| late())??;
        let certificate = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = match certificate {
            Some(certificate) => identity::of(certificate).map_err(io::Error::other)?,
            None => peer,
        };
        Ok(Connection { io, peer })
    }

    fn config(&self, local: IpAddr, rules: TlsRules) -> io::Result<Arc<ServerConfig>> {
        let files = self.files.current();
        let key = (self.authority.is_some().then_some(local), rules);
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = configs.get(&key)
            && Arc::ptr_eq(&known.files, &files)
            && known.outdated.is_none_or(|outdated| Instant::now() < outdated)
        {
            return Ok(known.config.clone());
        }
        let (certificate, outdated) = match (&files.certificate, &self.authority) {
            (Some(certificate), _) => (certificate.clone(), None),
            (None, Some(authority)) => {
                let (certificate, outdated) = authority.issue(local).map_err(io::Error::other)?;
                (certificate, Some(outdated))
            }
            (None, None) => return Err(io::Error::other("there is no certificate")),
        };
        let config = Arc::new(files.config(certificate, rules).map_err(io::Error::other)?);
        if configs.len() >= MAX_CONFIGS {
            configs.clear();
        }
        configs.insert(key, Config { files, outdated, config: config.clone() });
        Ok(config)
    }
}

impl Files {
    fn read(settings: &ServerTlsSettings) -> Result<Self, ServerTlsError> {
        let certificate = match &settings.certificate {
            ServerCertificate::Generated { .. } => None,
            ServerCertificate::Files { cert, key } => Some(Arc::new(certified(cert, key)?)),
        };
        let clients = settings.client_ca.as_deref().map(authorities).transpose()?.map(Arc::new);
        Ok(Self { certificate, clients })
    }

    fn config(
        &self,
        certificate: Arc<CertifiedKey>,
        rules: TlsRules,
    ) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
                let verifier =
                    if rules.requires_certificate { verifier } else { verifier.allow_unauthenticated() }.build()?;
                builder.with_client_cert_verifier(verifier as Arc<dyn ClientCertVerifier>)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(authority::Always(certificate)));
        if self.clients.is_some() {
            // A resumed session would outlive its client's certificate, since each one gives the next ticket.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = vec![rules.protocol.as_bytes().to_vec()];
        Ok(config)
    }
}

/// A certificate with its key, which fit together.
fn certified(cert: &Path, key: &Path) -> Result<CertifiedKey, ServerTlsError> {
    let chain =
        pem::certificates(cert).map_err(|reason| ServerTlsError::new("certificate of listeners", cert, reason))?;
    let private = pem::private_key(key).map_err(|reason| ServerTlsError::new("key of listeners", key, reason))?;
    let doubts = chain.first().map(doubts::of_certificate).unwrap_or_default();
    let certified = pem::certified(chain, private).map_err(|error| {
        ServerTlsError::new("certificate of listeners", cert, format!("with the key {}: {error}", key.display()))
    })?;
    for reason in doubts {
        tracing::warn!(path = %cert.display(), reason, "clients will refuse the certificate of listeners");
    }
    if let Some(reason) = doubts::of_key(key) {
        tracing::warn!("{reason}");
    }
    Ok(certified)
}

fn authorities(path: &Path) -> Result<RootCertStore, ServerTlsError> {
    pem::authorities(path).map_err(|reason| ServerTlsError::new("client authority", path, reason))
}

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint` writes it.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let bytes = Sha256::digest(certificate.as_ref());
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests;
