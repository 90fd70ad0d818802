//! Image transactions of a bucket.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::keys;
use super::lease::ObjectLease;
use super::pins::StoredPins;
use super::upload::Upload;
use crate::engine::transaction::{check_length, check_room};
use crate::engine::{BlobWriter, EngineError, ImageTransaction, Opened, Pin, Plan, Precondition, PreparedImage};
use crate::image::{Descriptor, Digest, Graph, Kind, Reference};

/// A transaction of one image under a lease.
#[derive(Debug)]
pub(super) struct ObjectTransaction {
    lease: Arc<ObjectLease>,
    graph: Arc<Graph>,
    plan: Plan,
}

impl ObjectTransaction {
    pub(super) async fn begin(lease: Arc<ObjectLease>, graph: Arc<Graph>) -> Result<Self, EngineError> {
        let plan = lease.plan(&graph).await?;
        Ok(Self { lease, graph, plan })
    }

    /// The foreign layers that are not there.
    fn absent(&self) -> BTreeSet<Digest> {
        let foreign = self.graph.leaves().iter().filter(|leaf| leaf.kind() == Kind::ForeignLayer);
        let is_absent = |leaf: &&Descriptor| !self.plan.present.iter().any(|blob| blob.digest == leaf.digest);
        foreign.filter(is_absent).map(|leaf| leaf.digest.clone()).collect()
    }
}

#[async_trait]
impl ImageTransaction for ObjectTransaction {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        self.lease.pins.add([&blob.digest]).await?;
        if self.lease.stores.blobs.size(&blob.digest).await? == Some(blob.size) {
            return Ok(Opened::Present);
        }
        let key = keys::blob(&blob.digest);
        let upload = self.lease.stores.blobs.upload(key, blob.digest.algorithm(), Some(blob.size));
        Ok(Opened::Writer(Box::new(ObjectBlobWriter { blob: blob.clone(), pins: self.lease.pins.clone(), upload })))
    }

    /// Looks once more at what was missing; the rest was seen after it was pinned.
    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        let written = self.plan.missing.iter().chain(&self.plan.stored);
        let pins: Vec<Pin> = written.map(Pin::from).collect();
        let sizes = self.lease.stores.blobs.sizes(&pins).await?;
        let missing = pins.into_iter().zip(sizes).filter(|(_, size)| size.is_none());
        let digests: Vec<_> = missing.map(|(pin, _)| pin.digest).collect();
        if digests.is_empty() { Ok(self) } else { Err(EngineError::Missing { digests }) }
    }

    /// Nothing to cancel: the caller has dropped all writers.
    async fn cancel(&self) {}
}

#[async_trait]
impl PreparedImage for ObjectTransaction {
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        self.lease.pins.check_held().await?;
        self.lease.stores.names.publish(&self.graph, &self.absent(), names, preconditions).await
    }
}

/// A blob of known digest and size that is being written. If it is dropped, the lease's release aborts its upload.
#[derive(Debug)]
struct ObjectBlobWriter {
    blob: Descriptor,
    pins: Arc<StoredPins>,
    upload: Upload,
}

/// Pushes `bytes`; an upload that begins is noted in the lease.
pub(super) async fn push(upload: &mut Upload, pins: &StoredPins, mut bytes: Bytes) -> Result<(), EngineError> {
    while !bytes.is_empty() {
        if !upload.push(&mut bytes) {
            continue;
        }
        if upload.is_to_begin() {
            let begun = upload.begin().await?;
            if let Err(error) = pins.begun(&begun).await {
                // Nobody would find it.
                pins.abort(&begun).await?;
                return Err(error);
            }
        }
        upload.send().await?;
    }
    Ok(())
}

/// Completes `upload`, whose digest was compared, and forgets it in the lease.
pub(super) async fn complete(upload: &mut Upload, pins: &StoredPins) -> Result<(), EngineError> {
    let begun = upload.begun().cloned();
    upload.complete().await?;
    if let Some(begun) = begun {
        pins.ended(&begun).await;
    }
    Ok(())
}

#[async_trait]
impl BlobWriter for ObjectBlobWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        async move {
            check_room(&self.blob, self.upload.length(), &bytes)?;
            push(&mut self.upload, &self.pins, bytes).await
        }
        .boxed()
    }

    async fn commit(mut self: Box<Self>) -> Result<(), EngineError> {
        check_length(&self.blob, self.upload.length())?;
        let digest = self.upload.digest().await?;
        if digest != self.blob.digest {
            if let Some(begun) = self.upload.restart().await
                && let Err(error) = self.pins.abort(&begun).await
            {
                tracing::debug!(%error, "the upload of a corrupt blob is aborted when the lease is released");
            }
            let reason = format!("the bytes have the digest {digest}");
            return Err(EngineError::Corrupt { digest: self.blob.digest.clone(), reason });
        }
        self.pins.add([&digest]).await?;
        complete(&mut self.upload, &self.pins).await
    }
}
