//! How a builder is reached.

use std::fmt;
use std::path::PathBuf;

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
