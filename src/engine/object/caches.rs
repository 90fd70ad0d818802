//! Build caches in a bucket: an object for each version, which is written last and makes it visible.

use std::future::ready;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::bucket::{Condition, PARALLEL};
use super::images::ObjectImages;
use super::keys;
use super::lease::ObjectLease;
use super::stores::Stores;
use crate::engine::caches::{
    CacheContent, CacheStore, CacheVersion, NewVersion, PendingVersion, VERSION_PREFIX, blobs_of, check_ids,
    check_sizes, id_prefix, is_touch_due, lease_origin, milliseconds, now, sort, time,
};
use crate::engine::images::Images;
use crate::engine::{EngineError, Lease, Origin, Pin};
use crate::image::{Descriptor, Limits};

/// The longest record of a version, in bytes.
const MAX_RECORD: u64 = 64 << 10;
/// How many versions are read.
const MAX_VERSIONS: usize = 100_000;

/// A version as it is stored; its id is in its key.
#[derive(Debug, Serialize, Deserialize)]
struct StoredVersion {
    reference: String,
    #[serde(default)]
    part: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    mode: String,
    #[serde(default)]
    builder: String,
    /// Milliseconds since 1970, as `used`.
    created: u64,
    used: u64,
    root: Descriptor,
    layers: u64,
    bytes: u64,
}

impl StoredVersion {
    fn of(version: &CacheVersion) -> Self {
        let CacheVersion { reference, part, title, mode, builder, root, layers, bytes, .. } = version.clone();
        let (created, used) = (milliseconds(version.created), milliseconds(version.used));
        Self { reference, part, title, mode, builder, created, used, root, layers, bytes }
    }

    fn version(self, id: String) -> CacheVersion {
        let Self { reference, part, title, mode, builder, created, used, root, layers, bytes } = self;
        let at = |milliseconds: u64| time(Some(&milliseconds.to_string()));
        let (created, used) = (at(created), at(used));
        CacheVersion { id, reference, part, title, mode, builder, created, used, root, layers, bytes }
    }
}

/// The caches of a bucket.
#[derive(Debug)]
pub(super) struct ObjectCaches {
    stores: Arc<Stores>,
}

impl ObjectCaches {
    pub(super) fn new(stores: Arc<Stores>) -> Self {
        Self { stores }
    }

    /// What is stored of a version, and its bytes; `None` if it is gone, or cannot be read.
    async fn read(&self, id: &str) -> Result<Option<(StoredVersion, super::bucket::Found)>, EngineError> {
        let key = keys::cache(id);
        let Some(found) = self.stores.bucket().get(&key, MAX_RECORD).await? else { return Ok(None) };
        match serde_json::from_slice(&found.bytes) {
            Ok(stored) => Ok(Some((stored, found))),
            Err(error) => {
                tracing::warn!(%error, object = self.stores.bucket().object(&key), "a build cache cannot be read");
                Ok(None)
            }
        }
    }
}

fn record(stores: &Stores, version: &CacheVersion) -> Result<Bytes, EngineError> {
    let text = serde_json::to_vec(&StoredVersion::of(version));
    text.map(Bytes::from).map_err(|error| stores.bucket().invalid(&keys::cache(&version.id), error.to_string()))
}

#[async_trait]
impl CacheStore for ObjectCaches {
    async fn versions(&self, reference: Option<&str>) -> Result<Vec<CacheVersion>, EngineError> {
        let prefix = reference.map_or_else(|| VERSION_PREFIX.to_owned(), id_prefix);
        let ids = self.stores.bucket().listing(keys::CACHES).try_filter_map(|(key, _)| {
            let id = key.strip_prefix(keys::CACHES).and_then(|key| key.strip_prefix('/'));
            ready(Ok(id.filter(|id| id.starts_with(&prefix)).map(str::to_owned)))
        });
        let read = ids.map_ok(|id| async move { Ok(self.read(&id).await?.map(|(stored, _)| stored.version(id))) });
        let found = read.try_buffered(PARALLEL).try_filter_map(|found| ready(Ok(found))).take(MAX_VERSIONS + 1);
        let mut versions: Vec<_> = found.try_collect().await?;
        if versions.len() > MAX_VERSIONS {
            let reason = format!("it has more than {MAX_VERSIONS} versions of caches; expected fewer");
            return Err(self.stores.bucket().invalid(keys::CACHES, reason));
        }
        versions.retain(|version| reference.is_none_or(|reference| version.reference == reference));
        sort(&mut versions);
        Ok(versions)
    }

    async fn begin(&self, new: &NewVersion, origin: &Origin) -> Result<Arc<dyn PendingVersion>, EngineError> {
        let version = CacheVersion::begin(new, origin)?;
        let lease = ObjectLease::open(&self.stores, &version.export(), None).await?;
        Ok(Arc::new(PendingObjectCache { version, lease: Arc::new(lease) }))
    }

    async fn lease(&self, ids: &[String], _: bool) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        let read = ids.iter().map(|id| async move {
            let Some((stored, _)) = self.read(id).await? else { return Ok(Vec::new()) };
            let limit = Limits::default().document_bytes;
            let document = self.stores.bucket().get(&keys::blob(&stored.root.digest), limit).await?;
            Ok::<_, EngineError>(blobs_of(&stored.root, document.map(|found| found.bytes)))
        });
        let pins: Vec<_> = stream::iter(read.collect::<Vec<_>>()).buffered(PARALLEL).try_concat().await?;
        let lease = ObjectLease::open(&self.stores, &lease_origin().export, None).await?;
        if let Err(error) = lease.pins.add(&pins).await {
            lease.release().await?;
            return Err(error);
        }
        Ok(Some(Arc::new(lease)))
    }

    /// Their blobs stay until they are collected.
    async fn delete(&self, ids: &[String]) -> Result<(), EngineError> {
        check_ids(ids)?;
        let deletions = ids.iter().map(|id| async move { self.stores.bucket().delete(&keys::cache(id)).await });
        stream::iter(deletions.collect::<Vec<_>>()).buffer_unordered(PARALLEL).try_collect().await
    }

    async fn touch(&self, version: &CacheVersion) -> Result<(), EngineError> {
        let now = now();
        if !is_touch_due(version, now) {
            return Ok(());
        }
        let Some((stored, found)) = self.read(&version.id).await? else { return Ok(()) };
        let used = CacheVersion { used: now, ..stored.version(version.id.clone()) };
        let bytes = record(&self.stores, &used)?;
        // If another reader notes it, or deletes it, that is as good; a store without preconditions is not asked.
        if self.stores.names.is_conditional().await? {
            self.stores
                .bucket()
                .put_if(&keys::cache(&version.id), bytes.into(), Condition::Version(found.version))
                .await?;
        }
        Ok(())
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        self.stores.leases.recover().await
    }

    fn blobs(&self) -> Arc<dyn Images> {
        Arc::new(ObjectImages::new(self.stores.clone()))
    }
}

/// A version that is being stored under a lease.
#[derive(Debug)]
struct PendingObjectCache {
    version: CacheVersion,
    lease: Arc<ObjectLease>,
}

#[async_trait]
impl PendingVersion for PendingObjectCache {
    fn id(&self) -> &str {
        &self.version.id
    }

    fn lease(&self) -> Arc<dyn Lease> {
        self.lease.clone()
    }

    async fn commit(&self, content: &CacheContent) -> Result<CacheVersion, EngineError> {
        let (layers, stores) = (content.present(), &self.lease.stores);
        let documents = [&content.config, &content.root];
        let digests = layers.iter().chain(documents.map(|document| &document.descriptor)).map(|blob| &blob.digest);
        self.lease.pins.add(digests).await?;
        let pins: Vec<_> = layers.iter().map(|layer| Pin::from(&layer.digest)).collect();
        check_sizes(&layers, &stores.blobs.sizes(&pins).await?)?;
        for document in documents {
            stores.blobs.store(vec![(document.descriptor.digest.clone(), document.bytes.clone())]).await?;
        }
        let version = self.version.complete(content);
        self.lease.pins.check_held().await?;
        stores.bucket().put(&keys::cache(&version.id), record(stores, &version)?.into()).await?;
        if let Err(error) = self.lease.release().await {
            tracing::warn!(%error, "the lease of a complete cache stays until the process ends");
        }
        Ok(version)
    }

    async fn abort(&self) -> Result<(), EngineError> {
        self.lease.release().await
    }
}
