//! Where commands work: the values of `--to`.

use std::fmt;
use std::str::FromStr;

use crate::engine::remote::{DaemonAddress, DaemonAddressError};
use crate::engine::{ClusterAddress, ClusterAddressError};

/// What an address of a socket is, in the words of its error, and what else `--to` takes.
const SOCKETS: &str = "`tcp://host:port` or `ssh://[user@]host[:port][/path]`";
const ALL: &str = "`tcp://host:port`, `ssh://[user@]host[:port][/path]` or `kind://cluster`";

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
            false => text.parse().map(Self::Daemon).map_err(|error: DaemonAddressError| match text.contains("://") {
                true if ["unix://", "tcp://", "ssh://"].iter().any(|scheme| text.starts_with(scheme)) => error.into(),
                _ => DaemonAddressError { reason: error.reason.replace(SOCKETS, ALL), ..error }.into(),
            }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_destination_is_told_all_of_them() {
        for text in ["foo://x", "localhost:1", "here"] {
            let reason = text.parse::<Destination>().unwrap_err().reason();
            assert!(reason.starts_with("expected `unix:///path`, ") && reason.contains(ALL), "{text}: {reason}");
        }
        let reason = |text: &str| text.parse::<Destination>().unwrap_err().reason();
        assert!(reason("localhost:1").ends_with("; did you mean `tcp://localhost:1`?"));
        assert_eq!(reason("tcp://x"), "expected a port, as in `tcp://127.0.0.1:1234`");
        for text in ["unix:///a.sock", "/a.sock", "tcp://h:1", "ssh://u@h", "kind://dev"] {
            assert!(text.parse::<Destination>().is_ok(), "{text}");
        }
    }
}
