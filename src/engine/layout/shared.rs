//! What the exports of one process into one layout have in common: above all the blobs that are complete and not yet
//! on the disk for sure.
//!
//! Such a blob waits in a file of ours and has no name among the blobs. The order in which it gets one is what makes a
//! layout survive a power loss: **content first, then the name, then the index**. A file among the blobs has been on
//! the disk before it was called so, and so, of whatever age, it is what its name says. The content of all blobs that wait is synced
//! at once, when the first export needs one of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::disk::{Disk, DiskFile};
use super::left;
use super::pipe::{Core, private};
use super::place::Place;
use crate::engine::EngineError;
use crate::image::{Algorithm, Digest};

/// From how many files on the whole file system is synced and not each of them.
const MANY: usize = 32;
/// How many waiting blobs may be held open at once before they are synced.
const MAX_OPEN: usize = 128;

/// One layout, as this process works on it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) place: Place,
    pub(super) disk: Arc<dyn Disk>,
    /// Which boot this is; empty where the machine does not say.
    pub(super) boot: String,
    process: Mutex<Option<(String, File)>>,
    waiting: Mutex<HashMap<Digest, Waiting>>,
    /// What processes that were killed before this one began had not synced; found when it is asked for first.
    left: Mutex<Option<HashMap<Digest, PathBuf>>>,
    flushing: tokio::sync::Mutex<()>,
    /// Whether somebody is about to sync what waits.
    is_due: AtomicBool,
}

/// A blob that is complete, and not yet on the disk for sure.
#[derive(Debug)]
struct Waiting {
    path: PathBuf,
    size: u64,
    /// The exports that rely on it.
    holders: BTreeSet<String>,
    /// Kept open as long as the file is one that other processes might go on with: it is locked.
    file: Option<Box<dyn DiskFile>>,
}

impl Shared {
    pub(super) fn new(place: Place, disk: Arc<dyn Disk>, boot: String) -> Arc<Self> {
        let (process, waiting, left, flushing, is_due) = Default::default();
        Arc::new(Self { place, disk, boot, process, waiting, left, flushing, is_due })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Digest, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of this process in this layout; made by the first export.
    pub(super) fn process(&self) -> Result<String, EngineError> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, _)) = &*process {
            return Ok(name.clone());
        }
        let failed = |error: io::Error| self.place.failed("making a lock", &error);
        let name = super::unique();
        let path = self.place.processes().join(&name);
        // Past the disk, like every lock: it is worth nothing after a crash.
        let file = OpenOptions::new().append(true).create_new(true).open(path).map_err(failed)?;
        file.try_lock().map_err(|error| failed(error.into()))?;
        *process = Some((name.clone(), file));
        Ok(name)
    }

    /// The size of a blob that is there: a file of that name, or one that waits. With `size` it must have that. Only
    /// name and size are looked at: what we put there is what it says, and others' tools judge their own files so.
    pub(super) fn present(&self, digest: &Digest, size: Option<u64>) -> Option<u64> {
        let named = || {
            let found = fs::metadata(self.place.blob(digest)).ok().filter(|found| found.is_file());
            found.map(|found| found.len()).filter(|found| size.is_none_or(|size| size == *found))
        };
        // Twice, because one that waits gets its name before it is taken from those that wait.
        named().or_else(|| self.waiting().get(digest).map(|waiting| waiting.size)).or_else(named)
    }

    /// Whether a blob is there, relied upon by `lease` from now on.
    pub(super) fn hold(&self, digest: &Digest, size: Option<u64>, lease: &str) -> Option<u64> {
        let found = self.present(digest, size)?;
        if let Some(waiting) = self.waiting().get_mut(digest) {
            waiting.holders.insert(lease.to_owned());
        }
        Some(found)
    }

    /// Where the content of a blob is to be read.
    pub(super) fn open(&self, digest: &Digest) -> io::Result<File> {
        let named = || File::open(self.place.blob(digest));
        let is_absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match named() {
            Err(error) if is_absent(&error) => {
                let waiting = self.waiting().get(digest).map(|waiting| waiting.path.clone());
                match waiting.map_or(Err(error), File::open) {
                    // As above: it may have got its name meanwhile.
                    Err(error) if is_absent(&error) => named(),
                    found => found,
                }
            }
            found => found,
        }
    }

    /// A file for a blob that is complete and waits.
    pub(super) fn own(&self, digest: &Digest) -> Result<PathBuf, EngineError> {
        let process = self.process()?;
        Ok(match self.boot.as_str() {
            "" => private(&self.place, &process),
            boot => self.place.unsynced(boot, digest, &process),
        })
    }

    /// The file of a blob that a process had not synced when it was killed. It is given once. Blocks.
    pub(super) fn left(&self, digest: &Digest) -> io::Result<Option<PathBuf>> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match &mut *left {
            Some(known) => known,
            unknown => unknown.insert(left::find(&self.place, &self.boot)?),
        };
        Ok(known.remove(digest))
    }

    /// Takes in a small blob, of which the digest was verified. Blocks.
    pub(super) fn store(&self, digest: &Digest, chunks: &[Bytes], lease: &str) -> Result<(), EngineError> {
        let path = self.own(digest)?;
        let written =
            self.disk.append(&path).and_then(|mut file| chunks.iter().try_for_each(|chunk| file.write(chunk)));
        written.map_err(|error| self.place.failed("writing a blob", &error))?;
        let size = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.admit(digest, size, path, None, lease);
        Ok(())
    }

    /// Takes in a complete blob. `core` may be nothing but what `rest` holds. Blocks.
    pub(super) fn complete(
        &self,
        digest: &Digest,
        mut core: Core,
        rest: &[Bytes],
        lease: &str,
    ) -> Result<(), EngineError> {
        if core.file.is_none() {
            return self.store(digest, rest, lease);
        }
        core.take(&*self.disk, rest.to_vec()).map_err(|error| self.place.failed("writing a blob", &error))?;
        self.admit(digest, core.length, core.path, core.file, lease);
        Ok(())
    }

    fn admit(&self, digest: &Digest, size: u64, path: PathBuf, file: Option<Box<dyn DiskFile>>, lease: &str) {
        let mut waiting = self.waiting();
        match waiting.get_mut(digest) {
            // Two came with the same blob.
            Some(there) if there.path != path => {
                there.holders.insert(lease.to_owned());
                drop(waiting);
                let _ = self.disk.remove(&path);
            }
            _ => {
                let holders = BTreeSet::from([lease.to_owned()]);
                let file = file.filter(|_| path == self.place.partial(&self.boot, digest));
                waiting.insert(digest.clone(), Waiting { path, size, holders, file });
            }
        }
    }

    /// Syncs early when too many blobs are held open.
    pub(super) async fn relieve(self: &Arc<Self>) -> Result<(), EngineError> {
        let open = self.waiting().values().filter(|waiting| waiting.file.is_some()).count();
        if open > MAX_OPEN { self.flush().await } else { Ok(()) }
    }

    /// Sees to it that every blob that waits is on the disk, and then gives it its name.
    pub(super) async fn flush(self: &Arc<Self>) -> Result<(), EngineError> {
        let _turn = self.flushing.lock().await;
        self.is_due.store(false, Ordering::Release);
        let shared = self.clone();
        let flushed = spawn_blocking(move || shared.publish()).await;
        flushed.unwrap_or_else(|_| Err(self.place.refuse("syncing it broke off")))
    }

    /// Begins to sync what waits, unless somebody is about to. What fails here fails again when it is waited for.
    pub(super) fn flush_soon(self: &Arc<Self>) {
        if self.is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.clone();
        tokio::spawn(async move {
            if let Err(error) = shared.flush().await {
                tracing::debug!(%error, "blobs still wait to be synced");
            }
        });
    }

    fn publish(&self) -> Result<(), EngineError> {
        let batch: Vec<(Digest, PathBuf)> =
            self.waiting().iter().map(|(digest, waiting)| (digest.clone(), waiting.path.clone())).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let failed = |error: io::Error| self.place.failed("syncing blobs", &error);
        // An attempt that failed later may have named some already.
        let unnamed: Vec<_> = batch.iter().filter(|(_, path)| path.exists()).collect();
        if unnamed.len() > MANY {
            self.disk.sync_all(&self.place.ingest()).map_err(failed)?;
        } else {
            unnamed.iter().try_for_each(|(_, path)| self.disk.sync_file(path)).map_err(failed)?;
        }
        let algorithms: HashSet<Algorithm> = batch.iter().map(|(digest, _)| digest.algorithm()).collect();
        for algorithm in &algorithms {
            if !self.place.blobs_of(*algorithm).is_dir() {
                self.disk.create_folder(&self.place.blobs_of(*algorithm)).map_err(failed)?;
                self.disk.sync_folder(&self.place.blobs()).map_err(failed)?;
            }
        }
        for (digest, path) in unnamed {
            self.disk.rename(path, &self.place.blob(digest)).map_err(failed)?;
        }
        for algorithm in &algorithms {
            self.disk.sync_folder(&self.place.blobs_of(*algorithm)).map_err(failed)?;
        }
        let mut waiting = self.waiting();
        for (digest, _) in &batch {
            waiting.remove(digest);
        }
        Ok(())
    }

    /// Ends what `lease` relied on. A blob that nobody else relies on is forgotten; a large one stays as a part that is
    /// gone on with. Blocks.
    pub(super) fn give_up(&self, lease: &str) {
        let mut forgotten = Vec::new();
        self.waiting().retain(|_, waiting| {
            waiting.holders.remove(lease);
            let stays = !waiting.holders.is_empty();
            if !stays && waiting.file.is_none() {
                forgotten.push(waiting.path.clone());
            }
            stays
        });
        for path in forgotten {
            if let Err(error) = self.disk.remove(&path) {
                tracing::debug!(%error, path = %path.display(), "left to the collector");
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, _)) = process {
            let _ = fs::remove_file(self.place.processes().join(name));
        }
    }
}
