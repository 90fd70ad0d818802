//! The stores of all builds of one builder, found by their ids.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tonic::Status;
use tower::ServiceExt as _;

use super::super::grpc::error_response;
use super::super::session::SessionContent;
use super::STORE_PREFIX;
use super::build::CacheBuild;
use super::options::CacheOptions;
use crate::caches::Caches;
use crate::export::Exports;
use crate::export_v1::proto::content_server::ContentServer;
use crate::http2::{Body, BodyError, MAX_MESSAGE_BYTES};
use crate::source::BuildkitContent;

/// The caches that one builder's builds read and write.
#[derive(Debug)]
pub(in super::super) struct Caching {
    /// `None` where the engine stores none.
    pub(super) caches: Option<Arc<Caches>>,
    pub(super) exports: Arc<Exports>,
    pub(super) content: Arc<BuildkitContent>,
    /// The builder's name.
    pub(super) builder: String,
    builds: Mutex<HashMap<String, Weak<CacheBuild>>>,
}

impl Caching {
    /// The caches of the builder `builder`, whose content store is `content`.
    pub(in super::super) fn new(
        caches: Option<Arc<Caches>>,
        exports: Arc<Exports>,
        builder: String,
        content: Arc<BuildkitContent>,
    ) -> Arc<Self> {
        Arc::new(Self { caches, exports, content, builder, builds: Mutex::default() })
    }

    /// Whether the engine stores caches.
    pub(in super::super) fn is_able(&self) -> bool {
        self.caches.is_some()
    }

    /// Whether a build has anything for us: entries of ours, or an import from a registry of which the engine has the image,
    /// with an inline cache.
    pub(in super::super) async fn is_wanted(&self, options: &CacheOptions) -> bool {
        if !options.is_empty() {
            return true;
        }
        let Some(caches) = self.caches.as_ref().filter(|caches| caches.reads_engine_images()) else { return false };
        for name in options.registries.iter().filter_map(|entry| entry.attrs.get("ref")?.parse().ok()) {
            if caches.inline(&name).await.is_ok_and(|found| !found.is_empty()) {
                return true;
            }
        }
        false
    }

    /// Makes the stores of `build` available for as long as somebody holds it.
    pub(super) fn add(&self, build: &Arc<CacheBuild>) {
        let mut builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        builds.retain(|_, build| build.strong_count() > 0);
        builds.insert(build.nonce.clone(), Arc::downgrade(build));
    }

    /// The build of the store `id` (`local:linkspan:NONCE`, `local:linkspan:NONCE/e0`), and which of its stores that is.
    fn find<'a>(&self, id: &'a str) -> Option<(Arc<CacheBuild>, &'a str)> {
        let path = id.strip_prefix("local:")?.strip_prefix(STORE_PREFIX)?;
        let (nonce, store) = path.split_once('/').unwrap_or((path, ""));
        let builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        Some((builds.get(nonce)?.upgrade()?, store))
    }
}

impl SessionContent for Caching {
    fn call(&self, store: &str, request: Request<Incoming>) -> BoxFuture<'static, Response<Body>> {
        let found = self.find(store).and_then(|(build, store)| build.store(store));
        let missing = Status::not_found(format!("linkspan: the build of the store {store} has ended"));
        Box::pin(async move {
            let Some(store) = found else { return error_response(&missing) };
            let server = ContentServer::new(store)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            let response: Result<_, Infallible> = server.oneshot(request).await;
            match response {
                Ok(response) => response.map(|body| body.map_err(BodyError::from).boxed_unsync()),
                Err(never) => match never {},
            }
        })
    }
}
