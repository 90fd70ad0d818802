//! A proxy in front of a builder's control socket that turns `--load` into a direct export.
//!
//! Everything passes untouched except three calls. `Solve`: an exporter that means "into the local
//! engine" becomes `image,store=false`, and the builder's answer is held until what the engine lacks has
//! been read from the builder's own content store and committed. `Status`: kept open meanwhile, to show that work.
//! `LLBBridge.Solve` and `Return` of such a build are remembered, so that it can be repeated when the
//! builder turns out not to hold its own image.

mod answer;
mod builder;
mod builds;
mod exporters;
mod grpc;
mod load;
mod progress;
mod repeat;
mod route;
mod solve;
mod status;
mod unary;
mod wire;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::export::Exports;
use crate::proxy::{self, Cut, Held, Link};

use builder::Builder;
use builds::Builds;
use route::Route;

pub use solve::rewrite;

/// How one builder is served.
#[derive(Debug)]
pub struct Settings {
    /// The builder, as users name it; shown in messages.
    pub builder: String,
    /// The connections to it.
    pub link: Arc<Link>,
    /// Whether plain `type=docker` (which on the wire cannot be told from `dest=FILE`) means a load.
    pub docker_is_load: bool,
}

/// The door to one builder.
#[derive(Debug)]
pub struct Door {
    builder: Builder,
    docker_is_load: bool,
    builds: Builds,
    exports: Arc<Exports>,
}

impl Door {
    /// A door to the builder of `settings`. Doors that share `exports` never send a blob twice at once.
    pub fn new(settings: Settings, exports: Arc<Exports>) -> Self {
        let Settings { builder, link, docker_is_load } = settings;
        Self { builder: Builder::new(builder, link), docker_is_load, builds: Builds::default(), exports }
    }

    /// Serves one client connection until either side ends it. When `drain` is cancelled, requests
    /// under way are finished and no new ones are taken.
    pub async fn serve<T>(self: Arc<Self>, connection: T, drain: CancellationToken)
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        match self.builder.link.connect().await {
            Ok(upstream) => self.serve_over(upstream, connection, drain).await,
            Err(error) => {
                tracing::warn!(builder = %self.builder.name, %error, "the builder cannot be reached");
                route::refuse_all(connection, drain, &error.to_string()).await;
            }
        }
    }

    /// The same over a connection to the builder that is there already.
    pub async fn serve_over<T>(self: Arc<Self>, upstream: Held, connection: T, drain: CancellationToken)
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (cut, builder) = (upstream.cut(), self.builder.name.clone());
        let route = Arc::new(Route::new(self, upstream));
        // Asked now, so that the build need not wait for it. Not needed any more when the client has gone.
        let asking = route.clone();
        let _asking = AbortOnDropHandle::new(tokio::spawn(async move { asking.exports_directly().await }));
        let served = proxy::serve(Cut::new(connection, cut.clone()), drain, |request| {
            let route = route.clone();
            async move { route.handle(request).await }
        });
        tokio::select! {
            // Words on standard error that came with the end go out first.
            biased;
            ended = served => if let Err(error) = ended {
                tracing::debug!(%error, "client connection ended");
            },
            () = cut.cancelled() => tracing::debug!(builder = %builder, "client connection ended with the builder's"),
        }
    }
}
