//! An upstream at a socket, with or without TLS.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::Pid;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::Address;
use super::counted::ConnectionCount;
use super::tls_alert::TlsAlertStream;
use super::unix_socket::connect_unix;
use super::verification::Unverified;
use crate::pem;

/// The time limit for connecting, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The size of a unix socket's send buffer. The default of 208 KiB fills in a tenth of a millisecond, so that a relay
/// would be woken for every few reads. The kernel limits it to `net.core.wmem_max`.
const SEND_BYTES: usize = 1 << 20;

/// Enlarges the send buffer of a unix socket.
pub(crate) fn enlarge(stream: &UnixStream) -> io::Result<()> {
    Ok(sockopt::set_socket_send_buffer_size(stream, SEND_BYTES)?)
}

/// TCP keepalive: the idle time before the first probe, the interval, and the number of lost probes. NATs and
/// load balancers drop connections that are silent for minutes.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// How long sent bytes may stay unacknowledged, in milliseconds; then the connection counts as lost. Without this limit
/// the kernel retransmits for a quarter of an hour (tcp(7), `tcp_retries2`).
const UNACKNOWLEDGED: u32 = 60_000;

/// Makes the kernel detect a dead connection, and close it.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = PROBES;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    Ok(sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED)?)
}

/// The protocols that TLS negotiates; grpc-go servers refuse connections without `h2`.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// TLS towards an upstream. All paths name PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The certificate authority that signed the server's certificate. A docker engine's may be one of the system's
    /// authorities; everything else requires it.
    pub ca: Option<PathBuf>,
    /// The client certificate, if the server asks for one; requires `key`.
    pub cert: Option<PathBuf>,
    /// The key of `cert`.
    pub key: Option<PathBuf>,
    /// The name in the server's certificate, if it differs from the address's host.
    pub server_name: Option<String>,
    /// Whether the server's certificate is left unverified, as a docker context may ask (`SkipTLSVerify`).
    pub skip_verify: bool,
}

/// An upstream at a socket.
#[derive(Clone)]
pub struct Upstream {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    count: Option<&'static ConnectionCount>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("address", &self.address).field("tls", &self.tls.is_some()).finish()
    }
}

/// Why an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// A TLS file is unreadable or wrong.
    #[error("{what} {path}: {reason}", path = path.display())]
    Tls {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The TLS settings are incomplete or contradict each other.
    #[error("TLS for {address}: {reason}")]
    Settings {
        /// The upstream.
        address: Address,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// It cannot be connected to.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The upstream.
        address: Address,
        /// The system's error.
        source: io::Error,
    },
}

impl UpstreamError {
    /// Whether TLS failed with a server that has it.
    pub(crate) fn is_of_tls_peer(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        let error = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        matches!(error, Some(rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_)))
    }
}

/// What it means that TLS failed: the library says what it received instead, and not that this is no TLS.
fn without_tls(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            io::Error::new(io::ErrorKind::InvalidData, format!("no TLS is spoken there ({error})"))
        }
        // Servers without TLS end a connection that begins so, or wait for more.
        _ if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            let kind = error.kind();
            io::Error::new(kind, format!("it ended at the beginning of TLS; perhaps none is spoken there ({error})"))
        }
        _ => error,
    }
}

/// A connected byte stream of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Debug + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Debug + Unpin + Send> Stream for T {}

impl Upstream {
    /// Prepares (reads and checks TLS files) but does not connect.
    ///
    /// # Errors
    /// When a TLS file cannot be used, or TLS is asked for on a unix socket.
    pub fn new(address: Address, tls: Option<&Tls>) -> Result<Self, UpstreamError> {
        let tls = tls.map(|tls| connector(&address, tls, HTTP2)).transpose()?;
        Ok(Self { address, tls, count: None })
    }

    /// An upstream without TLS.
    pub(crate) fn plain(address: Address) -> Self {
        Self { address, tls: None, count: None }
    }

    /// Like [`Upstream::new`], for a docker engine, whose TLS listeners speak HTTP/1.1 only (go-connections
    /// `sockets/tcp_socket.go`).
    ///
    /// # Errors
    /// When a TLS file cannot be used, or TLS is asked for on a unix socket.
    pub fn docker(address: Address, tls: Option<&Tls>) -> Result<Self, UpstreamError> {
        let tls = tls.map(|tls| connector(&address, tls, HTTP1)).transpose()?;
        Ok(Self { address, tls, count: None })
    }

    /// The same, with its connections counted in `count`.
    #[must_use]
    pub fn counted(self, count: &'static ConnectionCount) -> Self {
        Self { count: Some(count), ..self }
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connects; at most ten seconds.
    ///
    /// # Errors
    /// When the upstream does not accept the connection or TLS fails, with the system's reason.
    pub async fn connect(&self) -> Result<Box<dyn Stream>, UpstreamError> {
        let timeout = || io::Error::new(io::ErrorKind::TimedOut, "no response within 10 seconds");
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.dial())
            .await
            .unwrap_or_else(|_| Err(timeout()))
            .map_err(|source| UpstreamError::Connect { address: self.address.clone(), source })?;
        Ok(match self.count {
            Some(count) => Box::new(count.count(stream)),
            None => stream,
        })
    }

    /// The process that listens at a unix socket, as the kernel knows it (unix(7), `SO_PEERCRED`); `None` if this process
    /// cannot see it, and for an upstream over TCP.
    pub async fn process(&self) -> Option<Pid> {
        let Address::Unix(path) = &self.address else { return None };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect_unix(path)).await.ok()?.ok()?;
        Pid::from_raw(stream.peer_cred().ok()?.pid()?)
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        match &self.address {
            Address::Unix(path) => {
                let stream = connect_unix(path).await?;
                enlarge(&stream)?;
                Ok(Box::new(stream))
            }
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // Small gRPC messages must not wait for an acknowledgement.
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                match &self.tls {
                    None => Ok(Box::new(stream)),
                    Some((connector, name)) => {
                        let stream = connector.connect(name.clone(), stream).await.map_err(without_tls)?;
                        Ok(Box::new(TlsAlertStream { stream }))
                    }
                }
            }
        }
    }
}

fn connector(
    address: &Address,
    tls: &Tls,
    protocol: &[u8],
) -> Result<(TlsConnector, ServerName<'static>), UpstreamError> {
    let settings = |reason: &str| UpstreamError::Settings { address: address.clone(), reason: reason.to_owned() };
    let Address::Tcp { host, .. } = address else {
        return Err(settings("a unix socket needs none; remove the TLS settings or give a `tcp://` address"));
    };
    let builder = ClientConfig::builder();
    let builder = match &tls.ca {
        _ if tls.skip_verify => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::default())),
        Some(ca) => {
            let roots = pem::authorities(ca).map_err(|reason| tls_error("certificate authority", ca, reason))?;
            builder.with_root_certificates(roots)
        }
        None if protocol == HTTP1 => {
            let mut roots = RootCertStore::empty();
            // What cannot be read or parsed of a system's list is left out, as by other programs.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(settings("no certificate authority is named, and the system has none"));
            }
            builder.with_root_certificates(roots)
        }
        None => return Err(settings("the certificate authority is missing")),
    };
    let mut config = match (&tls.cert, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let wrong = |reason| tls_error("client certificate", cert, reason);
            let chain = pem::certificates(cert).map_err(wrong)?;
            let private = pem::private_key(key).map_err(|error| tls_error("client key", key, error))?;
            let certified = pem::certified(chain, private).map_err(wrong)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        _ => return Err(settings("the client certificate and its key go together; one is missing")),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = tls.server_name.clone().unwrap_or_else(|| host.clone());
    let name = ServerName::try_from(name.clone()).map_err(|_| settings(&format!("`{name}` is not a server name")))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

fn tls_error(what: &'static str, path: &Path, reason: String) -> UpstreamError {
    UpstreamError::Tls { what, path: pem::shown(path), reason }
}
