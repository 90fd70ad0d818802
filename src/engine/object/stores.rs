//! The stores of a bucket.

use std::sync::Arc;

use super::blob_store::BlobStore;
use super::bucket::Bucket;
use super::lease_store::LeaseStore;
use super::name_index::NameIndex;

/// The stores of one bucket.
#[derive(Debug)]
pub(super) struct Stores {
    pub(super) blobs: BlobStore,
    pub(super) names: NameIndex,
    pub(super) leases: LeaseStore,
}

impl Stores {
    pub(super) fn new(bucket: &Bucket) -> Arc<Self> {
        let (names, leases) = (NameIndex::new(bucket.clone()), LeaseStore::new(bucket.clone()));
        Arc::new(Self { blobs: BlobStore::new(bucket.clone()), names, leases })
    }

    /// The bucket.
    pub(super) fn bucket(&self) -> &Bucket {
        &self.blobs.bucket
    }
}
