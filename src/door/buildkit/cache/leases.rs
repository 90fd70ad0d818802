//! The leases of what a build reads of caches.

use std::sync::Arc;

use super::build::CacheBuild;
use crate::caches::{CacheReader, ResolvedPart};
use crate::engine::{Origin, Pin};
use crate::export::unique_id;

/// Keeps the versions that a build reads until it has ended and they are pinned, or cannot be.
#[derive(Debug)]
pub(super) struct KeptVersions(pub(super) Arc<CacheReader>);

impl Drop for KeptVersions {
    fn drop(&mut self) {
        self.0.release_versions();
    }
}

impl CacheBuild {
    /// Pins what `parts` list for as long as the build runs, or what it has imported lazily is read.
    pub(super) fn keep(self: &Arc<Self>, parts: &[ResolvedPart]) {
        let Some(stored) = &self.stored else { return };
        let pins = parts.iter().flat_map(ResolvedPart::blobs).map(Pin::from).collect();
        stored.leases.keep(self.origin(), pins, self.kept.clone());
    }

    /// Who reads and writes.
    pub(super) fn origin(&self) -> Origin {
        let (builder, principal) = (self.caching.builder.clone(), self.client.clone());
        Origin { export: unique_id(), door: "buildkit", builder, principal }
    }
}
