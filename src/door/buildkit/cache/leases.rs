//! The leases of what a build reads of caches.

use std::sync::{Arc, Mutex, PoisonError};

use super::build::CacheBuild;
use crate::caches::{CacheReader, ResolvedPart};
use crate::engine::{Lease, Lifetime, Origin, Pin};
use crate::export::{Exports, unique_id};

/// Leases that are released when a build has ended. They keep what it reads although another process deletes its version.
#[derive(Debug)]
pub(super) struct ReadLeases {
    exports: Arc<Exports>,
    leases: Mutex<Vec<Arc<dyn Lease>>>,
}

impl ReadLeases {
    pub(super) fn new(exports: &Arc<Exports>) -> Self {
        Self { exports: exports.clone(), leases: Mutex::default() }
    }

    fn add(&self, lease: Arc<dyn Lease>) {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
    }
}

impl Drop for ReadLeases {
    fn drop(&mut self) {
        for lease in std::mem::take(self.leases.get_mut().unwrap_or_else(PoisonError::into_inner)) {
            self.exports.release(lease);
        }
    }
}

/// Keeps the versions that a build reads until it has ended and they are pinned, or cannot be.
#[derive(Debug)]
pub(super) struct KeptVersions(pub(super) Arc<CacheReader>);

impl Drop for KeptVersions {
    fn drop(&mut self) {
        self.0.release_versions();
    }
}

impl CacheBuild {
    /// Pins what `parts` list for as long as the build runs; beside it, so that it does not wait for synced writes of the engine.
    pub(super) fn keep(self: &Arc<Self>, parts: &[ResolvedPart]) {
        let listed = parts.iter().flat_map(|part| part.listed.layers.iter().chain([&part.listed.config]));
        let pins: Vec<Pin> = listed.map(Pin::from).collect();
        if pins.is_empty() {
            return;
        }
        let Some(stored) = self.stored.as_ref().map(Arc::downgrade) else { return };
        let (exports, origin, kept) = (self.caching.exports.clone(), self.origin(), self.kept.clone());
        self.caching.exports.clean_up(async move {
            let _kept = kept;
            let pinned = async {
                let lease = exports.engine().lease(&origin, Lifetime::Process).await?;
                match lease.pin(&pins).await {
                    Ok(_) => Ok(lease),
                    Err(error) => {
                        exports.release(lease);
                        Err(error)
                    }
                }
            };
            match pinned.await {
                // Lazy imports may be read after the build.
                Ok(lease) => match stored.upgrade() {
                    Some(stored) => stored.leases.add(lease),
                    None => exports.release(lease),
                },
                // The version's own lease is there all the same.
                Err(error) => tracing::debug!(%error, "what a build reads of caches has no lease of its own"),
            }
        });
    }

    /// Who reads and writes.
    pub(super) fn origin(&self) -> Origin {
        let (builder, principal) = (self.caching.builder.clone(), self.client.clone());
        Origin { export: unique_id(), door: "buildkit", builder, principal }
    }
}
