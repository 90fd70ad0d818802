//! Where a dockerd is, in the syntax of docker's client.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::net::{Address, AddressError, Dial, SshAddress, SshAddressError, SshDial, Tls, Upstream, UpstreamError};

/// The port of a `tcp://` address without one, with TLS or without (docker/cli `opts/hosts.go`, `defaultTCPHost`).
const PORT: u16 = 2375;

/// dockerd's socket where nothing else is configured.
pub const DEFAULT_DOCKER_HOST: &str = "unix:///var/run/docker.sock";

/// Where a dockerd is, with the TLS towards it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerAddress {
    /// A unix socket of this machine.
    Unix(PathBuf),
    /// `tcp://host:port`.
    Tcp {
        /// The address.
        address: Address,
        /// TLS, if it has that.
        tls: Option<Tls>,
    },
    /// `ssh://[user@]host[:port][/path]`.
    Ssh(SshAddress),
}

/// Why a text is not the address of a dockerd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerAddressError {
    /// As a socket or a TCP address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// As an address over ssh.
    #[error(transparent)]
    Ssh(#[from] SshAddressError),
    /// As anything.
    #[error("invalid address `{0}`: expected `unix:///path`, `tcp://host:port` or `ssh://[user@]host[:port][/path]`")]
    Scheme(String),
}

impl DockerAddressError {
    /// What is wrong with it and what was expected, without the address.
    pub fn reason(&self) -> &str {
        match self {
            Self::Address(error) => &error.reason,
            Self::Ssh(error) => error.reason,
            Self::Scheme(_) => "expected `unix:///path`, `tcp://host:port` or `ssh://[user@]host[:port][/path]`",
        }
    }
}

impl DockerAddress {
    /// Parses a docker host, as in `DOCKER_HOST`. `tls` is for `tcp://`; elsewhere it has no meaning, as with docker's
    /// client.
    ///
    /// # Errors
    /// When the text is none, or is one that this program cannot use.
    pub fn parse(host: &str, tls: Option<Tls>) -> Result<Self, DockerAddressError> {
        if SshAddress::is_meant(host) {
            return Ok(Self::Ssh(host.parse()?));
        }
        if host.split_once("://").is_some_and(|(scheme, _)| !matches!(scheme, "unix" | "tcp")) {
            return Err(DockerAddressError::Scheme(host.escape_debug().to_string()));
        }
        match with_port(host).parse().map_err(AddressError::or_ssh)? {
            Address::Unix(path) => Ok(Self::Unix(path)),
            address => Ok(Self::Tcp { address, tls }),
        }
    }

    /// The unix socket of this machine, if it is one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp { .. } | Self::Ssh(_) => None,
        }
    }

    /// The address that a connection is made to without another program; `None` over ssh.
    pub fn direct(&self) -> Option<Address> {
        match self {
            Self::Unix(path) => Some(Address::Unix(path.clone())),
            Self::Tcp { address, .. } => Some(address.clone()),
            Self::Ssh(_) => None,
        }
    }

    /// TLS towards it, if it has that.
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Tcp { tls, .. } => tls.as_ref(),
            Self::Unix(_) | Self::Ssh(_) => None,
        }
    }

    /// Reads the files of TLS; does not connect.
    pub(super) fn dial(&self) -> Result<Arc<dyn Dial>, UpstreamError> {
        Ok(match self {
            Self::Unix(path) => Arc::new(Upstream::plain(Address::Unix(path.clone()))),
            Self::Tcp { address, tls } => Arc::new(Upstream::docker(address.clone(), tls.as_ref())?),
            Self::Ssh(address) => Arc::new(SshDial::docker(address.clone())),
        })
    }
}

/// A TCP address with its scheme and docker's port, if it has none: what is neither a path nor has a scheme is one for docker's
/// client (docker/cli `opts/hosts.go`, `parseDockerDaemonHost`).
fn with_port(host: &str) -> String {
    let has_port = |authority: &str| authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let is_authority = || !host.is_empty() && !host.contains(['/', ' ']) && !host.starts_with('.');
    let authority = match host.strip_prefix("tcp://") {
        Some(authority) => authority.trim_end_matches('/'),
        None if is_authority() => host,
        None => return host.to_owned(),
    };
    match authority {
        "" => host.to_owned(),
        authority if has_port(authority) => format!("tcp://{authority}"),
        authority => format!("tcp://{authority}:{PORT}"),
    }
}

impl Default for DockerAddress {
    fn default() -> Self {
        Self::Unix(DEFAULT_DOCKER_HOST.trim_start_matches("unix://").into())
    }
}

/// Without TLS.
impl FromStr for DockerAddress {
    type Err = DockerAddressError;

    fn from_str(host: &str) -> Result<Self, DockerAddressError> {
        Self::parse(host, None)
    }
}

impl fmt::Display for DockerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { address, .. } => address.fmt(f),
            Self::Ssh(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hosts_are_read_as_docker_reads_them() {
        let tls = || Some(Tls::default());
        for (host, tls, expected) in [
            ("unix:///run/docker.sock", None, "unix:///run/docker.sock"),
            ("unix:///run/docker.sock", tls(), "unix:///run/docker.sock"),
            ("/run/docker.sock", None, "unix:///run/docker.sock"),
            ("tcp://h:1", None, "tcp://h:1"),
            ("tcp://h", None, "tcp://h:2375"),
            ("tcp://h/", tls(), "tcp://h:2375"),
            ("tcp://[::1]", tls(), "tcp://[::1]:2375"),
            ("127.0.0.1:23761", None, "tcp://127.0.0.1:23761"),
            ("h:2375", tls(), "tcp://h:2375"),
            ("[::1]:5", None, "tcp://[::1]:5"),
            ("h", None, "tcp://h:2375"),
            ("tcp://[::1]:5", tls(), "tcp://[::1]:5"),
            ("ssh://u@h:22/run/x.sock", None, "ssh://u@h:22/run/x.sock"),
        ] {
            assert_eq!(DockerAddress::parse(host, tls).unwrap().to_string(), expected, "{host}");
        }
        for host in
            ["npipe:////./pipe/docker", "fd://", "http://h:1", "tcp://", "unix://x", "ssh://-x", "h:x", "h/x", "a b"]
        {
            let error = DockerAddress::parse(host, None).unwrap_err();
            assert!(error.to_string().contains(host), "{error}");
        }
    }
}
