//! Where a dockerd is, in the syntax of docker's client.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::net::{Address, AddressError, Dial, SshAddress, SshAddressError, SshDial, Tls, Upstream, UpstreamError};

/// The ports of a `tcp://` address without one (docker/cli `opts/hosts.go`).
const PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// Where a dockerd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DockerAddress {
    /// A unix socket of this machine.
    Unix(PathBuf),
    /// `tcp://host:port`, with or without TLS.
    Tcp { address: Address, tls: Option<Tls> },
    /// `ssh://[user@]host[:port][/path]`.
    Ssh(SshAddress),
}

/// Why a text is not the address of a dockerd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DockerAddressError {
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
    pub(crate) fn reason(&self) -> &str {
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
    pub(crate) fn parse(host: &str, tls: Option<Tls>) -> Result<Self, DockerAddressError> {
        if SshAddress::is_meant(host) {
            return Ok(Self::Ssh(host.parse()?));
        }
        if host.split_once("://").is_some_and(|(scheme, _)| !matches!(scheme, "unix" | "tcp")) {
            return Err(DockerAddressError::Scheme(host.escape_debug().to_string()));
        }
        match with_port(host, tls.is_some()).parse()? {
            Address::Unix(path) => Ok(Self::Unix(path)),
            address => Ok(Self::Tcp { address, tls }),
        }
    }

    /// Whether it is a unix socket of this machine.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Self::Unix(_))
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

/// A `tcp://` address with docker's port, if it has none.
fn with_port(host: &str, is_tls: bool) -> String {
    let has_port = |authority: &str| authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    match host.strip_prefix("tcp://").map(|authority| authority.trim_end_matches('/')) {
        Some(authority) if !authority.is_empty() && !has_port(authority) => {
            format!("tcp://{authority}:{}", if is_tls { TLS_PORT } else { PORT })
        }
        _ => host.to_owned(),
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
            ("tcp://h/", tls(), "tcp://h:2376"),
            ("tcp://[::1]", tls(), "tcp://[::1]:2376"),
            ("tcp://[::1]:5", tls(), "tcp://[::1]:5"),
            ("ssh://u@h:22/run/x.sock", None, "ssh://u@h:22/run/x.sock"),
        ] {
            assert_eq!(DockerAddress::parse(host, tls).unwrap().to_string(), expected, "{host}");
        }
        for host in ["npipe:////./pipe/docker", "fd://", "http://h:1", "tcp://", "unix://x", "h", "ssh://-x", "h:2375"]
        {
            let error = DockerAddress::parse(host, None).unwrap_err();
            assert!(error.to_string().contains(host), "{error}");
        }
    }
}
