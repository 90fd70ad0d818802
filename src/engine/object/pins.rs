//! A lease of this process in a bucket.
//!
//! It is written before what it pins is looked up, and renewed as a whole. Long before others count it as abandoned, its own
//! process trusts it no more, whatever the clocks say. After it is written with new pins, what collections have condemned is
//! looked up ([`Condemned::rescue`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::{Error, MultipartId};

use super::bucket::Bucket;
use super::condemned::Condemned;
use super::host::Moment;
use super::keys;
use super::stored_lease::{LIFETIME, StoredLease, StoredProgress, StoredUpload};
use super::upload::Begun;
use crate::engine::EngineError;
use crate::image::Digest;

/// How long after it was written a lease is written again when its process uses it.
const RENEWAL: Duration = Duration::from_secs(3600);
/// How long after it was written its own process trusts it.
pub(super) const TRUSTED: Duration = Duration::from_secs(12 * 3600);
/// How many blobs a lease may pin.
const MAX_PINNED: usize = 100_000;

/// How many parts of uploads a lease notes.
const MAX_PARTS: usize = 50_000;

/// A lease of this process.
#[derive(Debug)]
pub(super) struct StoredPins {
    bucket: Bucket,
    condemned: Condemned,
    export: String,
    inner: Mutex<Inner>,
    stored: tokio::sync::Mutex<Stored>,
    is_released: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    lease: StoredLease,
    /// Counts the changes.
    changes: u64,
    /// The change by which something was pinned last.
    pinned: u64,
}

/// How much of a lease is stored.
#[derive(Debug)]
struct Stored {
    /// Up to which change.
    changes: u64,
    /// Up to which change what is pinned was looked for among what is condemned.
    looked: u64,
    /// When the last write began.
    written: Option<Moment>,
}

impl StoredPins {
    /// The lease of `export` as it is stored, or is to be; what a stored one pins is not looked for yet.
    pub(super) fn new(bucket: Bucket, export: &str, lease: StoredLease, is_stored: bool) -> Self {
        let condemned = Condemned::new(bucket.clone());
        let so_far = u64::from(is_stored);
        Self {
            bucket,
            condemned,
            export: export.to_owned(),
            inner: Mutex::new(Inner { lease, changes: 1, pinned: so_far }),
            stored: tokio::sync::Mutex::new(Stored { changes: so_far, looked: 0, written: None }),
            is_released: AtomicBool::new(false),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins blobs, whether they are there or not. What is looked up after that stays.
    pub(super) async fn add<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), EngineError> {
        let until = {
            let mut inner = self.inner();
            let before = inner.lease.pinned.len();
            inner.lease.pinned.extend(digests.into_iter().cloned());
            let count = inner.lease.pinned.len();
            if count > MAX_PINNED {
                let key = keys::lease(&self.export);
                return Err(self
                    .bucket
                    .invalid(&key, format!("it would pin more than {MAX_PINNED} blobs; use several exports")));
            }
            if count > before {
                inner.changes += 1;
                inner.pinned = inner.changes;
            }
            // Another task may have pinned them, and not stored that yet.
            inner.pinned
        };
        self.store(until).await
    }

    /// Removes pins of blobs that are not there; that need not be stored.
    pub(super) fn forget<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut inner = self.inner();
        for digest in digests {
            inner.lease.pinned.remove(digest);
        }
    }

    /// All pins.
    pub(super) fn all(&self) -> Vec<Digest> {
        self.inner().lease.pinned.iter().cloned().collect()
    }

    /// Notes an upload that has begun, so that whoever finds the lease aborts it.
    pub(super) async fn begun(&self, upload: &Begun) -> Result<(), EngineError> {
        let (key, id) = (upload.key.clone(), upload.id.clone());
        self.inner().lease.uploads.push(StoredUpload { key, id, progress: None });
        self.write().await
    }

    /// Notes how far an upload is. If the parts of all uploads are too many for the lease, nothing is noted.
    pub(super) async fn progressed(&self, upload: &Begun, progress: StoredProgress) -> Result<(), EngineError> {
        {
            let mut inner = self.inner();
            let is_it = |own: &StoredUpload| own.id == upload.id && own.key == upload.key;
            let others = inner.lease.uploads.iter().filter(|own| !is_it(own));
            let parts: usize = others.filter_map(|own| Some(own.progress.as_ref()?.parts.len())).sum();
            let Some(own) = inner.lease.uploads.iter_mut().find(|own| is_it(own)) else { return Ok(()) };
            own.progress = (parts + progress.parts.len() <= MAX_PARTS).then_some(progress);
        }
        self.write().await
    }

    /// Forgets an upload that has ended: at once where another process would go on with it.
    pub(super) async fn ended(&self, upload: &Begun) {
        let ended: Vec<_> = {
            let mut inner = self.inner();
            inner.lease.uploads.extract_if(.., |own| own.id == upload.id && own.key == upload.key).collect()
        };
        if ended.iter().any(|own| own.progress.is_some())
            && let Err(error) = self.write().await
        {
            tracing::debug!(%error, "an upload that has ended is still noted");
        }
    }

    /// Aborts an upload.
    pub(super) async fn abort(&self, upload: &Begun) -> Result<(), EngineError> {
        abort(&self.bucket, &upload.key, &upload.id).await?;
        self.ended(upload).await;
        Ok(())
    }

    /// Stores the lease as it is now.
    pub(super) async fn write(&self) -> Result<(), EngineError> {
        let own = {
            let mut inner = self.inner();
            inner.changes += 1;
            inner.changes
        };
        self.store(own).await
    }

    /// Stores the lease if it is not up to the change `own`, then looks for what it pins among what is condemned. Changes that
    /// come while another one is stored are stored together.
    async fn store(&self, own: u64) -> Result<(), EngineError> {
        let mut stored = self.stored.lock().await;
        self.check(&stored)?;
        let is_due = stored.written.is_some_and(|at| self.bucket.host.since(at) >= RENEWAL);
        if stored.changes < own || is_due {
            let key = keys::lease(&self.export);
            let (bytes, until) = {
                let inner = self.inner();
                (serde_json::to_vec(&inner.lease), inner.changes)
            };
            let bytes = bytes.map_err(|error| self.bucket.invalid(&key, error.to_string()))?;
            let begun = self.bucket.host.moment();
            self.bucket.put(&key, bytes.into()).await?;
            (stored.changes, stored.written) = (until, Some(begun));
        }
        let pinned = {
            let inner = self.inner();
            (inner.pinned.min(stored.changes) > stored.looked).then(|| inner.lease.pinned.clone())
        };
        if let Some(pinned) = pinned {
            self.condemned.rescue(&pinned).await?;
            stored.looked = stored.changes;
        }
        Ok(())
    }

    /// Fails if others may count the lease as abandoned, so that its blobs may be gone.
    fn check(&self, stored: &Stored) -> Result<(), EngineError> {
        let is_old = stored.written.is_some_and(|at| self.bucket.host.since(at) >= TRUSTED);
        let is_over = {
            let inner = self.inner();
            inner.lease.record.is_some() && self.bucket.host.age(inner.lease.created()) >= LIFETIME
        };
        if self.is_released() || is_old || is_over {
            return Err(EngineError::LeaseLost { lease: self.export.clone() });
        }
        Ok(())
    }

    /// Fails if what is pinned may be gone: whoever makes something visible that relies on it asks before.
    pub(super) async fn check_held(&self) -> Result<(), EngineError> {
        self.check(&*self.stored.lock().await)
    }

    /// Whether it was removed.
    pub(super) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Acquire)
    }

    /// Removes the lease, and aborts its uploads.
    pub(super) async fn release(&self) -> Result<(), EngineError> {
        let stored = self.stored.lock().await;
        self.is_released.store(true, Ordering::Release);
        let uploads = self.inner().lease.uploads.clone();
        for upload in &uploads {
            abort(&self.bucket, &upload.key, &upload.id).await?;
        }
        self.inner().lease.uploads.clear();
        // What was never stored need not be deleted.
        if stored.changes == 0 { Ok(()) } else { self.bucket.delete(&keys::lease(&self.export)).await }
    }
}

/// Aborts an upload; fine if it has ended.
pub(super) async fn abort(bucket: &Bucket, key: &str, id: &MultipartId) -> Result<(), EngineError> {
    match bucket.objects.abort_multipart(&bucket.path(key), id).await {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(bucket.failed("aborting the upload of", key, &error)),
    }
}
