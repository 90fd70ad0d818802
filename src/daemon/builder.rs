//! Connections to a configured builder.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Builder, BuilderEndpoint};
use crate::http2::{ConnectionPool, ConnectionSharing};
use crate::net::{Dial, Upstream, UpstreamError};
use crate::tunnel::ExecDial;

/// How long an idle connection to a builder in a container is kept. A new one starts a process, which takes a tenth of
/// a second; a user's next command usually follows within this time.
pub(super) const KEEP_EXEC: Duration = Duration::from_secs(120);

/// Reads and checks TLS files, but does not connect.
pub(crate) fn dial(builder: &Builder) -> Result<Box<dyn Dial>, UpstreamError> {
    Ok(match &builder.endpoint {
        BuilderEndpoint::Socket(address) => Box::new(Upstream::new(address.clone(), builder.tls.as_ref())?),
        BuilderEndpoint::Container { container, docker } => Box::new(ExecDial::new(docker, container.clone())),
    })
}

/// The connection pool for `builder`.
pub(super) fn connections(builder: &Builder) -> Result<Arc<ConnectionPool>, UpstreamError> {
    let sharing = match builder.endpoint {
        BuilderEndpoint::Socket(_) => ConnectionSharing::PerClient,
        BuilderEndpoint::Container { .. } => ConnectionSharing::Shared { idle: KEEP_EXEC },
    };
    Ok(ConnectionPool::new(dial(builder)?, sharing))
}
