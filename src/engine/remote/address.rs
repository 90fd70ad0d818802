//! Where a daemon is reached.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::net::{Address, AddressError, Dial, SshAddress, SshAddressError, SshDial, Tls, Upstream, UpstreamError};

/// The address of a daemon's exporter API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonAddress {
    /// A socket that it listens on.
    Socket(Address),
    /// A host that has it on a unix socket, and is reached by ssh: `linkspan dial-stdio` runs there.
    Ssh(SshAddress),
}

/// Why a text is not the address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address `{text}`: {reason}")]
pub struct DaemonAddressError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it and what was expected.
    pub reason: String,
}

impl DaemonAddress {
    /// Whether only programs of this machine can reach it, or ssh sees to that.
    pub(super) fn is_safe(&self) -> bool {
        match self {
            Self::Socket(address) => address.is_local(),
            Self::Ssh(_) => true,
        }
    }

    /// Reads the files of TLS; does not connect.
    pub(super) fn dial(&self, tls: Option<&Tls>) -> Result<Arc<dyn Dial>, UpstreamError> {
        Ok(match self {
            Self::Socket(address) => Arc::new(Upstream::new(address.clone(), tls)?),
            Self::Ssh(address) => {
                let command: Vec<_> = ["linkspan", "dial-stdio"].into_iter().chain(address.socket()).collect();
                Arc::new(SshDial::new(address.clone(), &command))
            }
        })
    }
}

impl From<Address> for DaemonAddress {
    fn from(address: Address) -> Self {
        Self::Socket(address)
    }
}

impl From<AddressError> for DaemonAddressError {
    fn from(AddressError { text, reason }: AddressError) -> Self {
        Self { text, reason }
    }
}

impl From<SshAddressError> for DaemonAddressError {
    fn from(SshAddressError { text, reason }: SshAddressError) -> Self {
        Self { text, reason: reason.to_owned() }
    }
}

impl FromStr for DaemonAddress {
    type Err = DaemonAddressError;

    fn from_str(text: &str) -> Result<Self, DaemonAddressError> {
        if SshAddress::is_meant(text) {
            return Ok(Self::Ssh(text.parse()?));
        }
        Ok(Self::Socket(text.parse().map_err(AddressError::or_ssh)?))
    }
}

impl fmt::Display for DaemonAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Ssh(address) => address.fmt(f),
        }
    }
}
