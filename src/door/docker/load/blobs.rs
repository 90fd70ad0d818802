//! The engine's blobs, as a load needs them: found, pinned when they are omitted, and released at its end.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use crate::engine::{Engine, EngineError, Lease, Lifetime, Origin, Pin, StoredBlob, StoredBlobs};
use crate::image::Digest;

/// Blobs that may be omitted from an archive.
pub(super) trait EngineBlobs: Debug + Send + Sync {
    /// The blob's bytes, if the engine has it. Writes nothing.
    fn find<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Arc<dyn StoredBlob>>, EngineError>>;

    /// Pins `digests` and returns those that were gone by then. Costs a synced write or two for any number of blobs.
    fn pin<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Digest>, EngineError>>;

    /// Releases all pins. Waits for a pinning under way; later ones fail.
    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>>;
}

/// The blobs of an engine, under a lease that is created when the first is pinned: many loads omit nothing.
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
    /// Those in `store`, which is `engine`'s, for the load `origin`.
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

impl EngineBlobs for LeasedBlobs {
    fn find<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Arc<dyn StoredBlob>>, EngineError>> {
        self.store.find(digest)
    }

    fn pin<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Digest>, EngineError>> {
        Box::pin(async move {
            let pins: Vec<_> = digests.iter().map(Pin::from).collect();
            let sizes = self.lease().await?.pin(&pins).await?;
            let gone = digests.iter().zip(sizes).filter(|(_, size)| size.is_none());
            Ok(gone.map(|(digest, _)| digest.clone()).collect())
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let mut state = self.lease.lock().await;
            if let LeaseState::Open(lease) = &*state {
                lease.release().await?;
            }
            *state = LeaseState::Released;
            Ok(())
        })
    }
}

/// An engine that has no store to look into: nothing is found, and nothing omitted.
#[derive(Debug)]
pub(super) struct NoBlobs;

impl EngineBlobs for NoBlobs {
    fn find<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<Option<Arc<dyn StoredBlob>>, EngineError>> {
        Box::pin(async { Ok(None) })
    }

    fn pin<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Digest>, EngineError>> {
        Box::pin(async { Ok(digests.to_vec()) })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}
