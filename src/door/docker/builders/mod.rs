//! Builders in containers of this engine, which clients reach with `docker exec buildctl dial-stdio`.
//!
//! The creation of the exec is forwarded and remembered. When the exec is started, the buildkit door is served inside its
//! streams; towards the builder one HTTP/2 connection over a real exec serves all clients of the same builder, and stays
//! open for a while for the next one ([`pool`]). A client that finds such a connection costs no process; the exec that it
//! created is started later and ends at once ([`deferred_execs`]).
//!
//! An exec whose ends do not both speak HTTP/2 is joined byte for byte ([`start`]).

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

/// Makes what serves the clients of a builder: from its name, for messages, and the connections to it.
type Services = Box<dyn Fn(String, Arc<ConnectionPool>) -> Arc<dyn BuilderService> + Send + Sync>;

/// How builders in containers are served.
pub struct Settings {
    /// What serves their clients.
    pub services: Services,
    /// How long a connection to a builder waits for its next use.
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
    /// Those of the engine behind `engine`; `None` where that is no socket of this machine.
    pub(super) fn new(settings: Settings, engine: &Upstream) -> Option<Self> {
        let Address::Unix(socket) = engine.address() else { return None };
        let docker = Arc::new(Api::new(socket));
        let pool = Pool::new(settings.services, settings.keep, Arc::clone(&docker));
        Some(Self { docker, pending: PendingExecs::default(), pool })
    }

    /// Closes every connection that waits, and leaves nothing deferred.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}
