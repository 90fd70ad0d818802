//! The stores of all builds of one builder, found by their ids.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::Request;
use hyper::body::Incoming;
use tonic::Status;

use super::super::local_content::BuilderContent;
use super::super::session::{CallHandler, SessionCalls};
use super::super::store_calls::{serve, store};
use super::STORE_PREFIX;
use super::build::CacheBuild;
use super::context::CacheContext;
use super::error::failure;
use super::loopback::{CREDENTIALS, Loopback};
use super::options::CacheOptions;
use super::stored::Stored;
use crate::caches::{CacheBlobs, CacheError, CacheReader, Caches};
use crate::content_server::CallTarget;
use crate::export::Exports;
use crate::export_v1::ApiError;
use crate::http2::ConnectionPool;

/// The prefix that BuildKit puts before the id of a local store (`cache/remotecache/local`).
const LOCAL: &str = "local:";

/// The caches that one builder's builds read and write.
#[derive(Debug)]
pub(in super::super) struct Caching {
    pub(super) context: Arc<CacheContext>,
    builds: Mutex<HashMap<String, Weak<CacheBuild>>>,
}

impl Caching {
    /// The caches of the builder `builder`, whose content store is `content`.
    pub(in super::super) fn new(
        caches: Option<Arc<Caches>>,
        exports: Arc<Exports>,
        builder: String,
        content: Arc<BuilderContent>,
        connections: &Arc<ConnectionPool>,
    ) -> Arc<Self> {
        let is_lazy = caches.as_ref().is_some_and(|caches| caches.imports_lazily());
        let loopback = is_lazy.then(|| Loopback::new(connections.clone()));
        let context = Arc::new(CacheContext { caches, exports, content, builder, loopback });
        Arc::new(Self { context, builds: Mutex::default() })
    }

    /// Whether the engine stores caches.
    pub(in super::super) fn is_able(&self) -> bool {
        self.context.caches.is_some()
    }

    /// Whether a build has anything for us: entries of ours, or an import from a registry of which the engine has the image,
    /// with an inline cache.
    pub(in super::super) async fn handles(&self, options: &CacheOptions) -> bool {
        if !options.is_empty() {
            return true;
        }
        let Some(caches) = self.context.caches.as_ref().filter(|caches| caches.reads_engine_images()) else {
            return false;
        };
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
        let path = id.strip_prefix(LOCAL)?.strip_prefix(STORE_PREFIX)?;
        let (nonce, store) = path.split_once('/').unwrap_or((path, ""));
        let builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        Some((builds.get(nonce)?.upgrade()?, store))
    }
}

impl Caching {
    /// The handler of a call to one of our stores.
    fn content(&self, call: &Request<Incoming>) -> Option<CallHandler> {
        let id = store_of_ours(call)?;
        let found = self.find(id).and_then(|(build, store)| store_of(&build, store));
        let missing = Status::not_found(format!("linkspan: the build of the store {id} has ended"));
        Some(serve(found, missing))
    }
}

impl SessionCalls for Caching {
    fn handler_for(&self, session: &str, call: &Request<Incoming>) -> Option<CallHandler> {
        match &self.context.loopback {
            Some(loopback) if call.uri().path() == CREDENTIALS => loopback.credentials(session),
            _ => self.content(call),
        }
    }
}

/// The store `name` of a build: the empty one has what is imported, `e0` takes the first export.
fn store_of(build: &Arc<CacheBuild>, name: &str) -> Option<CallTarget> {
    let Stored { caches, reader, .. } = &**build.stored.as_ref()?;
    if name.is_empty() {
        return Some(CallTarget::Blobs(Arc::new(Imports(reader.clone()))));
    }
    let index: usize = name.strip_prefix('e')?.parse().ok()?;
    Some(CallTarget::Ingester(build.begun.get(index)?.get_or_init(|| build.begin(caches, index)).clone()))
}

/// The store of ours that a call is for.
pub(in super::super) fn store_of_ours<B>(call: &Request<B>) -> Option<&str> {
    store(call).filter(|store| store.strip_prefix(LOCAL).is_some_and(|id| id.starts_with(STORE_PREFIX)))
}

/// What a build imports, as the blobs of a store. An importer only asks for `Info` and reads (BuildKit `cache/remotecache`).
#[derive(Debug)]
pub(super) struct Imports(pub(super) Arc<CacheReader>);

impl CacheBlobs for Imports {
    fn reader(&self) -> &Arc<CacheReader> {
        &self.0
    }

    fn error(error: CacheError) -> ApiError {
        failure(error)
    }
}
