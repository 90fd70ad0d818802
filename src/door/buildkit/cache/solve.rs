//! A `Solve` with cache entries of ours: what takes their place, and what the build's end makes of them.

use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;
use tonic::Status;

use super::super::builds::Build;
use super::super::progress::remark;
use super::super::response::Keys;
use super::attributes::{ignores_errors, shown};
use super::build::CacheBuild;
use super::exports::read_export;
use super::options::{CacheOptions, edit_solve};
use super::results::{self, CacheResult};
use super::stored::{KeptVersions, Stored};
use super::stores::Caching;
use crate::activity::Refused;
use crate::caches::CacheReader;
use crate::export::{PinnedBlobs, unique_id};
use crate::net::Principal;

/// The caches of a build and its request, as the builder gets it. Dropping it ends the exports.
#[derive(Debug)]
pub(in super::super) struct Cached {
    caches: Arc<CacheBuild>,
    /// The edited request.
    pub(in super::super) message: Bytes,
}

/// Why a request with entries of ours is refused: the reason, if it is the client's doing, and what the client is told.
pub(in super::super) type CacheRefusal = (Option<Refused>, Status);

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
    ) -> Result<Cached, CacheRefusal> {
        let engine = self.context.exports.engine().identity().kind;
        let caches = match &self.context.caches {
            None => Err(format!("the engine {engine} stores no build caches")),
            Some(_) if !is_split => Err(TOO_LATE.to_owned()),
            Some(caches) => Ok(caches),
        };
        let mut exports = Vec::new();
        for (id, entry) in options.exports.iter().enumerate() {
            let read = caches.clone().map_err(|reason| (None, reason));
            match read.and_then(|caches| read_export(caches, entry, client)) {
                Ok(mut export) => {
                    export.id = id;
                    exports.push(export);
                }
                Err((counted, reason)) => {
                    let text = format!("the cache export `{}`: {reason}", shown(entry));
                    if !ignores_errors(entry) {
                        return Err((counted, Status::unknown(format!("linkspan: {text}"))));
                    }
                    remark(&build.frames, &text);
                }
            }
        }
        let stored = caches.as_ref().ok().map(|caches| {
            let (reader, leases) = (CacheReader::new(caches.blobs()), PinnedBlobs::new(&self.context.exports));
            Arc::new(Stored { caches: Arc::clone(caches), reader, leases })
        });
        let cached = Arc::new(CacheBuild {
            nonce: unique_id(),
            context: self.context.clone(),
            client: client.clone(),
            frames: build.frames.clone(),
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
                remark(&build.frames, &format!("the cache import `{}` is left out: {reason}", shown(import)));
            }
            _ => cached.look_up(&options.lookups(cached.reads_images())).await,
        }
        let locals: Vec<_> =
            cached.exports.iter().enumerate().map(|(i, export)| export.local(cached.dest(i))).collect();
        let message = edit_solve(message, &locals, &*cached.imports.lock().await);
        let message = message.map_err(|error| (None, Status::internal(error.to_string())))?;
        build.set_cache(&cached);
        Ok(Cached { caches: cached, message })
    }
}

/// Why nothing can be read or written inside a client's session.
const TOO_LATE: &str = "another build already uses this client's session unsplit, so the builder cannot call Linkspan in it; \
                        hint: run this build alone";

impl Cached {
    /// Adds the results of the exports to what the client gets, and shows them.
    pub(in super::super) fn finish(&self, keys: &mut Keys) {
        if let Some(totals) = self.caches.stored.as_ref().map(|stored| stored.reader.totals()).filter(|it| it.bytes > 0)
        {
            tracing::info!(blobs = totals.blobs, bytes = totals.bytes, "a build has read from build caches");
        }
        let mut results = Vec::new();
        for (entry, export) in self.caches.exports.iter().zip(&self.caches.begun) {
            let Some(export) = export.get() else { continue };
            let (exported, moved) = export.export.result();
            results.extend(exported.iter().map(|exported| CacheResult::new(entry.id, exported, moved)));
        }
        results::add(keys, &results);
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        for export in self.caches.begun.iter().filter_map(|export| export.get().cloned()) {
            self.caches.context.exports.clean_up(async move { export.export.close().await });
        }
    }
}
