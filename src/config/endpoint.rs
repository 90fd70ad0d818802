//! How a builder is reached.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Builder;
use crate::http2::{Link, Sharing};
use crate::net::{Address, Dial, Upstream, UpstreamError};
use crate::tunnel::{Container, ExecDial};

/// How long an idle connection to a builder in a container is kept: consecutive commands reuse it, and save the tenth of a
/// second that starting a process takes.
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
    /// A dialer for it. TLS files are read and checked here.
    ///
    /// # Errors
    /// When a TLS file cannot be used.
    pub fn dial(&self) -> Result<Box<dyn Dial>, UpstreamError> {
        Ok(match &self.endpoint {
            BuilderEndpoint::Socket(address) => Box::new(Upstream::new(address.clone(), self.tls.as_ref())?),
            BuilderEndpoint::Container { container, docker } => Box::new(ExecDial::new(docker, container.clone())),
        })
    }

    /// A pool of connections to it.
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

    /// Whether the connection to it crosses the network without TLS.
    pub fn is_exposed(&self) -> bool {
        matches!(&self.endpoint, BuilderEndpoint::Socket(address) if self.tls.is_none() && !address.is_local())
    }
}
