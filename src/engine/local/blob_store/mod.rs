//! The blob store of a layout, which all exports of one process share.
//!
//! A complete blob is pending until it is synced: its file is below `.linkspan/ingest` and not yet below `blobs`. Writes
//! have an order that survives a power loss: **content first, then the name, then the index**. A file below `blobs` was
//! synced before it got its name, so its content matches the name. All pending blobs are synced at once, when the first
//! export needs one of them.

mod adopt;
mod publish;
mod reader;
mod unneeded;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::blob_sink::BlobSink;
use super::clock::Clock;
use super::disk::{Disk, DiskFile};
use super::files::{is_full, open_file, read_at_most};
use super::hashed_file::HashedFile;
use super::paths::LayoutPaths;
use super::process_file::ProcessFile;
use super::unsynced;
use super::verified::Verified;
use crate::engine::EngineError;
use crate::image::Digest;

pub(crate) use adopt::KnownParts;
pub(crate) use reader::BlobReader;

/// How many files of pending blobs may be open before they are synced.
const MAX_OPEN: usize = 128;

/// The blobs of one layout.
#[derive(Debug)]
pub(crate) struct BlobStore {
    pub(super) paths: LayoutPaths,
    pub(super) disk: Arc<dyn Disk>,
    /// The id of this boot; empty if the machine has none.
    pub(super) boot: String,
    pub(super) process: Arc<ProcessFile>,
    pending: Mutex<HashMap<Digest, PendingBlob>>,
    /// Unsynced blobs of killed processes; read at the first use.
    unsynced: Mutex<Option<HashMap<Digest, PathBuf>>>,
    flushing: tokio::sync::Mutex<()>,
    /// Whether a flush has been spawned and has not begun.
    is_due: AtomicBool,
    /// Which files below `blobs` have been verified.
    verified: Verified,
    /// By lease.
    marks: Mutex<HashMap<String, Marks>>,
    pub(super) clock: Clock,
}

/// What happened to an export.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Marks {
    /// It stored blobs: if it fails, they may be garbage.
    pub(crate) has_written: bool,
    /// The disk was full: its parts are removed, too.
    pub(super) is_starved: bool,
}

/// A complete blob that is not synced and has no name below `blobs`.
#[derive(Debug)]
struct PendingBlob {
    path: PathBuf,
    size: u64,
    /// The leases that pin it.
    leases: BTreeSet<String>,
    /// Open, and so locked, if it has the name of a part, which another process could resume.
    file: Option<Box<dyn DiskFile>>,
    /// Whether it is being published: its file must stay until that is done, even if nothing pins it any more.
    is_publishing: bool,
}

impl BlobStore {
    pub(super) fn new(paths: LayoutPaths, disk: Arc<dyn Disk>, boot: String, process: Arc<ProcessFile>) -> Arc<Self> {
        let (pending, unsynced, flushing, is_due) = Default::default();
        let (verified, marks, clock) = Default::default();
        Arc::new(Self { paths, disk, boot, process, pending, unsynced, flushing, is_due, verified, marks, clock })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<Digest, PendingBlob>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<String, Marks>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of a blob that is pending, or whose file was verified; files that others wrote are verified here. If
    /// `size` is given, the blob must have it. Blocks.
    pub(crate) fn present(&self, digest: &Digest, size: Option<u64>) -> Option<u64> {
        // Pending blobs first: the file below `blobs` may be damaged, and about to be replaced. A blob that is no longer
        // pending has its name.
        let pending = self.pending().get(digest).map(|pending| pending.size);
        match pending {
            Some(found) => Some(found).filter(|found| size.is_none_or(|size| size == *found)),
            None => self.verified.check(&self.paths, digest, size),
        }
    }

    /// Whether a verified blob has its name below `blobs`. Blocks.
    pub(crate) fn named(&self, digest: &Digest, size: u64) -> bool {
        !self.pending().contains_key(digest) && self.verified.check(&self.paths, digest, Some(size)).is_some()
    }

    /// The size of a blob that is not verified: readers compare its digest.
    pub(crate) fn readable(&self, digest: &Digest) -> Option<u64> {
        let pending = self.pending().get(digest).map(|pending| pending.size);
        let named = || fs::metadata(self.paths.blob(digest)).ok().filter(|found| found.is_file()).map(|it| it.len());
        pending.or_else(named)
    }

    /// Whether a stored document has these bytes, so that it need not be verified.
    pub(crate) fn is_same(&self, digest: &Digest, bytes: &[u8]) -> bool {
        let is_pending = self.pending().contains_key(digest);
        is_pending || read_at_most(&self.paths.blob(digest), bytes.len() as u64).is_ok_and(|found| found == bytes)
    }

    /// Pins a blob for `lease`, and returns its size if it is present. Blocks.
    pub(crate) fn pin(&self, digest: &Digest, size: Option<u64>, lease: &str) -> Option<u64> {
        let found = self.present(digest, size)?;
        if let Some(pending) = self.pending().get_mut(digest) {
            pending.leases.insert(lease.to_owned());
        }
        Some(found)
    }

    /// Opens a blob for reading.
    pub(crate) fn open(&self, digest: &Digest) -> io::Result<BlobReader> {
        let pending = self.pending().get(digest).map(|pending| pending.path.clone());
        let file = match pending.map(File::open) {
            Some(Ok(file)) => file,
            // Published meanwhile.
            _ => open_file(&self.paths.blob(digest))?,
        };
        Ok(BlobReader::new(file))
    }

    /// The error of a file operation of the export `lease`; a full disk is recorded.
    pub(crate) fn refused(&self, lease: &str, operation: &str, error: &io::Error) -> EngineError {
        if is_full(error) {
            self.starve(lease);
        }
        self.paths.failed(operation, error)
    }

    /// Records that the disk was full, if that is the error.
    pub(crate) fn note_space(&self, lease: &str, error: &EngineError) {
        if error.is_full() {
            self.starve(lease);
        }
    }

    fn starve(&self, lease: &str) {
        self.marks().entry(lease.to_owned()).or_default().is_starved = true;
    }

    /// The path of a new unsynced blob.
    pub(super) fn unsynced_path(&self, digest: &Digest) -> Result<PathBuf, EngineError> {
        let process = self.process.name()?;
        Ok(match self.boot.as_str() {
            "" => self.paths.temp_path(&process),
            boot => self.paths.unsynced(boot, digest, &process),
        })
    }

    /// Takes the file of an unsynced blob of a killed process, once. Blocks.
    pub(super) fn take_unsynced(&self, digest: &Digest) -> io::Result<Option<PathBuf>> {
        Ok(self.unsynced()?.as_mut().and_then(|known| known.remove(digest)))
    }

    /// Whether [`Self::take_unsynced`] has a file. Blocks.
    pub(super) fn is_unsynced(&self, digest: &Digest) -> bool {
        self.unsynced().is_ok_and(|known| known.as_ref().is_some_and(|known| known.contains_key(digest)))
    }

    fn unsynced(&self) -> io::Result<MutexGuard<'_, Option<HashMap<Digest, PathBuf>>>> {
        let mut found = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_none() {
            *found = Some(unsynced::find(&self.paths, &self.boot)?);
        }
        Ok(found)
    }

    /// Stores a small blob whose digest was verified. Blocks.
    pub(crate) fn store(&self, digest: &Digest, chunks: &[Bytes], lease: &str) -> Result<(), EngineError> {
        let path = self.unsynced_path(digest)?;
        let written =
            self.disk.append(&path).and_then(|mut file| chunks.iter().try_for_each(|chunk| file.write(chunk)));
        if let Err(error) = written {
            // The first error is the one to report.
            let _ = self.disk.remove(&path);
            return Err(self.refused(lease, "writing a blob", &error));
        }
        let size = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.enqueue(digest, size, path, None, lease);
        Ok(())
    }

    /// Stores a complete blob: `hashed`, which may be empty, and `rest`. Blocks.
    pub(crate) fn complete(
        &self,
        digest: &Digest,
        mut hashed: HashedFile,
        rest: &[Bytes],
        lease: &str,
    ) -> Result<(), EngineError> {
        if hashed.file.is_none() {
            return self.store(digest, rest, lease);
        }
        if let Err(error) = hashed.take(rest.to_vec()) {
            hashed.make_room(&error);
            return Err(self.refused(lease, "writing a blob", &error));
        }
        self.enqueue(digest, hashed.length, hashed.path, hashed.file, lease);
        Ok(())
    }

    fn enqueue(&self, digest: &Digest, size: u64, path: PathBuf, file: Option<Box<dyn DiskFile>>, lease: &str) {
        self.marks().entry(lease.to_owned()).or_default().has_written = true;
        let mut pending = self.pending();
        match pending.get_mut(digest) {
            // Two exports wrote the same blob.
            Some(there) if there.path != path => {
                there.leases.insert(lease.to_owned());
                drop(pending);
                let _ = self.disk.remove(&path);
            }
            _ => {
                let leases = BTreeSet::from([lease.to_owned()]);
                let file = file.filter(|_| path == self.paths.partial(&self.boot, digest));
                pending.insert(digest.clone(), PendingBlob { path, size, leases, file, is_publishing: false });
            }
        }
    }

    /// Flushes if too many files of pending blobs are open.
    pub(super) async fn flush_if_many(self: &Arc<Self>) -> Result<(), EngineError> {
        let open = self.pending().values().filter(|pending| pending.file.is_some()).count();
        if open > MAX_OPEN { self.flush().await } else { Ok(()) }
    }

    /// Syncs all pending blobs and gives them their names below `blobs`.
    pub(crate) async fn flush(self: &Arc<Self>) -> Result<(), EngineError> {
        let _flushing = self.flushing.lock().await;
        self.is_due.store(false, Ordering::Release);
        let blobs = self.clone();
        let flushed = spawn_blocking(move || blobs.publish()).await;
        flushed.unwrap_or_else(|_| Err(self.paths.invalid("syncing it broke off")))
    }

    /// Spawns a flush, unless one is already spawned. The flush that is awaited reports the error again.
    pub(crate) fn flush_soon(self: &Arc<Self>) {
        if self.is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let blobs = self.clone();
        tokio::spawn(async move {
            if let Err(error) = blobs.flush().await {
                tracing::debug!(%error, "blobs are still pending");
            }
        });
    }

    /// Releases the pins of `lease`, which are `pinned`. Pending blobs that no other lease pins are removed; a large one
    /// stays as a part to resume, unless the disk is full. Blocks.
    pub(crate) fn release(&self, lease: &str, pinned: &[Digest]) -> Marks {
        let marks = self.marks().remove(lease).unwrap_or_default();
        let mut pending = self.pending();
        for blob in pending.values_mut() {
            blob.leases.remove(lease);
        }
        let unneeded = unneeded::take(&mut pending, marks.is_starved);
        let unfinished: Vec<_> = pinned.iter().filter(|digest| !pending.contains_key(digest)).collect();
        drop(pending);
        unneeded.iter().for_each(|(path, _)| self.clear(path));
        if marks.is_starved {
            self.clear_parts(&unfinished);
        }
        marks
    }

    /// The writer of a file.
    pub(crate) fn sink(&self, hashed: HashedFile) -> BlobSink {
        BlobSink::new(self.paths.clone(), hashed)
    }

    /// Runs blocking work off the reactor; `what` names it in the error of a panic.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        spawn_blocking(work).await.unwrap_or_else(|_| Err(self.paths.invalid(format!("{what} broke off"))))
    }

    /// The error of a file operation.
    pub(crate) fn failed(&self, operation: &str, error: &io::Error) -> EngineError {
        self.paths.failed(operation, error)
    }

    #[cfg(test)]
    pub(crate) fn paths(&self) -> &LayoutPaths {
        &self.paths
    }

    #[cfg(test)]
    pub(crate) fn process(&self) -> Result<String, EngineError> {
        self.process.name()
    }

    #[cfg(test)]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }
}
