//! Builders in containers of this engine, which clients reach with `docker exec buildctl dial-stdio`.
//!
//! The exec's creation passes and is remembered. When it starts, we stand between: towards the client we are the process,
//! with the buildkit door inside its streams; towards the builder one HTTP/2 connection over a real exec serves every
//! client that asked for the same, and waits a while for the next ([`pool`]). A client that finds one waiting costs no
//! process; the exec that it created is then started late and ends at once ([`unstarted`]).
//!
//! Whatever is not HTTP/2 on both ends is joined byte for byte ([`start`]).

mod create;
mod exec;
mod pool;
mod remembered;
mod start;
mod unstarted;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::docker_api::Api;
use crate::http2::{Held, Link};
use crate::net::{Address, Connection, Drain, Stream, Upstream};

use pool::Pool;
use remembered::Remembered;

/// Serves one client of a builder over a connection to it, until either ends.
pub type Serve = Arc<dyn Fn(Held, Connection<Box<dyn Stream>>, Drain) -> BoxFuture<'static, ()> + Send + Sync>;

/// Makes what serves the clients of a builder: from its name, for messages, and the connections to it.
pub type Doors = Box<dyn Fn(String, Arc<Link>) -> Serve + Send + Sync>;

/// How builders in containers are served.
pub struct Settings {
    /// What serves their clients.
    pub doors: Doors,
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
    remembered: Remembered,
    pool: Pool,
}

impl Builders {
    /// Those of the engine behind `engine`; `None` where that is no socket of this machine.
    pub(super) fn new(settings: Settings, engine: &Upstream) -> Option<Self> {
        let Address::Unix(socket) = engine.address() else { return None };
        let docker = Arc::new(Api::new(socket));
        let pool = Pool::new(settings.doors, settings.keep, Arc::clone(&docker));
        Some(Self { docker, remembered: Remembered::default(), pool })
    }

    /// Closes every connection that waits, and leaves nothing unstarted.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}
