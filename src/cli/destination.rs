//! Where commands work: the values of `--to`.

use std::fmt;
use std::str::FromStr;

use crate::engine::remote::{DaemonAddress, DaemonAddressError};
use crate::engine::{ClusterAddress, ClusterAddressError};

/// A daemon, or a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// The engine behind the daemon at this address.
    Daemon(DaemonAddress),
    /// Every node of a cluster.
    Cluster(ClusterAddress),
}

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DestinationError {
    #[error(transparent)]
    Address(#[from] DaemonAddressError),
    #[error("invalid address: {0}")]
    Cluster(#[from] ClusterAddressError),
}

impl DestinationError {
    /// What is wrong, and what was expected.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Address(error) => error.reason.clone(),
            Self::Cluster(error) => error.to_string(),
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        match ClusterAddress::is_meant(text) {
            true => Ok(Self::Cluster(text.parse()?)),
            false => Ok(Self::Daemon(text.parse()?)),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(address) => address.fmt(f),
            Self::Cluster(address) => address.fmt(f),
        }
    }
}
