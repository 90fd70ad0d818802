//! How a builder is reached.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Builder;
use crate::http2::{Link, Sharing};
use crate::net::{Address, Dial, Upstream, UpstreamError};
use crate::tunnel::{Container, ExecDial};

/// How long the connection to a builder in a container waits for its next use. Commands of one sitting follow each other
/// within that time, and each would otherwise begin with a process of a tenth of a second.
pub const KEEP_EXEC: Duration = Duration::from_secs(120);

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
    /// What leads to it. TLS files are read and checked here.
    ///
    /// # Errors
    /// When a TLS file cannot be used.
    pub fn dial(&self) -> Result<Box<dyn Dial>, UpstreamError> {
        Ok(match &self.endpoint {
            BuilderEndpoint::Socket(address) => Box::new(Upstream::new(address.clone(), self.tls.as_ref())?),
            BuilderEndpoint::Container { container, docker } => Box::new(ExecDial::new(docker, container.clone())),
        })
    }

    /// The connections to it.
    ///
    /// # Errors
    /// As [`Builder::dial`].
    pub fn link(&self) -> Result<Arc<Link>, UpstreamError> {
        let sharing = match self.endpoint {
            BuilderEndpoint::Socket(_) => Sharing::Each,
            BuilderEndpoint::Container { .. } => Sharing::Everybody { idle: KEEP_EXEC },
        };
        Ok(Link::new(self.dial()?, sharing))
    }

    /// Whether what passes between us and it can be read on the way.
    pub fn is_exposed(&self) -> bool {
        matches!(&self.endpoint, BuilderEndpoint::Socket(address) if self.tls.is_none() && !address.is_local())
    }
}
