//! A proxy in front of a builder's control socket that turns `--load` into a direct export.
//!
//! Everything passes untouched except three calls. `Solve`: an exporter that means "into the local engine" becomes
//! `image,store=false`, and the builder's response is held back until the blobs that the engine lacks are read from the
//! builder's own content store and the image is committed. `Status`: kept open meanwhile, to show that work.
//! `LLBBridge.Solve` and `Return` of such a build are recorded, so that the build can be repeated if the builder lacks
//! layers of its own image.

mod builder;
mod builds;
mod cache;
mod compression;
mod entry;
mod explicit;
mod exporters;
mod finalize;
mod from_engine;
mod frontend_metadata;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod grpc;
mod load;
mod load_error;
mod local_content;
mod names;
mod pending_connection;
mod process;
mod progress;
mod rebuild;
mod remarks;
mod rescue;
mod response;
mod route;
mod session;
mod slow;
mod solve;
mod status;
mod status_frames;
mod store_calls;
mod unary;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::activity::{Activity, Refused};
use crate::build_outputs::{OutputOptions, SlowLoads};
use crate::caches::Caches;
use crate::export::Exports;
use crate::http2::{self, BuilderService, ConnectionPool, PooledConnection, full, until_end_of};
use crate::net::{CloseWith, Connection, Drain, Principal, Stream};
use crate::status::StatusReport;

use builder::Builder;
use builds::Builds;
use cache::Caching;
use finalize::Finalizers;
use from_engine::EngineImages;
use grpc::error_response;
use pending_connection::PendingConnection;
use session::{SessionCalls, Sessions};

pub use solve::rewrite;

/// How one builder is served.
#[derive(Debug)]
pub struct Settings {
    /// The builder, as users name it; shown in messages.
    pub builder: String,
    /// The connections to it.
    pub connections: Arc<ConnectionPool>,
    /// How the outputs of builds are treated.
    pub outputs: OutputOptions,
}

/// The call whose response stream lasts until the client ends it.
const LISTEN_HISTORY: &str = "/moby.buildkit.v1.Control/ListenBuildHistory";

/// The server side of one builder's endpoint.
#[derive(Debug)]
pub struct Door {
    builder: Arc<Builder>,
    outputs: OutputOptions,
    slow_loads: SlowLoads,
    builds: Builds,
    sessions: Sessions,
    finalizers: Arc<Finalizers>,
    exports: Arc<Exports>,
    caching: Arc<Caching>,
    engine_images: Option<Arc<EngineImages>>,
    status: Option<StatusReport>,
}

impl Door {
    /// A door to the builder of `settings`. Doors that share `exports` never send a blob twice at once.
    pub fn new(settings: Settings, exports: Arc<Exports>) -> Self {
        let Settings { builder, connections, outputs } = settings;
        let builder = Arc::new(Builder::new(builder, connections));
        let caching =
            Caching::new(None, exports.clone(), builder.name.clone(), builder.content(), &builder.connections);
        let finalizers = Arc::<Finalizers>::default();
        Self {
            builder,
            outputs,
            slow_loads: SlowLoads::default(),
            builds: Builds::default(),
            sessions: Sessions::new([finalizers.clone() as _]).counted(exports.activities()),
            finalizers,
            exports,
            caching,
            engine_images: None,
            status: None,
        }
    }

    /// Adds `caches` for cache exports and imports of type `linkspan`; without any, these are refused.
    #[must_use]
    pub fn with_caches(mut self, caches: Option<Arc<Caches>>) -> Self {
        let (name, content) = (self.builder.name.clone(), self.builder.content());
        self.caching = Caching::new(caches, self.exports.clone(), name, content, &self.builder.connections);
        self.with_sessions()
    }

    /// Lets builds take images whose names match one of `patterns` from the engine.
    #[must_use]
    pub fn with_engine_images(mut self, patterns: &[String]) -> Self {
        if patterns.is_empty() {
            return self;
        }
        match self.exports.engine().images() {
            Ok(images) => {
                let (exports, builder) = (self.exports.clone(), self.builder.name.clone());
                self.engine_images = Some(EngineImages::new(patterns, exports, images, builder));
            }
            Err(error) => tracing::warn!(%error, "builds take no images from the engine (--from-engine)"),
        }
        self.with_sessions()
    }

    /// Handles the calls in sessions that are for what this door has now.
    fn with_sessions(mut self) -> Self {
        let calls = [self.finalizers.clone() as Arc<dyn SessionCalls>, self.caching.clone() as _];
        let of_images = self.engine_images.clone().map(|images| images as _);
        self.sessions = Sessions::new(calls.into_iter().chain(of_images)).counted(self.exports.activities());
        self
    }

    /// Notes in `slow_loads` which loads the builder's compression made slow.
    #[must_use]
    pub fn with_slow_loads(mut self, slow_loads: SlowLoads) -> Self {
        self.slow_loads = slow_loads;
        self
    }

    /// Adds the report that `StatusReport` requests get.
    #[must_use]
    pub fn with_status(mut self, status: Option<StatusReport>) -> Self {
        self.status = status;
        self
    }

    /// Checks once whether the builder can be reached, and logs a warning if not.
    pub async fn probe(&self) {
        if let Err(error) = self.builder.connections.probe().await {
            let (builder, reason) = (&self.builder.name, error.reason());
            tracing::warn!(%builder, %reason, "the builder cannot be reached; builds wait for it a few seconds, and fail");
        }
    }

    /// Serves one client connection until either side ends it. When `drain` is cancelled, running requests are finished
    /// and no new ones are accepted.
    pub async fn serve<T>(self: Arc<Self>, connection: Connection<T>, drain: impl Into<Drain>)
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let cut = CancellationToken::new();
        let refusal = self.refusal(&connection.peer);
        let pending = PendingConnection::connect(self.clone(), connection.peer, cut.clone());
        self.serve_calls((pending, refusal), connection.io, drain.into(), cut).await;
    }

    /// Why calls of a client are refused: what a build reads and writes of caches, and what the builder does for it, such as naming
    /// images in a store that it shares with the engine, is not limited.
    fn refusal(&self, client: &Principal) -> Option<Status> {
        let message = "is limited by rules, which only the registry door can keep to; use that";
        let is_limited = !self.exports.policy(client).is_unlimited();
        is_limited.then(|| Status::permission_denied(format!("{client} {message}")))
    }

    async fn serve_calls<T>(
        &self,
        (pending, refusal): (PendingConnection, Option<Status>),
        connection: T,
        drain: Drain,
        cut: CancellationToken,
    ) where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let pending = Arc::new(pending);
        // A client without calls may never close its connection; calls are waited for.
        let _tunnel = drain.tunnel();
        let served = http2::serve(CloseWith::new(connection, cut.clone()), (*drain).clone(), |request| {
            // A request for our own status does not wait for the builder.
            let report = self
                .status
                .as_ref()
                .filter(|_| StatusReport::is_requested_by(&request))
                .map(|status| status.response(full));
            let refused = refusal.as_ref().map(|status| {
                self.exports.activities().emit(Activity::Refused { door: "buildkit", reason: Refused::Policy });
                error_response(status)
            });
            let report = refused.or(report);
            let pending = pending.clone();
            let call = (request.uri().path() != LISTEN_HISTORY).then(|| drain.call());
            async move {
                let response = match report {
                    Some(response) => response,
                    None => pending.handle(request).await?,
                };
                Ok(match call {
                    Some(call) => response.map(|body| until_end_of(body, call)),
                    None => response,
                })
            }
        });
        tokio::select! {
            // Text on standard error that arrived with the end is sent first.
            biased;
            ended = served => if let Err(error) = ended {
                tracing::debug!(%error, "client connection ended");
            },
            () = cut.cancelled() => tracing::debug!(builder = %self.builder.name, "client connection ended with the builder's"),
        }
    }
}

#[async_trait]
impl BuilderService for Door {
    async fn serve(self: Arc<Self>, upstream: PooledConnection, client: Connection<Box<dyn Stream>>, drain: Drain) {
        let cut = upstream.cut();
        let refusal = self.refusal(&client.peer);
        let pending = PendingConnection::over(self.clone(), client.peer, upstream);
        self.serve_calls((pending, refusal), client.io, drain, cut).await;
    }
}
