//! A proxy in front of dockerd's own socket, to which `DOCKER_HOST` points.
//!
//! Every request and response is forwarded as the bytes that were received, including streams of every kind. `route`
//! picks the requests that are handled here. HTTP/2 connections are forwarded unchanged, unless names are restricted.

mod builders;
mod endless;
mod load;
mod route;
mod target;

#[cfg(any(test, fuzzing))]
pub(crate) use load::fuzz as load_fuzz;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Instrument as _, info_span};

use crate::export::Exports;
use crate::http1::{ClientConnection, Incoming, RelayError};
use crate::net::{self, Drain, Principal, Stream, Upstream};
use crate::status::StatusReport;
use crate::trace_context;

use builders::Builders;
use load::Loads;
use target::Target;

pub use builders::Settings as BuilderSettings;

/// How the engine is served.
#[derive(Debug)]
pub struct Settings {
    /// The engine's own socket.
    pub upstream: Upstream,
    /// The exports into that engine, which find the blobs that it has.
    pub exports: Arc<Exports>,
    /// How builders in its containers are served; if `None`, they are reached like any other container.
    pub builders: Option<BuilderSettings>,
}

/// The door to the engine's API.
#[derive(Debug)]
pub struct Door {
    upstream: Upstream,
    builders: Option<Builders>,
    loads: Loads,
    status: Option<StatusReport>,
    /// Whether it was already logged that the engine cannot be reached: once, not for every client.
    is_away: AtomicBool,
}

impl Door {
    /// A door to the engine of `settings`.
    pub fn new(settings: Settings) -> Self {
        let Settings { upstream, exports, builders } = settings;
        let builders = builders.and_then(|builders| Builders::new(builders, &upstream));
        let is_away = AtomicBool::new(false);
        Self { upstream, builders, loads: Loads::new(exports), status: None, is_away }
    }

    /// Adds the report that status requests get.
    #[must_use]
    pub fn with_status(mut self, status: Option<StatusReport>) -> Self {
        self.status = status;
        self
    }

    /// Serves one client connection until either side ends it. When `drain` is cancelled, a running exchange is
    /// finished, and requests that come at once are served; byte streams continue until this future is dropped.
    pub async fn serve<T>(self: Arc<Self>, connection: net::Connection<T>, drain: impl Into<Drain>)
    where
        T: Stream + 'static,
    {
        let (net::Connection { io, peer }, drain) = (connection, drain.into());
        let exchanges = ClientConnection::new(io, self.upstream.clone(), drain.clone());
        match self.exchanges(exchanges, &peer, &drain).await {
            Ok(()) => {}
            Err(error @ RelayError::Upstream(_)) if self.is_away.swap(true, Ordering::Relaxed) => {
                tracing::debug!(%error, "the engine still cannot be reached");
            }
            Err(error @ RelayError::Upstream(_)) => tracing::warn!(%error, "the engine cannot be reached"),
            Err(error) => tracing::debug!(%error, "client connection ended"),
        }
    }

    /// Closes idle connections. To be called after the last client has disconnected.
    pub async fn close(&self) {
        if let Some(builders) = &self.builders {
            builders.close().await;
        }
    }

    async fn exchanges<T>(
        &self,
        mut connection: ClientConnection<T>,
        client: &Principal,
        drain: &Drain,
    ) -> Result<(), RelayError>
    where
        T: Stream + 'static,
    {
        loop {
            let exchange = match connection.incoming().await? {
                Incoming::Request(exchange) => exchange,
                Incoming::Http2(whole) if self.loads.are_watched(client) => {
                    self.call_by_call(whole.take(), drain).await;
                    break;
                }
                Incoming::Http2(whole) => return whole.pass().await,
                Incoming::Nothing => break,
            };
            let (method, target) = (exchange.head().method(), Target::of(exchange.head().target()));
            let span = info_span!("exchange", method, path = target.path());
            trace_context::follow(&span, |name| std::str::from_utf8(exchange.head().headers().get(name)?).ok());
            let routed = self.route(exchange, client, drain).instrument(span.clone()).await;
            let next = routed.inspect_err(|error| {
                if let RelayError::Upstream(_) = error {
                    trace_context::fail(&span, error);
                }
            })?;
            if self.is_away.swap(false, Ordering::Relaxed) {
                tracing::info!("the engine responds again");
            }
            let Some(next) = next else { break };
            connection = next;
        }
        Ok(())
    }
}
