//! The pins of a lease.

use std::sync::Arc;

use super::super::local::{BlobStore, KnownParts, LeaseFile};
use crate::engine::{EngineError, Pin};
use crate::image::Digest;

/// The pins of one lease. Every method blocks.
#[derive(Debug)]
pub(super) struct Pins {
    blobs: Arc<BlobStore>,
    file: LeaseFile,
    export: String,
    parts: KnownParts,
}

impl Pins {
    pub(super) fn new(blobs: Arc<BlobStore>, file: LeaseFile, export: String) -> Self {
        Self { blobs, file, export, parts: KnownParts::default() }
    }

    /// Pins blobs, whether they are present or not. Those that are present after that stay.
    pub(super) fn add<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), EngineError> {
        self.file.pin(digests)
    }

    /// Removes one pin.
    pub(super) fn remove(&self, digest: &Digest) -> Result<(), EngineError> {
        self.file.unpin(digest)
    }

    /// Nothing is pinned any more: the lease is removed.
    pub(super) fn close(&self) {
        self.file.close();
    }

    /// All pins, including those of blobs that are not present.
    pub(super) fn all(&self) -> Vec<Digest> {
        self.file.pinned()
    }

    /// Pins the blobs that are present, and returns their sizes. Others get no line in the lease: clients may request
    /// any digest.
    pub(super) fn pin(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        let may_find: Vec<bool> = blobs.iter().map(|blob| self.blobs.may_find(blob)).collect();
        let candidates = || blobs.iter().zip(&may_find);
        self.add(candidates().filter(|(_, may)| **may).map(|(blob, _)| &blob.digest))?;
        // Looked up once more: a collector may have removed some before they were pinned.
        candidates().map(|(blob, may)| if *may { self.find(blob) } else { Ok(None) }).collect()
    }

    /// The size of a pinned blob, if it is present.
    pub(super) fn find(&self, blob: &Pin) -> Result<Option<u64>, EngineError> {
        self.blobs.find(blob, &self.export, &self.parts)
    }
}
