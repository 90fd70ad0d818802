//! Build caches in a repository: entries of its index.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use bytes::Bytes;

use super::super::local::{BlobReader, Entry, LayoutIndex, MAX_FOREIGN};
use super::images::RepositoryImages;
use super::lease::RepositoryLease;
use super::stores::Stores;
use crate::engine::caches::{
    CacheContent, CacheDocument, CacheStore, CacheVersion, NewVersion, PendingVersion, blobs_of, check_ids,
    check_sizes, is_touch_due, lease_origin, now, sort,
};
use crate::engine::images::Images;
use crate::engine::{EngineError, Lease, Origin};
use crate::image::{Descriptor, Digest, Limits};

/// The caches of a repository.
#[derive(Debug)]
pub(crate) struct RepositoryCaches {
    stores: Arc<Stores>,
    address: String,
}

impl RepositoryCaches {
    pub(super) fn new(stores: Arc<Stores>, address: &str) -> Self {
        Self { stores, address: address.to_owned() }
    }
}

/// The cache version in another tool's entry, if its document is that of a cache. Blocks.
fn foreign(stores: &Stores, entry: &Entry) -> Option<CacheVersion> {
    let file = stores.blobs.open(&entry.target.digest).ok()?;
    let written = file.written().unwrap_or(UNIX_EPOCH);
    entry.foreign_version(document(&file)?, written)
}

/// The blobs of the version with the root `root`. Blocks.
fn blobs(stores: &Stores, root: &Descriptor) -> Vec<Digest> {
    blobs_of(root, stores.blobs.open(&root.digest).ok().and_then(|file| document(&file)))
}

/// The bytes of a document, or of what is too long to be one. Blocks.
fn document(file: &BlobReader) -> Option<Bytes> {
    let limit = usize::try_from(Limits::default().document_bytes).unwrap_or(usize::MAX);
    file.read_at(0, limit.saturating_add(1)).ok()
}

#[async_trait]
impl CacheStore for RepositoryCaches {
    async fn versions(&self, reference: Option<&str>) -> Result<Vec<CacheVersion>, EngineError> {
        let reference = reference.map(str::to_owned);
        self.stores
            .run(move |stores| {
                let Some(index) = stores.names.read()? else { return Ok(Vec::new()) };
                let is_match = |own: &str| reference.as_ref().is_none_or(|name| name == own);
                let others = index.entries().iter().filter(|entry| entry.foreign_cache().is_some_and(is_match));
                let mut versions: Vec<_> =
                    others.take(MAX_FOREIGN).filter_map(|entry| foreign(stores, entry)).collect();
                versions.extend(index.caches().into_iter().filter(|version| is_match(&version.reference)));
                sort(&mut versions);
                Ok(versions)
            })
            .await
    }

    async fn begin(&self, new: &NewVersion, origin: &Origin) -> Result<Arc<dyn PendingVersion>, EngineError> {
        let version = CacheVersion::begin(new, origin)?;
        let export = version.export();
        let lease = self.stores.run(move |stores| {
            stores.names.create()?;
            RepositoryLease::open(stores, &export, None)
        });
        Ok(Arc::new(PendingRepositoryCache { version, lease: Arc::new(lease.await?) }))
    }

    async fn lease(&self, ids: &[String], is_deletion: bool) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        let ids = ids.to_vec();
        self.stores
            .run(move |stores| {
                if !stores.leases.is_ready() {
                    return Ok(None);
                }
                let Some(index) = stores.names.read()? else { return Ok(None) };
                let pins: Vec<_> = index.cache_roots(&ids).iter().flat_map(|root| blobs(stores, root)).collect();
                let lease = RepositoryLease::open(stores, &lease_origin().export, None)?;
                if let Err(error) = lease.pins.add(&pins) {
                    lease.end()?;
                    return Err(error);
                }
                // The collector then runs when it is released.
                lease.committed(is_deletion);
                Ok(Some(Arc::new(lease) as Arc<dyn Lease>))
            })
            .await
    }

    async fn delete(&self, ids: &[String]) -> Result<(), EngineError> {
        check_ids(ids)?;
        let ids = ids.to_vec();
        let is_more = self.stores.run(move |stores| {
            if !stores.names.change(|index: &mut LayoutIndex| index.remove_caches(&ids))? {
                return Ok(false);
            }
            // The versions are deleted, even if the collector fails.
            stores.collect().map(|collected| collected.is_more).or_else(|error| {
                tracing::warn!(%error, "nothing was collected");
                Ok(true)
            })
        });
        if is_more.await? {
            self.stores.collect_later();
        }
        Ok(())
    }

    async fn touch(&self, version: &CacheVersion) -> Result<(), EngineError> {
        let (id, now) = (version.id.clone(), now());
        if !is_touch_due(version, now) {
            return Ok(());
        }
        self.stores
            .run(move |stores| {
                let index = stores.names.read()?;
                let is_ours = |index: &LayoutIndex| index.caches().iter().any(|version| version.id == id);
                // A folder that only other tools wrote is never written to by a read.
                if !index.as_ref().is_some_and(is_ours) {
                    return Ok(());
                }
                stores.names.change(|index| index.touch_cache(&id, now).map(|()| Vec::new())).map(drop)
            })
            .await
    }

    /// The collector releases the leases of dead processes.
    async fn recover(&self) -> Result<usize, EngineError> {
        self.stores
            .run(|stores| if stores.names.is_ours() { stores.collect().map(|it| it.exports) } else { Ok(0) })
            .await
    }

    fn blobs(&self) -> Arc<dyn Images> {
        Arc::new(RepositoryImages::new(self.stores.clone(), &self.address))
    }
}

/// A version that is being stored under a lease.
#[derive(Debug)]
struct PendingRepositoryCache {
    version: CacheVersion,
    lease: Arc<RepositoryLease>,
}

/// Stores a document, unless it is present. Blocks.
fn store(lease: &RepositoryLease, document: &CacheDocument) -> Result<(), EngineError> {
    let (descriptor, blobs) = (&document.descriptor, &lease.stores.blobs);
    lease.pins.add([&descriptor.digest])?;
    if lease.is_there(descriptor) && blobs.is_same(&descriptor.digest, &document.bytes) {
        return Ok(());
    }
    blobs.store(&descriptor.digest, std::slice::from_ref(&document.bytes), &lease.export)
}

#[async_trait]
impl PendingVersion for PendingRepositoryCache {
    fn id(&self) -> &str {
        &self.version.id
    }

    fn lease(&self) -> Arc<dyn Lease> {
        self.lease.clone()
    }

    async fn commit(&self, content: &CacheContent) -> Result<CacheVersion, EngineError> {
        let (layers, documents) = (content.present(), [content.config.clone(), content.root.clone()]);
        let version = self.version.complete(content);
        self.lease
            .work(move |lease| {
                lease.pins.add(layers.iter().map(|layer| &layer.digest))?;
                let find = |layer: &Descriptor| lease.stores.blobs.pin(&layer.digest, None, &lease.export);
                check_sizes(&layers, &layers.iter().map(find).collect::<Vec<_>>())?;
                documents.iter().try_for_each(|document| store(lease, document))
            })
            .await?;
        self.lease.stores.blobs.flush().await?;
        let committed = version.clone();
        self.lease.work(move |lease| lease.stores.names.add(|index| index.insert_cache(&committed))).await?;
        self.lease.committed(false);
        if let Err(error) = self.lease.release().await {
            tracing::warn!(%error, "the lease of a complete cache stays until the process ends");
        }
        Ok(version)
    }

    async fn abort(&self) -> Result<(), EngineError> {
        self.lease.release().await
    }
}
