//! The ingests of a lease. What a store has of an upload cannot be read back, so its lease notes the hash of the parts that are
//! stored: another process goes on behind them. What came after the last part goes with the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::keys;
use super::pins::StoredPins;
use super::stored_lease::{StoredProgress, StoredUpload};
use super::stores::Stores;
use super::upload::{Begun, Progress, Upload};
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

    /// Takes up the uploads of an earlier process. What is not usable is aborted.
    pub(super) async fn restore(&self, uploads: Vec<StoredUpload>) -> Result<(), EngineError> {
        for StoredUpload { key, id, progress } in uploads {
            let begun = Begun { key, id };
            let ingest = progress.as_ref().and_then(|progress| self.0.restored(&begun, progress));
            match ingest {
                Some(suspended) => {
                    let reference = suspended.ingest.reference.clone();
                    lock_of(&self.0.suspended).insert(reference, suspended);
                }
                None => self.0.pins.abort(&begun).await?,
            }
        }
        Ok(())
    }

    /// Forgets all ingests; the release of the lease aborts their uploads.
    pub(super) fn clear(&self) {
        let suspended = std::mem::take(&mut *lock_of(&self.0.suspended));
        drop(suspended);
    }
}

impl Inner {
    /// Where the bytes of an ingest go: its digest may not be known yet.
    fn key(&self, reference: &str, expected: &Expected) -> String {
        expected.digest.as_ref().map_or_else(|| keys::upload(&self.export, reference), keys::blob)
    }

    /// The ingest of an earlier process, as far as it can be gone on with.
    fn restored(&self, begun: &Begun, progress: &StoredProgress) -> Option<Suspended> {
        let reference = progress.reference.clone();
        let expected = Expected { digest: progress.digest.clone(), size: progress.size };
        if begun.key != self.key(&reference, &expected) {
            return None;
        }
        let upload = self.stores.blobs.resumed(begun.clone(), progress)?;
        let (now, offset) = (SystemTime::now(), AtomicU64::new(upload.length()));
        let ingest = Arc::new(OpenIngest { reference, expected, started: now, offset });
        Some(Suspended { ingest, upload, updated: now })
    }

    /// Notes what is new of an upload, so that another process can go on with it. Without that it goes on in this one only.
    pub(super) async fn note_or_warn(&self, ingest: &OpenIngest, upload: &mut Upload) {
        if let Err(error) = self.note(ingest, upload).await {
            tracing::warn!(%error, "how far an upload is was not stored: after a restart it begins anew");
        }
    }

    async fn note(&self, ingest: &OpenIngest, upload: &mut Upload) -> Result<(), EngineError> {
        let Some((begun, Progress { part_size, parts, hash })) = upload.progress().await? else { return Ok(()) };
        let (reference, Expected { digest, size }) = (ingest.reference.clone(), ingest.expected.clone());
        self.pins.progressed(&begun, StoredProgress { reference, digest, size, part_size, parts, hash }).await
    }

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
                let key = self.key(reference, expected);
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
        self.note_or_warn(&guard.ingest, &mut upload).await;
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
