//! A proxy in front of the engine's own socket: `DOCKER_HOST` points here, and everything works as there.
//!
//! Every request and answer passes as the bytes it came in, streams of every kind included. What is looked into is
//! decided in [`route`].

mod route;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::proxy::Upstream;
use crate::proxy::http1::{Connection, RelayError};

/// How the engine is served.
#[derive(Debug)]
pub struct Settings {
    /// The engine's own socket.
    pub upstream: Upstream,
}

/// The door to the engine's API.
#[derive(Debug)]
pub struct Door {
    upstream: Upstream,
}

impl Door {
    /// A door to the engine of `settings`.
    pub fn new(settings: Settings) -> Self {
        Self { upstream: settings.upstream }
    }

    /// Serves one client connection until either side ends it. When `drain` is cancelled, an exchange under way is
    /// finished and none is begun; byte streams go on until this future is dropped.
    pub async fn serve<T>(self: Arc<Self>, connection: T, drain: CancellationToken)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.exchanges(Connection::new(connection, self.upstream.clone(), drain)).await {
            Ok(()) => {}
            Err(error @ RelayError::Upstream(_)) => tracing::warn!(%error, "the engine cannot be reached"),
            Err(error) => tracing::debug!(%error, "client connection ended"),
        }
    }

    async fn exchanges<T>(&self, mut connection: Connection<T>) -> Result<(), RelayError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while let Some(exchange) = connection.next().await? {
            let Some(next) = self.route(exchange).await? else { break };
            connection = next;
        }
        Ok(())
    }
}
