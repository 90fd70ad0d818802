//! The caches of one build: what it imports and exports, from its request to the response.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;
use tonic::Status;

use super::super::builds::Build;
use super::super::progress::remark;
use super::super::response::Keys;
use super::Caching;
use super::attributes::{ExportEntry, ignores_errors, shown};
use super::exports::{ShownExport, read_export};
use super::leases::KeptVersions;
use super::options::{CacheOptions, Replacements, edit_gateway, edit_solve};
use super::results::{self, CacheResult};
use super::stores::Imports;
use crate::caches::{CacheReader, Caches, Part};
use crate::content_server::Named;
use crate::export::{PinnedBlobs, unique_id};
use crate::net::Principal;

/// One build, as its calls share it.
#[derive(Debug)]
pub(in super::super) struct CacheBuild {
    pub(super) nonce: String,
    pub(super) caching: Arc<Caching>,
    pub(super) client: Principal,
    pub(super) build: Arc<Build>,
    pub(super) session: String,
    /// `None` where the builder cannot reach our stores, or the engine has none: then nothing is exported or imported.
    pub(super) stored: Option<Arc<Stored>>,
    pub(super) kept: Option<Arc<KeptVersions>>,
    pub(super) exports: Vec<ExportEntry>,
    begun: Vec<OnceLock<Arc<ShownExport>>>,
    pub(super) part: Mutex<Part>,
    /// What has taken the place of the imports so far. Held while more are looked up.
    pub(super) imports: AsyncMutex<Replacements>,
}

/// The caches, and what the build reads of them.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) caches: Arc<Caches>,
    pub(super) reader: Arc<CacheReader>,
    pub(super) leases: Arc<PinnedBlobs>,
}

/// The build and its request, as the builder gets it. Dropping it ends the exports.
#[derive(Debug)]
pub(in super::super) struct Cached {
    build: Arc<CacheBuild>,
    /// The edited request.
    pub(in super::super) message: Bytes,
}

impl Caching {
    /// Edits a request that has entries of ours. `is_split` says whether the builder can reach our stores: the client's
    /// session is split.
    ///
    /// # Errors
    /// When an export cannot be made and the user did not say that the build goes on without it.
    pub(in super::super) async fn solve(
        self: &Arc<Self>,
        message: &[u8],
        options: &CacheOptions,
        session: &str,
        is_split: bool,
        client: &Principal,
        build: &Arc<Build>,
    ) -> Result<Cached, Status> {
        let engine = self.exports.engine().identity().kind;
        let caches = match &self.caches {
            None => Err(format!("the engine {engine} stores no build caches")),
            Some(_) if !is_split => Err(TOO_LATE.to_owned()),
            Some(caches) => Ok(caches),
        };
        let mut exports = Vec::new();
        for (id, entry) in options.exports.iter().enumerate() {
            match caches.clone().and_then(|caches| read_export(caches, entry, client)) {
                Ok(mut export) => {
                    export.id = id;
                    exports.push(export);
                }
                Err(reason) => {
                    let text = format!("the cache export `{}`: {reason}", shown(entry));
                    if !ignores_errors(entry) {
                        return Err(Status::unknown(format!("linkspan: {text}")));
                    }
                    remark(build, &text);
                }
            }
        }
        let stored = caches.as_ref().ok().map(|caches| {
            let (reader, leases) = (CacheReader::new(caches.blobs()), PinnedBlobs::new(&self.exports));
            Arc::new(Stored { caches: Arc::clone(caches), reader, leases })
        });
        let cached = Arc::new(CacheBuild {
            nonce: unique_id(),
            caching: self.clone(),
            client: client.clone(),
            build: build.clone(),
            session: session.to_owned(),
            kept: stored.as_ref().map(|stored| Arc::new(KeptVersions(stored.reader.clone()))),
            stored,
            begun: exports.iter().map(|_| OnceLock::new()).collect(),
            exports,
            part: Mutex::new(options.part.clone()),
            imports: AsyncMutex::default(),
        });
        self.add(&cached);
        match (caches, options.imports.first()) {
            (Err(reason), Some(import)) => {
                remark(build, &format!("the cache import `{}` is left out: {reason}", shown(import)));
            }
            _ => cached.look_up(&options.lookups(cached.reads_images())).await,
        }
        let locals: Vec<_> =
            cached.exports.iter().enumerate().map(|(i, export)| export.local(cached.dest(i))).collect();
        let message = edit_solve(message, &locals, &*cached.imports.lock().await);
        let message = message.map_err(|error| Status::internal(error.to_string()))?;
        build.set_cache(&cached);
        Ok(Cached { build: cached, message })
    }
}

/// Why nothing can be read or written inside a client's session.
const TOO_LATE: &str = "another build already uses this client's session unsplit, so the builder cannot call Linkspan in it; \
                        hint: run this build alone";

impl CacheBuild {
    /// The store `name` of the build: the empty one has what is imported, `e0` takes the first export.
    pub(super) fn store(self: &Arc<Self>, name: &str) -> Option<Named> {
        let Stored { caches, reader, .. } = &**self.stored.as_ref()?;
        if name.is_empty() {
            return Some(Named::Blobs(Arc::new(Imports(reader.clone()))));
        }
        let index: usize = name.strip_prefix('e')?.parse().ok()?;
        Some(Named::Ingester(self.begun.get(index)?.get_or_init(|| self.begin(caches, index)).clone()))
    }

    /// A call of the gateway, with its imports replaced.
    pub(in super::super) async fn gateway(self: &Arc<Self>, message: Bytes) -> Bytes {
        let Ok(options) = CacheOptions::of_gateway(&message) else { return message };
        // The first call that has them is the build itself; others, such as those for its attestations, have none.
        if options.part != Part::default() {
            let mut part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
            if *part == Part::default() {
                *part = options.part.clone();
            }
        }
        if options.is_empty() && !self.reads_images() {
            return message;
        }
        self.look_up(&options.lookups(self.reads_images())).await;
        edit_gateway(&message, &*self.imports.lock().await).unwrap_or(message)
    }

    fn reads_images(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.caches.reads_engine_images())
    }

    pub(super) fn engine(&self) -> &'static str {
        self.caching.exports.engine().identity().kind.name()
    }
}

impl Cached {
    /// The build, as it is shown.
    pub(in super::super) fn shown(&self) -> Arc<Build> {
        self.build.build.clone()
    }

    /// Adds the results of the exports to what the client gets, and shows them.
    pub(in super::super) fn finish(&self, keys: &mut Keys) {
        if let Some(totals) = self.build.stored.as_ref().map(|stored| stored.reader.totals()).filter(|it| it.bytes > 0)
        {
            tracing::info!(blobs = totals.blobs, bytes = totals.bytes, "a build has read from build caches");
        }
        let mut results = Vec::new();
        for (entry, export) in self.build.exports.iter().zip(&self.build.begun) {
            let Some(export) = export.get() else { continue };
            let (exported, moved) = export.export.result();
            results.extend(exported.iter().map(|exported| CacheResult::new(entry.id, exported, moved)));
        }
        results::add(keys, &results);
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        for export in self.build.begun.iter().filter_map(|export| export.get().cloned()) {
            self.build.caching.exports.clean_up(async move { export.export.close().await });
        }
    }
}
