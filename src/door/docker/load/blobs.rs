//! The engine's blobs, as a load uses them: looked up, pinned when they are omitted, stored where they are new, and released at
//! the load's end.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::unpacking::Unpacking;
use crate::activity::{Activity, Arrival};
use crate::engine::ingest::{Expected, IngestWriter, OpenedIngest};
use crate::engine::{EngineError, Lease, Lifetime, Origin, Pin, StoredBlob, StoredBlobs};
use crate::export::Exports;
use crate::image::Digest;

/// Blobs that may be omitted from an archive.
#[async_trait]
pub(super) trait EngineBlobs: Debug + Send + Sync {
    /// The blob's bytes, if the engine has it. Writes nothing.
    async fn find(&self, digest: &Digest) -> Result<Option<Arc<dyn StoredBlob>>, EngineError>;

    /// Pins `digests` and returns those that were gone by then. Costs one or two synced writes for any number of blobs.
    async fn pin(&self, digests: &[Digest]) -> Result<Vec<Digest>, EngineError>;

    /// Opens a new blob of `size` bytes for writing. It is pinned once it is committed. `None` if nothing can be stored.
    async fn create(&self, size: u64) -> Result<Option<Box<dyn IngestWriter>>, EngineError>;

    /// A new blob is in the store: images that it completes begin to be unpacked.
    async fn stored(&self, digest: &Digest, size: u64);

    /// Unpacks the images of the new blobs, as far as possible: dockerd unpacks whatever is not unpacked by then.
    async fn unpack(&self);

    /// Leaves all unpacking to dockerd from now on.
    async fn leave_packed(&self);

    /// Stops what is under way and releases all pins. Waits for a running pin call; later ones fail.
    async fn release(&self) -> Result<(), EngineError>;
}

/// The blobs of one load that were stored here.
#[derive(Debug, Default)]
pub(super) struct StoredHere {
    blobs: AtomicU64,
    bytes: AtomicU64,
}

impl StoredHere {
    fn add(&self, bytes: u64) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many, and their bytes.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.blobs.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// The blobs of an engine, under a lease that is created with the first pin: many loads omit nothing.
#[derive(Debug)]
pub(super) struct LeasedBlobs {
    exports: Arc<Exports>,
    store: Arc<dyn StoredBlobs>,
    origin: Origin,
    lease: Mutex<LeaseState>,
    /// How many blobs were opened for writing, which is part of their refs.
    created: AtomicU64,
    /// `None` if dockerd unpacks everything.
    unpacking: Mutex<Option<Unpacking>>,
    here: Arc<StoredHere>,
}

#[derive(Debug)]
enum LeaseState {
    Unopened,
    Open(Arc<dyn Lease>),
    Released,
}

impl LeasedBlobs {
    /// The blobs in `store`, which is the engine's of `exports`, for the load `origin`. `here` counts those that are stored.
    pub(super) fn new(
        exports: Arc<Exports>,
        store: Arc<dyn StoredBlobs>,
        origin: Origin,
        here: Arc<StoredHere>,
    ) -> Self {
        let unpacking = Mutex::new(exports.engine().images().ok().map(Unpacking::new));
        Self {
            exports,
            store,
            origin,
            lease: Mutex::new(LeaseState::Unopened),
            created: AtomicU64::default(),
            unpacking,
            here,
        }
    }

    async fn lease(&self) -> Result<Arc<dyn Lease>, EngineError> {
        let mut state = self.lease.lock().await;
        let lease = match &*state {
            LeaseState::Unopened => self.exports.lease(&self.origin, Lifetime::Process).await?,
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

    async fn create(&self, size: u64) -> Result<Option<Box<dyn IngestWriter>>, EngineError> {
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        let expected = Expected { digest: None, size: Some(size) };
        match self.lease().await?.ingests()?.open(&format!("blob-{number}"), &expected).await? {
            OpenedIngest::Writer(writer) => Ok(Some(writer)),
            // Only a blob whose digest is given can be present.
            OpenedIngest::Present => Ok(None),
        }
    }

    async fn stored(&self, digest: &Digest, size: u64) {
        let sent = Activity::Blobs { door: self.origin.door, how: Arrival::Sent, blobs: 1, bytes: size };
        self.exports.activities().emit(sent);
        self.here.add(size);
        if let Some(unpacking) = &mut *self.unpacking.lock().await
            && let Ok(lease) = self.lease().await
        {
            unpacking.stored(&lease, digest, size).await;
        }
    }

    async fn unpack(&self) {
        if let Some(unpacking) = &mut *self.unpacking.lock().await
            && let Ok(lease) = self.lease().await
        {
            unpacking.finish(&lease).await;
        }
    }

    async fn leave_packed(&self) {
        if let Some(unpacking) = self.unpacking.lock().await.take() {
            unpacking.cancel().await;
        }
    }

    async fn release(&self) -> Result<(), EngineError> {
        self.leave_packed().await;
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

    async fn create(&self, _: u64) -> Result<Option<Box<dyn IngestWriter>>, EngineError> {
        Ok(None)
    }

    async fn stored(&self, _: &Digest, _: u64) {}

    async fn unpack(&self) {}

    async fn leave_packed(&self) {}

    async fn release(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
