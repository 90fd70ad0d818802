//! The caches of an engine, as one build reads them.

use std::sync::Arc;

use crate::caches::{CacheReader, Caches};
use crate::export::PinnedBlobs;

/// The caches, and what the build reads of them.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) caches: Arc<Caches>,
    pub(super) reader: Arc<CacheReader>,
    pub(super) leases: Arc<PinnedBlobs>,
}

/// Keeps the versions that a build reads until it has ended and they are pinned, or cannot be.
#[derive(Debug)]
pub(super) struct KeptVersions(pub(super) Arc<CacheReader>);

impl Drop for KeptVersions {
    fn drop(&mut self) {
        self.0.release_versions();
    }
}
