//! How a builder is reached.

use std::fmt;
use std::path::PathBuf;

use super::Builder;
use crate::net::Address;
use crate::tunnel::Container;

/// Where a builder is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuilderEndpoint {
    /// A socket that it listens on.
    Socket(Address),
    /// A container that it runs in.
    Container {
        /// The container.
        container: Container,
        /// The socket of the dockerd that runs it.
        docker: PathBuf,
    },
}

impl fmt::Display for BuilderEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Container { container, .. } => container.fmt(f),
        }
    }
}

impl From<Address> for BuilderEndpoint {
    fn from(address: Address) -> Self {
        Self::Socket(address)
    }
}

impl Builder {
    /// Whether the connection to it crosses the network without TLS.
    pub fn is_exposed(&self) -> bool {
        matches!(&self.endpoint, BuilderEndpoint::Socket(address) if self.tls.is_none() && !address.is_local())
    }
}
