//! The ingests of a lease: files in a folder of their export, which grow and are resumed after a restart.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::blob_sink::BlobSink;
use super::blob_store::BlobStore;
use super::files::read_at_most;
use super::hashed_file::HashedFile;
use super::ingest_writer::LayoutIngestWriter;
use super::lease_file::entries;
use super::pins::Pins;
use crate::engine::ingest::{Expected, IngestManager, IngestStatus, OpenedIngest, check_ref};
use crate::engine::{EngineError, Pin};
use crate::image::{Algorithm, Digest};

/// How many closed ingests are kept open, so that their bytes need not be hashed again.
const MAX_SUSPENDED: usize = 64;
/// The longest note of an ingest.
const MAX_NOTE: u64 = 16 << 10;

/// What is written beside an ingest.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    name: String,
    digest: Option<Digest>,
    size: Option<u64>,
    /// Milliseconds since 1970.
    started: u64,
}

/// The ingests of one lease.
#[derive(Debug, Clone)]
pub(super) struct LayoutIngests(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) blobs: Arc<BlobStore>,
    pins: Arc<Pins>,
    export: String,
    open: Mutex<HashMap<String, Arc<OpenIngest>>>,
    suspended: Mutex<HashMap<String, HashedFile>>,
}

/// An ingest that is open.
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

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl LayoutIngests {
    pub(super) fn new(blobs: Arc<BlobStore>, pins: Arc<Pins>, export: String) -> Self {
        let (open, suspended) = Default::default();
        Self(Arc::new(Inner { blobs, pins, export, open, suspended }))
    }

    /// Removes all that is not committed. Blocks.
    pub(super) fn clear(&self) -> io::Result<()> {
        lock_of(&self.0.suspended).clear();
        let (paths, disk) = (&self.0.blobs.paths, &self.0.blobs.disk);
        let folder = paths.uploads_of(&self.0.export);
        for entry in entries(&folder)? {
            disk.remove(&entry.path())?;
        }
        disk.remove_folder(&folder)
    }

    /// Runs file work off the reactor.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let inner = self.0.clone();
        let done = spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|_| Err(self.0.blobs.paths.refuse("an ingest broke off")))
    }
}

impl Inner {
    fn data(&self, name: &str) -> PathBuf {
        // Names are the client's, and may hold anything.
        self.blobs.paths.uploads_of(&self.export).join(Digest::sha256(name.as_bytes()).hex())
    }

    fn note(&self, name: &str) -> PathBuf {
        self.data(name).with_extension("json")
    }

    pub(super) fn failed(&self, error: &io::Error) -> EngineError {
        self.blobs.refused(&self.export, "writing an ingest", error)
    }

    /// Opens the ingest for its only writer. Blocks.
    fn begin(self: &Arc<Self>, name: &str, expected: &Expected) -> Result<Option<LayoutIngestWriter>, EngineError> {
        if let Some(digest) = &expected.digest
            && self.pins.pin(&[Pin { digest: digest.clone(), size: expected.size }])?[0].is_some()
        {
            return Ok(None);
        }
        let known = self.read_note(name).map_err(|error| self.failed(&error))?;
        let note = known.unwrap_or_else(|| Note {
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
        let folder = self.blobs.paths.uploads_of(&self.export);
        self.blobs.disk.create_folder(&folder).map_err(|error| self.failed(&error))?;
        let algorithm = expected.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let (suspended, path) = (lock_of(&self.suspended).remove(name), self.data(name));
        let hashed = match suspended {
            Some(hashed) => hashed,
            None if path.exists() => {
                let file = self.blobs.disk.append(&path).map_err(|error| self.failed(&error))?;
                HashedFile::resume(algorithm, path, file).map_err(|error| self.failed(&error))?
            }
            None => HashedFile::new(algorithm, path),
        };
        guard.ingest.offset.store(hashed.length, Ordering::Relaxed);
        let sink = BlobSink::new(self.blobs.paths.clone(), self.blobs.disk.clone(), hashed);
        Ok(Some(LayoutIngestWriter::new(guard, sink)))
    }

    fn read_note(&self, name: &str) -> io::Result<Option<Note>> {
        match read_at_most(&self.note(name), MAX_NOTE) {
            // One that a crash cut off is as good as none.
            Ok(note) => Ok(serde_json::from_slice(&note).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the ingest is known after a restart. Blocks.
    fn write_note(&self, note: &Note) -> io::Result<()> {
        let path = self.note(&note.name);
        if path.exists() {
            return Ok(());
        }
        let text = serde_json::to_vec(note)?;
        let written = self.blobs.disk.append(&path).and_then(|mut file| file.write(&text));
        written.inspect_err(|_| drop(self.blobs.disk.remove(&path)))
    }

    /// Writes what is left and keeps the ingest. Blocks.
    pub(super) fn suspend(&self, guard: WriterGuard, mut hashed: HashedFile, rest: &[Bytes]) -> io::Result<()> {
        let name = guard.ingest.note.name.clone();
        self.write_note(&guard.ingest.note)?;
        if hashed.file.is_none() {
            hashed.file = Some(self.blobs.disk.append(&hashed.path)?);
        }
        let disk = &*self.blobs.disk;
        hashed.take(disk, rest.to_vec()).inspect_err(|error| hashed.make_room(disk, error))?;
        let mut suspended = lock_of(&self.suspended);
        if suspended.len() < MAX_SUSPENDED {
            suspended.insert(name, hashed);
        }
        // Only now may somebody else have it.
        drop(suspended);
        drop(guard);
        Ok(())
    }

    /// Makes a blob of the ingest. Blocks.
    pub(super) fn commit(
        &self,
        guard: WriterGuard,
        hashed: HashedFile,
        rest: &[Bytes],
        expected: &Expected,
    ) -> Result<(Digest, u64), EngineError> {
        let size = hashed.length + rest.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let note = guard.ingest.note.clone();
        let wanted = expected.digest.clone().or(note.digest);
        let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = hashed.digest(algorithm, rest).map_err(|error| self.failed(&error))?;
        let reason = match (&wanted, expected.size.or(note.size)) {
            (_, Some(wanted)) if wanted != size => Some(format!("{size} bytes came, expected {wanted}")),
            (Some(wanted), _) if *wanted != digest => Some(format!("the bytes have the digest {digest}")),
            _ => None,
        };
        if let Some(reason) = reason {
            if let Err(error) = self.suspend(guard, hashed, rest) {
                tracing::debug!(%error, reference = note.name, "what came of a corrupt ingest is not kept");
            }
            return Err(EngineError::Corrupt { digest: wanted.unwrap_or(digest), reason });
        }
        // Before it is looked for: then a collector that comes between sees that it is needed.
        self.pins.add([&digest])?;
        let is_there = self.pins.find(&Pin { digest: digest.clone(), size: Some(size) })?.is_some();
        let (path, had_file) = (hashed.path.clone(), hashed.file.is_some());
        if !is_there {
            let hashed = if had_file { self.rename(hashed, &digest)? } else { hashed };
            self.blobs.complete(&digest, hashed, rest, &self.export)?;
        }
        if had_file || self.note(&note.name).exists() {
            let disk = &self.blobs.disk;
            let removed = disk.remove(&path).and_then(|()| disk.remove(&self.note(&note.name)));
            removed.map_err(|error| self.failed(&error))?;
        }
        if is_there { Err(EngineError::Present { digest }) } else { Ok((digest, size)) }
    }

    /// Takes the file out of the ingests. Under the name of a part it is found again if this process is killed.
    fn rename(&self, mut hashed: HashedFile, digest: &Digest) -> Result<HashedFile, EngineError> {
        let part = self.blobs.paths.partial(&self.blobs.boot, digest);
        let lockable = hashed.file.as_ref().is_some_and(|file| file.file().try_lock().is_ok());
        let path = if !self.blobs.boot.is_empty() && lockable && !part.exists() {
            part
        } else {
            self.blobs.unsynced_path(digest)?
        };
        self.blobs.disk.rename(&hashed.path, &path).map_err(|error| self.failed(&error))?;
        hashed.path = path;
        Ok(hashed)
    }

    fn statuses(&self) -> io::Result<Vec<IngestStatus>> {
        let mut found: HashMap<String, IngestStatus> = HashMap::new();
        for entry in entries(&self.blobs.paths.uploads_of(&self.export))? {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Ok(note) = serde_json::from_slice::<Note>(&read_at_most(&path, MAX_NOTE)?) else { continue };
            let data = fs::metadata(path.with_extension("")).ok();
            let offset = data.as_ref().map_or(0, fs::Metadata::len);
            let updated = data.and_then(|data| data.modified().ok());
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
}

fn status(note: &Note, offset: u64, updated: Option<SystemTime>) -> IngestStatus {
    let started = UNIX_EPOCH + Duration::from_millis(note.started);
    let expected = Expected { digest: note.digest.clone(), size: note.size };
    IngestStatus { reference: note.name.clone(), offset, expected, started, updated: updated.unwrap_or(started) }
}

impl IngestManager for LayoutIngests {
    /// A layout shares its blobs with nothing.
    fn mountable<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        Box::pin(async { Ok(vec![None; digests.len()]) })
    }

    fn open<'a>(
        &'a self,
        reference: &'a str,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<OpenedIngest, EngineError>> {
        Box::pin(async move {
            check_ref(reference)?;
            let (reference, expected) = (reference.to_owned(), expected.clone());
            let writer = self.work(move |inner| inner.begin(&reference, &expected)).await?;
            Ok(writer.map_or(OpenedIngest::Present, |writer| OpenedIngest::Writer(Box::new(writer))))
        })
    }

    fn status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<IngestStatus>, EngineError>> {
        Box::pin(async move { Ok(self.statuses().await?.into_iter().find(|status| status.reference == reference)) })
    }

    fn statuses(&self) -> BoxFuture<'_, Result<Vec<IngestStatus>, EngineError>> {
        Box::pin(self.work(|inner| inner.statuses().map_err(|error| inner.failed(&error))))
    }

    fn abort<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        let reference = reference.to_owned();
        Box::pin(self.work(move |inner| {
            if lock_of(&inner.open).contains_key(&reference) {
                return Err(busy(&reference));
            }
            lock_of(&inner.suspended).remove(&reference);
            let disk = &inner.blobs.disk;
            let removed = disk.remove(&inner.data(&reference)).and_then(|()| disk.remove(&inner.note(&reference)));
            removed.map_err(|error| inner.failed(&error))
        }))
    }
}

fn busy(reference: &str) -> EngineError {
    EngineError::Busy { what: format!("the ingest `{reference}`") }
}
