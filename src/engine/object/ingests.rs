//! The ingests of a lease. They end with the process: what a store has of an upload cannot be read back, so another process could
//! not know its digest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::keys;
use super::pins::StoredPins;
use super::stores::Stores;
use super::upload::{Begun, Upload};
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestStatus};
use crate::image::{Algorithm, Digest};

/// How many suspended ingests are kept; of further ones nothing is.
const MAX_SUSPENDED: usize = 256;
/// How many bytes of suspended ingests are kept in memory; the client sends again what is beyond that.
const MAX_BUFFERED: usize = 16 << 20;

/// The ingests of one lease.
#[derive(Debug, Clone)]
pub(super) struct ObjectIngests(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) stores: Arc<Stores>,
    pub(super) pins: Arc<StoredPins>,
    export: String,
    open: Mutex<HashMap<String, Arc<OpenIngest>>>,
    suspended: Mutex<HashMap<String, Suspended>>,
}

/// An ingest that has a writer.
#[derive(Debug)]
pub(super) struct OpenIngest {
    pub(super) reference: String,
    pub(super) expected: Expected,
    started: SystemTime,
    pub(super) offset: AtomicU64,
}

/// An ingest that waits for its next writer.
#[derive(Debug)]
struct Suspended {
    ingest: Arc<OpenIngest>,
    upload: Upload,
    updated: SystemTime,
}

/// The right to write an ingest.
#[derive(Debug)]
pub(super) struct WriterGuard {
    pub(super) ingests: Arc<Inner>,
    pub(super) ingest: Arc<OpenIngest>,
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        lock_of(&self.ingests.open).remove(&self.ingest.reference);
    }
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn busy(reference: &str) -> EngineError {
    EngineError::Busy { what: format!("the ingest `{reference}`") }
}

impl OpenIngest {
    fn status(&self, updated: SystemTime) -> IngestStatus {
        IngestStatus {
            reference: self.reference.clone(),
            offset: self.offset.load(Ordering::Relaxed),
            expected: self.expected.clone(),
            started: self.started,
            updated,
        }
    }
}

impl ObjectIngests {
    pub(super) fn new(stores: &Arc<Stores>, pins: &Arc<StoredPins>, export: &str) -> Self {
        let (open, suspended) = Default::default();
        let (stores, pins, export) = (stores.clone(), pins.clone(), export.to_owned());
        Self(Arc::new(Inner { stores, pins, export, open, suspended }))
    }

    /// Forgets all ingests; the release of the lease aborts their uploads.
    pub(super) fn clear(&self) {
        let suspended = std::mem::take(&mut *lock_of(&self.0.suspended));
        drop(suspended);
    }
}

impl Inner {
    /// Opens the ingest for its only writer.
    pub(super) fn begin(
        self: &Arc<Self>,
        reference: &str,
        expected: &Expected,
    ) -> Result<(WriterGuard, Upload), EngineError> {
        let mut open = lock_of(&self.open);
        if open.contains_key(reference) {
            return Err(busy(reference));
        }
        let (ingest, upload) = match lock_of(&self.suspended).remove(reference) {
            Some(Suspended { ingest, upload, .. }) => (ingest, upload),
            None => {
                let algorithm = expected.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
                let key = expected.digest.as_ref().map_or_else(|| keys::upload(&self.export, reference), keys::blob);
                let ingest = OpenIngest {
                    reference: reference.to_owned(),
                    expected: expected.clone(),
                    started: SystemTime::now(),
                    offset: AtomicU64::new(0),
                };
                (Arc::new(ingest), self.stores.blobs.upload(key, algorithm, expected.size))
            }
        };
        open.insert(reference.to_owned(), ingest.clone());
        drop(open);
        Ok((WriterGuard { ingests: self.clone(), ingest }, upload))
    }

    /// Whether the key of `upload` is one of ours, at which a blob lies until its digest is known.
    pub(super) fn is_unnamed(&self, ingest: &OpenIngest, upload: &Upload) -> bool {
        upload.key() == keys::upload(&self.export, &ingest.reference)
    }

    /// Keeps the ingest for its next writer.
    pub(super) async fn suspend(&self, guard: WriterGuard, mut upload: Upload) -> Result<(), EngineError> {
        if let Err(error) = upload.settle().await {
            // Nothing can follow a part that is not there.
            if let Some(begun) = upload.restart().await {
                self.pins.abort(&begun).await?;
            }
            return Err(error);
        }
        let is_kept = {
            let suspended = lock_of(&self.suspended);
            let buffered: usize = suspended.values().map(|it| it.upload.buffered()).sum();
            if buffered + upload.buffered() > MAX_BUFFERED {
                upload.trim();
            }
            suspended.len() < MAX_SUSPENDED
        };
        if is_kept {
            let ingest = guard.ingest.clone();
            ingest.offset.store(upload.length(), Ordering::Relaxed);
            let suspended = Suspended { ingest, upload, updated: SystemTime::now() };
            lock_of(&self.suspended).insert(guard.ingest.reference.clone(), suspended);
        } else if let Some(begun) = upload.restart().await {
            self.pins.abort(&begun).await?;
        }
        // Only now may another writer open the ingest.
        drop(guard);
        Ok(())
    }

    /// Removes an ingest that is not open.
    pub(super) async fn abort(&self, reference: &str) -> Result<(), EngineError> {
        if lock_of(&self.open).contains_key(reference) {
            return Err(busy(reference));
        }
        let suspended = lock_of(&self.suspended).remove(reference);
        let begun: Option<Begun> = match suspended {
            Some(mut suspended) => suspended.upload.restart().await,
            None => None,
        };
        match begun {
            Some(begun) => self.pins.abort(&begun).await,
            None => Ok(()),
        }
    }

    /// All ingests, sorted by ref.
    pub(super) fn statuses(&self) -> Vec<IngestStatus> {
        let suspended = lock_of(&self.suspended);
        let mut found: Vec<_> = suspended.values().map(|it| it.ingest.status(it.updated)).collect();
        drop(suspended);
        found.extend(lock_of(&self.open).values().map(|ingest| ingest.status(SystemTime::now())));
        found.sort_by(|one, other| one.reference.cmp(&other.reference));
        found.dedup_by(|one, other| one.reference == other.reference);
        found
    }
}
