//! The blobs of an archive that were omitted so far.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::image::Digest;

/// How many blobs are omitted from one archive. An image has a few hundred; further ones are forwarded, which bounds
/// the memory for an archive with any number of members.
pub(super) const MOST: usize = 100_000;

/// Omitted blobs, in their order. A blob's digest is also its name in the archive.
#[derive(Debug, Default)]
pub(super) struct OmittedBlobs {
    left: BTreeMap<usize, (Digest, u64)>,
    places: HashMap<Digest, usize>,
    count: usize,
    pinned: HashSet<Digest>,
    /// Those that the engine had not, and that were stored instead.
    new: HashSet<Digest>,
    /// Whether a member with the name of a blob was sent.
    is_sent: bool,
}

/// What a load saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Savings {
    /// Blobs that were not sent.
    pub(super) blobs: usize,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Whether these are all the blobs of the archive: the engine had every one.
    pub(super) are_all: bool,
}

impl OmittedBlobs {
    pub(super) fn is_full(&self) -> bool {
        self.count >= MOST
    }

    /// Records an omitted member with the name of `digest`.
    pub(super) fn add(&mut self, digest: &Digest, size: u64) {
        self.take_out(digest);
        self.left.insert(self.count, (digest.clone(), size));
        self.places.insert(digest.clone(), self.count);
        self.count += 1;
    }

    /// Records a member that was omitted because it was stored, under a pin.
    pub(super) fn add_new(&mut self, digest: &Digest, size: u64) {
        self.add(digest, size);
        self.pinned.insert(digest.clone());
        self.new.insert(digest.clone());
    }

    /// Records that a member with the name of `digest` is sent; returns whether it replaces an omitted one.
    pub(super) fn remove(&mut self, digest: &Digest) -> bool {
        self.is_sent = true;
        self.take_out(digest)
    }

    fn take_out(&mut self, digest: &Digest) -> bool {
        self.places.remove(digest).is_some_and(|place| self.left.remove(&place).is_some())
    }

    /// Whether `digest` is certainly pinned.
    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        self.pinned.contains(digest)
    }

    pub(super) fn pinned(&mut self, digest: Digest) {
        self.pinned.insert(digest);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// What the engine had already.
    pub(super) fn savings(&self) -> Savings {
        let old = self.left.values().filter(|(digest, _)| !self.new.contains(digest));
        let (blobs, bytes) = old.fold((0, 0), |(blobs, bytes), (_, size)| (blobs + 1, bytes + size));
        Savings { blobs, bytes, are_all: blobs > 0 && self.new.is_empty() && !self.is_sent }
    }

    /// All omitted blobs, to be sent after all.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Digest, u64)> + use<> {
        self.places.clear();
        std::mem::take(&mut self.left).into_values()
    }
}
