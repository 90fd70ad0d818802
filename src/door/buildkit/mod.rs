//! A proxy in front of a builder's control socket that turns `--load` into a direct export.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::proxy::Upstream;

/// How one builder is served.
#[derive(Debug)]
pub struct Settings {
    /// The builder, as users name it; shown in messages.
    pub builder: String,
    /// How it is reached.
    pub upstream: Upstream,
    /// Whether plain `type=docker` (which on the wire cannot be told from `dest=FILE`) means a load.
    pub docker_is_load: bool,
}

/// The door to one builder.
#[derive(Debug)]
pub struct Door {
    _settings: Settings,
    _engine: Arc<dyn Engine>,
}

impl Door {
    /// A door to the builder of `settings`, which exports into `engine`.
    pub fn new(settings: Settings, engine: Arc<dyn Engine>) -> Self {
        Self { _settings: settings, _engine: engine }
    }

    /// Serves one client connection until either side ends it. When `drain` is cancelled, requests
    /// under way are finished and no new ones are taken.
    pub async fn serve<T>(&self, connection: T, drain: CancellationToken)
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let _ = (connection, drain);
    }
}
