//! Builders in containers of this engine, which clients reach with `docker exec buildctl dial-stdio`.
//!
//! The creation of the exec is forwarded and recorded. When the exec is started, the buildkit door is served inside its
//! streams; towards the builder one HTTP/2 connection over a real exec serves all clients of the same builder, and
//! stays open for a while after its last use ([`pool`]). A client that reuses such a connection costs no process; the
//! exec that it created is started later and ends at once ([`deferred_execs`]).
//!
//! If the client or the process of an exec does not speak HTTP/2, the two are joined byte for byte ([`start`]).

mod create;
mod deferred_execs;
mod exec;
mod pending_execs;
mod pool;
mod start;

use std::sync::Arc;
use std::time::Duration;

use crate::docker_api::Api;
use crate::http2::{BuilderService, ConnectionPool};
use crate::net::{Address, Upstream};

use pending_execs::PendingExecs;
use pool::Pool;

/// Creates the service for a builder's clients, from the builder's name, for messages, and the connections to it.
type Services = Box<dyn Fn(String, Arc<ConnectionPool>) -> Arc<dyn BuilderService> + Send + Sync>;

/// How builders in containers are served.
pub struct Settings {
    /// The service for their clients.
    pub services: Services,
    /// How long an unused connection to a builder is kept.
    pub keep: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("keep", &self.keep).finish_non_exhaustive()
    }
}

/// The builders in containers of one engine.
#[derive(Debug)]
pub(super) struct Builders {
    docker: Arc<Api>,
    pending: PendingExecs,
    pool: Pool,
}

impl Builders {
    /// The builders of the engine behind `engine`; `None` if that is no socket of this machine.
    pub(super) fn new(settings: Settings, engine: &Upstream) -> Option<Self> {
        let Address::Unix(socket) = engine.address() else { return None };
        let docker = Arc::new(Api::new(socket));
        let pool = Pool::new(settings.services, settings.keep, Arc::clone(&docker));
        Some(Self { docker, pending: PendingExecs::default(), pool })
    }

    /// Closes every idle connection, and starts all deferred execs.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}
