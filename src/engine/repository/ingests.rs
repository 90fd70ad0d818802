//! The ingests of a lease, which can be suspended, and resumed after a restart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::super::local::{BlobSink, BlobStore, HashedFile, IngestFiles, Note};
use super::pins::Pins;
use crate::engine::caches::milliseconds;
use crate::engine::ingest::{Expected, IngestStatus};
use crate::engine::{EngineError, Pin};
use crate::image::{Algorithm, Digest};

/// How many suspended ingests are kept in memory, so that their bytes need not be hashed again.
const MAX_SUSPENDED: usize = 64;

/// The ingests of one lease.
#[derive(Debug, Clone)]
pub(super) struct RepositoryIngests(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) blobs: Arc<BlobStore>,
    files: IngestFiles,
    pins: Arc<Pins>,
    export: String,
    open: Mutex<HashMap<String, Arc<OpenIngest>>>,
    suspended: Mutex<HashMap<String, HashedFile>>,
}

/// An open ingest.
#[derive(Debug)]
pub(super) struct OpenIngest {
    note: Note,
    pub(super) offset: AtomicU64,
}

/// The right to write an ingest.
#[derive(Debug)]
pub(super) struct WriterGuard {
    pub(super) ingests: Arc<Inner>,
    pub(super) ingest: Arc<OpenIngest>,
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        lock_of(&self.ingests.open).remove(&self.ingest.note.name);
    }
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RepositoryIngests {
    pub(super) fn new(blobs: Arc<BlobStore>, pins: Arc<Pins>, export: &str) -> Self {
        let (open, suspended) = Default::default();
        let files = blobs.ingests(export);
        Self(Arc::new(Inner { blobs, files, pins, export: export.to_owned(), open, suspended }))
    }

    /// Removes all ingests that are not committed. Blocks.
    pub(super) fn clear(&self) -> Result<(), EngineError> {
        lock_of(&self.0.suspended).clear();
        self.0.files.clear()
    }

    /// Runs file work off the reactor.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let inner = self.0.clone();
        self.0.blobs.run("an ingest", move || work(&inner)).await
    }
}

impl Inner {
    /// Opens the ingest for its only writer. Blocks.
    pub(super) fn begin(
        self: &Arc<Self>,
        name: &str,
        expected: &Expected,
    ) -> Result<Option<(WriterGuard, BlobSink)>, EngineError> {
        if let Some(digest) = &expected.digest
            && self.pins.pin(&[Pin { digest: digest.clone(), size: expected.size }])?[0].is_some()
        {
            return Ok(None);
        }
        let note = self.files.read_note(name)?.unwrap_or_else(|| Note {
            name: name.to_owned(),
            digest: expected.digest.clone(),
            size: expected.size,
            started: milliseconds(SystemTime::now()),
        });
        let ingest = Arc::new(OpenIngest { note, offset: AtomicU64::new(0) });
        let guard = {
            let mut open = lock_of(&self.open);
            if open.contains_key(name) {
                return Err(busy(name));
            }
            open.insert(name.to_owned(), ingest.clone());
            WriterGuard { ingests: self.clone(), ingest }
        };
        self.files.create()?;
        if expected.digest.is_none() {
            // Its client sends it piece by piece, and may go on with it after this process was killed.
            self.files.write_note(&guard.ingest.note)?;
        }
        let algorithm = expected.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let suspended = lock_of(&self.suspended).remove(name);
        let hashed = match suspended {
            Some(hashed) => hashed,
            None => self.files.open(name, algorithm)?,
        };
        guard.ingest.offset.store(hashed.length, Ordering::Relaxed);
        let sink = self.blobs.sink(hashed);
        Ok(Some((guard, sink)))
    }

    /// Writes the last batch and keeps the ingest. Blocks.
    pub(super) fn suspend(
        &self,
        guard: WriterGuard,
        mut hashed: HashedFile,
        rest: Vec<Bytes>,
    ) -> Result<(), EngineError> {
        let name = guard.ingest.note.name.clone();
        self.files.write_note(&guard.ingest.note)?;
        self.files.write(&mut hashed, rest)?;
        let mut suspended = lock_of(&self.suspended);
        if suspended.len() < MAX_SUSPENDED {
            suspended.insert(name, hashed);
        }
        // Only now may another writer open the ingest.
        drop(suspended);
        drop(guard);
        Ok(())
    }

    /// Commits the ingest as a blob. Blocks.
    pub(super) fn commit(
        &self,
        guard: WriterGuard,
        hashed: HashedFile,
        rest: Vec<Bytes>,
        expected: &Expected,
    ) -> Result<(Digest, u64), EngineError> {
        let size = hashed.length + rest.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let note = guard.ingest.note.clone();
        let expected_digest = expected.digest.clone().or(note.digest);
        let algorithm = expected_digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digested = hashed.digest(algorithm, &rest);
        let digest = digested.map_err(|error| self.blobs.refused(&self.export, "writing an ingest", &error))?;
        let reason = match (&expected_digest, expected.size.or(note.size)) {
            (_, Some(expected)) if expected != size => Some(format!("{size} bytes came, expected {expected}")),
            (Some(expected), _) if *expected != digest => Some(format!("the bytes have the digest {digest}")),
            _ => None,
        };
        if let Some(reason) = reason {
            if let Err(error) = self.suspend(guard, hashed, rest) {
                tracing::debug!(%error, reference = note.name, "what came of a corrupt ingest is not kept");
            }
            return Err(EngineError::Corrupt { digest: expected_digest.unwrap_or(digest), reason });
        }
        // Pinned before the lookup, so that no collector removes it in between.
        self.pins.add([&digest])?;
        let is_there = self.pins.find(&Pin { digest: digest.clone(), size: Some(size) })?.is_some();
        let was_created = hashed.is_created();
        if !is_there {
            let hashed = self.files.take_out(hashed, &digest)?;
            self.blobs.complete(&digest, hashed, &rest, &self.export)?;
        }
        if was_created || self.files.has_note(&note.name) {
            self.files.remove(&note.name)?;
        }
        if is_there { Err(EngineError::Present { digest }) } else { Ok((digest, size)) }
    }

    pub(super) fn statuses(&self) -> Result<Vec<IngestStatus>, EngineError> {
        let mut found: HashMap<String, IngestStatus> = HashMap::new();
        for (note, offset, updated) in self.files.list()? {
            found.insert(note.name.clone(), status(&note, offset, updated));
        }
        for ingest in lock_of(&self.open).values() {
            let offset = ingest.offset.load(Ordering::Relaxed);
            found.insert(ingest.note.name.clone(), status(&ingest.note, offset, Some(SystemTime::now())));
        }
        let mut statuses: Vec<_> = found.into_values().collect();
        statuses.sort_by(|one, other| one.reference.cmp(&other.reference));
        Ok(statuses)
    }

    /// Removes an ingest that is not open. Blocks.
    pub(super) fn abort(&self, name: &str) -> Result<(), EngineError> {
        if lock_of(&self.open).contains_key(name) {
            return Err(busy(name));
        }
        lock_of(&self.suspended).remove(name);
        self.files.remove(name)
    }
}

fn status(note: &Note, offset: u64, updated: Option<SystemTime>) -> IngestStatus {
    let started = UNIX_EPOCH + Duration::from_millis(note.started);
    let expected = Expected { digest: note.digest.clone(), size: note.size };
    IngestStatus { reference: note.name.clone(), offset, expected, started, updated: updated.unwrap_or(started) }
}

fn busy(reference: &str) -> EngineError {
    EngineError::Busy { what: format!("the ingest `{reference}`") }
}
