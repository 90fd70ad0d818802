//! The engine's blobs, as a load uses them: looked up, pinned when they are omitted, and released at the load's end.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::engine::{Engine, EngineError, Lease, Lifetime, Origin, Pin, StoredBlob, StoredBlobs};
use crate::image::Digest;

/// Blobs that may be omitted from an archive.
#[async_trait]
pub(super) trait EngineBlobs: Debug + Send + Sync {
    /// The blob's bytes, if the engine has it. Writes nothing.
    async fn find(&self, digest: &Digest) -> Result<Option<Arc<dyn StoredBlob>>, EngineError>;

    /// Pins `digests` and returns those that were gone by then. Costs one or two synced writes for any number of blobs.
    async fn pin(&self, digests: &[Digest]) -> Result<Vec<Digest>, EngineError>;

    /// Releases all pins. Waits for a running pin call; later ones fail.
    async fn release(&self) -> Result<(), EngineError>;
}

/// The blobs of an engine, under a lease that is created with the first pin: many loads omit nothing.
#[derive(Debug)]
pub(super) struct LeasedBlobs {
    engine: Arc<dyn Engine>,
    store: Arc<dyn StoredBlobs>,
    origin: Origin,
    lease: Mutex<LeaseState>,
}

#[derive(Debug)]
enum LeaseState {
    Unopened,
    Open(Arc<dyn Lease>),
    Released,
}

impl LeasedBlobs {
    /// The blobs in `store`, which is `engine`'s, for the load `origin`.
    pub(super) fn new(engine: Arc<dyn Engine>, store: Arc<dyn StoredBlobs>, origin: Origin) -> Self {
        Self { engine, store, origin, lease: Mutex::new(LeaseState::Unopened) }
    }

    async fn lease(&self) -> Result<Arc<dyn Lease>, EngineError> {
        let mut state = self.lease.lock().await;
        let lease = match &*state {
            LeaseState::Unopened => self.engine.lease(&self.origin, Lifetime::Process).await?,
            LeaseState::Open(lease) => return Ok(lease.clone()),
            LeaseState::Released => return Err(EngineError::LeaseLost { lease: self.origin.export.clone() }),
        };
        *state = LeaseState::Open(lease.clone());
        Ok(lease)
    }
}

#[async_trait]
impl EngineBlobs for LeasedBlobs {
    async fn find(&self, digest: &Digest) -> Result<Option<Arc<dyn StoredBlob>>, EngineError> {
        self.store.find(digest).await
    }

    async fn pin(&self, digests: &[Digest]) -> Result<Vec<Digest>, EngineError> {
        let pins: Vec<_> = digests.iter().map(Pin::from).collect();
        let sizes = self.lease().await?.pin(&pins).await?;
        let gone = digests.iter().zip(sizes).filter(|(_, size)| size.is_none());
        Ok(gone.map(|(digest, _)| digest.clone()).collect())
    }

    async fn release(&self) -> Result<(), EngineError> {
        let mut state = self.lease.lock().await;
        if let LeaseState::Open(lease) = &*state {
            lease.release().await?;
        }
        *state = LeaseState::Released;
        Ok(())
    }
}

/// The blobs of an engine without a store that we can read: none is found, and none omitted.
#[derive(Debug)]
pub(super) struct NoBlobs;

#[async_trait]
impl EngineBlobs for NoBlobs {
    async fn find(&self, _: &Digest) -> Result<Option<Arc<dyn StoredBlob>>, EngineError> {
        Ok(None)
    }

    async fn pin(&self, digests: &[Digest]) -> Result<Vec<Digest>, EngineError> {
        Ok(digests.to_vec())
    }

    async fn release(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
