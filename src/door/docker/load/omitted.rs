//! Blobs that were omitted from an archive so far.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::image::Digest;

/// How many blobs are omitted from one archive at most. An image has a few hundred; what is beyond this passes, so that an
/// archive of countless members takes no countless memory.
pub(super) const MOST: usize = 100_000;

/// Blobs that were omitted, in their order. A blob's digest is also its name in the archive.
#[derive(Debug, Default)]
pub(super) struct OmittedBlobs {
    left: BTreeMap<usize, (Digest, u64)>,
    places: HashMap<Digest, usize>,
    count: usize,
    pinned: HashSet<Digest>,
}

/// What a load did not have to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Savings {
    /// Blobs that were not sent.
    pub(super) blobs: usize,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl OmittedBlobs {
    pub(super) fn is_full(&self) -> bool {
        self.count >= MOST
    }

    /// A member with the name of `digest` was omitted.
    pub(super) fn add(&mut self, digest: &Digest, size: u64) {
        self.remove(digest);
        self.left.insert(self.count, (digest.clone(), size));
        self.places.insert(digest.clone(), self.count);
        self.count += 1;
    }

    /// A member with the name of `digest` is sent, and replaces one that was omitted before; whether there was one.
    pub(super) fn remove(&mut self, digest: &Digest) -> bool {
        self.places.remove(digest).is_some_and(|place| self.left.remove(&place).is_some())
    }

    /// Whether `digest` is pinned for certain.
    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        self.pinned.contains(digest)
    }

    pub(super) fn pinned(&mut self, digest: Digest) {
        self.pinned.insert(digest);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn savings(&self) -> Savings {
        Savings { blobs: self.left.len(), bytes: self.left.values().map(|(_, size)| size).sum() }
    }

    /// All omitted blobs, to be sent after all.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Digest, u64)> + use<> {
        self.places.clear();
        std::mem::take(&mut self.left).into_values()
    }
}
