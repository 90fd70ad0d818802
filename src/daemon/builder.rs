//! What leads to a configured builder.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Builder, BuilderEndpoint};
use crate::http2::{ConnectionPool, Sharing};
use crate::net::{Dial, Upstream, UpstreamError};
use crate::tunnel::ExecDial;

/// How long the connection to a builder in a container waits for its next use. Commands of one sitting follow each other
/// within that time, and each would otherwise begin with a process of a tenth of a second.
pub(super) const KEEP_EXEC: Duration = Duration::from_secs(120);

/// Reads and checks TLS files, and connects to nothing yet.
pub(crate) fn dial(builder: &Builder) -> Result<Box<dyn Dial>, UpstreamError> {
    Ok(match &builder.endpoint {
        BuilderEndpoint::Socket(address) => Box::new(Upstream::new(address.clone(), builder.tls.as_ref())?),
        BuilderEndpoint::Container { container, docker } => Box::new(ExecDial::new(docker, container.clone())),
    })
}

/// The connections to it.
pub(super) fn connections(builder: &Builder) -> Result<Arc<ConnectionPool>, UpstreamError> {
    let sharing = match builder.endpoint {
        BuilderEndpoint::Socket(_) => Sharing::PerClient,
        BuilderEndpoint::Container { .. } => Sharing::Shared { idle: KEEP_EXEC },
    };
    Ok(ConnectionPool::new(dial(builder)?, sharing))
}
