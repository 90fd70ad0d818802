//! What the exports of one process into one layout have in common: above all the blobs that are complete and not yet
//! on the disk for sure.
//!
//! Such a blob waits in a file of ours and has no name among the blobs. The order in which it gets one is what makes a
//! layout survive a power loss: **content first, then the name, then the index**. A file among the blobs has been on
//! the disk before it was called so, and so, of whatever age, it is what its name says. The content of all blobs that wait is synced
//! at once, when the first export needs one of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::clock::Clock;
use super::disk::{Disk, DiskFile};
use super::left;
use super::lock;
use super::pipe::{Core, private};
use super::place::{Place, is_full, open_file, read_at_most};
use super::verified::Verified;
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
    /// What is known of the blobs that have their names.
    verified: Verified,
    /// What exports met that are not at their end.
    marks: Mutex<HashMap<String, Marks>>,
    pub(super) clock: Clock,
    /// Whether the collector will be run once more.
    pub(super) is_to_collect: AtomicBool,
}

/// How long the last writes of an export may take that was given up for want of room.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// What an export met.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Marks {
    /// It brought blobs: if it fails, nobody may need them.
    pub(super) has_written: bool,
    /// There was no room for more: nothing of it may keep the disk full.
    pub(super) is_starved: bool,
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
    /// Whether it is being synced and named: its file must stay until that is done, whoever gives it up.
    is_leaving: bool,
}

impl Shared {
    pub(super) fn new(place: Place, disk: Arc<dyn Disk>, boot: String) -> Arc<Self> {
        let (process, waiting, left, flushing, is_due) = Default::default();
        let (verified, marks, clock, is_to_collect) = Default::default();
        Arc::new(Self {
            place,
            disk,
            boot,
            process,
            waiting,
            left,
            flushing,
            is_due,
            verified,
            marks,
            clock,
            is_to_collect,
        })
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
        lock::own(&self.place, &file)?;
        *process = Some((name.clone(), file));
        Ok(name)
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<String, Marks>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of a blob that can be relied upon: one that waits, or a file that is what it is called, which is made
    /// sure of where others wrote it. With `size` it must have that. Blocks.
    pub(super) fn present(&self, digest: &Digest, size: Option<u64>) -> Option<u64> {
        // Those that wait first: a file of that name may be damaged, and about to be replaced. One that is gone from
        // there has its name.
        let waiting = self.waiting().get(digest).map(|waiting| waiting.size);
        match waiting {
            Some(found) => Some(found).filter(|found| size.is_none_or(|size| size == *found)),
            None => self.verified.check(&self.place, digest, size),
        }
    }

    /// Whether a blob that can be relied upon has its name. Blocks.
    pub(super) fn named(&self, digest: &Digest, size: u64) -> bool {
        !self.waiting().contains_key(digest) && self.verified.check(&self.place, digest, Some(size)).is_some()
    }

    /// The size of a blob that can be read, by its name: whoever reads it sees what it is.
    pub(super) fn readable(&self, digest: &Digest) -> Option<u64> {
        let waiting = self.waiting().get(digest).map(|waiting| waiting.size);
        let named = || fs::metadata(self.place.blob(digest)).ok().filter(|found| found.is_file()).map(|it| it.len());
        waiting.or_else(named)
    }

    /// Whether a document that is there is the one that we have: its bytes are at hand, so that nobody need trust the
    /// file.
    pub(super) fn is_same(&self, digest: &Digest, bytes: &[u8]) -> bool {
        let is_waiting = self.waiting().contains_key(digest);
        is_waiting || read_at_most(&self.place.blob(digest), bytes.len() as u64).is_ok_and(|found| found == bytes)
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
        let waiting = self.waiting().get(digest).map(|waiting| waiting.path.clone());
        match waiting.map(File::open) {
            Some(Ok(file)) => Ok(file),
            // It may have got its name meanwhile.
            _ => open_file(&self.place.blob(digest)),
        }
    }

    /// Says that the file system refused the export `lease`, which is remembered if there was no room.
    pub(super) fn refused(&self, lease: &str, operation: &str, error: &io::Error) -> EngineError {
        if is_full(error) {
            self.starve(lease);
        }
        self.place.failed(operation, error)
    }

    /// The same of an error that was said already.
    pub(super) fn note_space(&self, lease: &str, error: &EngineError) {
        if matches!(error, EngineError::NoSpace { .. }) {
            self.starve(lease);
        }
    }

    /// There was no room for the export `lease`.
    fn starve(&self, lease: &str) {
        self.marks().entry(lease.to_owned()).or_default().is_starved = true;
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
        Ok(self.found_left()?.as_mut().and_then(|known| known.remove(digest)))
    }

    /// Whether there is one. Blocks.
    pub(super) fn is_left(&self, digest: &Digest) -> bool {
        self.found_left().is_ok_and(|known| known.as_ref().is_some_and(|known| known.contains_key(digest)))
    }

    fn found_left(&self) -> io::Result<MutexGuard<'_, Option<HashMap<Digest, PathBuf>>>> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_none() {
            *left = Some(left::find(&self.place, &self.boot)?);
        }
        Ok(left)
    }

    /// Takes in a small blob, of which the digest was verified. Blocks.
    pub(super) fn store(&self, digest: &Digest, chunks: &[Bytes], lease: &str) -> Result<(), EngineError> {
        let path = self.own(digest)?;
        let written =
            self.disk.append(&path).and_then(|mut file| chunks.iter().try_for_each(|chunk| file.write(chunk)));
        if let Err(error) = written {
            // What went wrong first is what matters.
            let _ = self.disk.remove(&path);
            return Err(self.refused(lease, "writing a blob", &error));
        }
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
        if let Err(error) = core.take(&*self.disk, rest.to_vec()) {
            core.make_room(&*self.disk, &error);
            return Err(self.refused(lease, "writing a blob", &error));
        }
        self.admit(digest, core.length, core.path, core.file, lease);
        Ok(())
    }

    fn admit(&self, digest: &Digest, size: u64, path: PathBuf, file: Option<Box<dyn DiskFile>>, lease: &str) {
        self.marks().entry(lease.to_owned()).or_default().has_written = true;
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
                waiting.insert(digest.clone(), Waiting { path, size, holders, file, is_leaving: false });
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

    /// Blocks. One at a time.
    fn publish(&self) -> Result<(), EngineError> {
        let leave = |(digest, waiting): (&Digest, &mut Waiting)| {
            waiting.is_leaving = true;
            (digest.clone(), waiting.path.clone())
        };
        let batch: Vec<(Digest, PathBuf)> = self.waiting().iter_mut().map(leave).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let named = self.name(&batch);
        if let Err(error) = &named {
            self.stay(&batch, error);
            return Err(self.place.failed("syncing blobs", error));
        }
        self.verified.named(&self.place, batch.iter().map(|(digest, _)| digest));
        let mut waiting = self.waiting();
        for (digest, _) in &batch {
            waiting.remove(digest);
        }
        Ok(())
    }

    /// Syncs the blobs of `batch` and gives them their names.
    fn name(&self, batch: &[(Digest, PathBuf)]) -> io::Result<()> {
        // An attempt that failed later may have named some already.
        let unnamed: Vec<_> = batch.iter().filter(|(_, path)| path.exists()).collect();
        if unnamed.len() > MANY {
            self.disk.sync_all(&self.place.ingest())?;
        } else {
            unnamed.iter().try_for_each(|(_, path)| self.disk.sync_file(path))?;
        }
        let algorithms: HashSet<Algorithm> = batch.iter().map(|(digest, _)| digest.algorithm()).collect();
        for algorithm in &algorithms {
            if !self.place.blobs_of(*algorithm).is_dir() {
                self.disk.create_folder(&self.place.blobs_of(*algorithm))?;
                self.disk.sync_folder(&self.place.blobs())?;
            }
        }
        for (digest, path) in unnamed {
            let blob = self.place.blob(digest);
            match self.disk.rename(path, &blob) {
                // A folder is no blob. One with something in it is somebody's.
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                    fs::remove_dir(&blob).map_err(|_| {
                        let what = format!("{} is a folder with something in it; remove it", blob.display());
                        io::Error::new(io::ErrorKind::IsADirectory, what)
                    })?;
                    self.disk.rename(path, &blob)?;
                }
                outcome => outcome?,
            }
        }
        algorithms.iter().try_for_each(|algorithm| self.disk.sync_folder(&self.place.blobs_of(*algorithm)))
    }

    /// Blobs that could not be named wait on, but for those that were given up meanwhile.
    fn stay(&self, batch: &[(Digest, PathBuf)], error: &io::Error) {
        let mut starved = BTreeSet::new();
        let mut waiting = self.waiting();
        for (digest, _) in batch {
            if let Some(blob) = waiting.get_mut(digest) {
                blob.is_leaving = false;
                starved.extend(blob.holders.iter().cloned());
            }
        }
        let forgotten = forget(&mut waiting, is_full(error));
        drop(waiting);
        if is_full(error) {
            starved.iter().for_each(|lease| self.starve(lease));
        }
        self.clear_away(forgotten);
    }

    /// Ends what `lease`, which holds `held`, relied on, and says what it met. A blob that nobody else relies on is
    /// forgotten; a large one stays as a part that is gone on with, unless the disk is full. Blocks.
    pub(super) fn give_up(&self, lease: &str, held: &[Digest]) -> Marks {
        let marks = self.marks().remove(lease).unwrap_or_default();
        let mut waiting = self.waiting();
        for blob in waiting.values_mut() {
            blob.holders.remove(lease);
        }
        let forgotten = forget(&mut waiting, marks.is_starved);
        let unfinished: Vec<_> = held.iter().filter(|digest| !waiting.contains_key(digest)).collect();
        drop(waiting);
        self.clear_away(forgotten);
        if marks.is_starved {
            self.clear_parts(&unfinished);
        }
        marks
    }

    /// Removes what was begun of these blobs, unless somebody else writes it. Our own writers were dropped, and may have a
    /// last write under way.
    fn clear_parts(&self, digests: &[&Digest]) {
        let end = Instant::now() + LAST_WRITE;
        for path in digests.iter().map(|digest| self.place.partial(&self.boot, digest)) {
            let Ok(file) = open_file(&path) else { continue };
            // Locked until it is gone: nobody goes on with a file that loses its name.
            let is_ours = loop {
                match file.try_lock() {
                    Ok(()) => break true,
                    Err(TryLockError::WouldBlock) if Instant::now() < end => sleep(LAST_WRITE / 500),
                    Err(_) => break false,
                }
            };
            if is_ours {
                self.clear(&path);
            }
        }
    }

    fn clear_away(&self, files: Vec<Forgotten>) {
        // A file that is locked stays so until it is gone.
        files.iter().for_each(|(path, _)| self.clear(path));
    }

    fn clear(&self, path: &Path) {
        if let Err(error) = self.disk.remove(path) {
            tracing::debug!(%error, path = %path.display(), "left to the collector");
        }
    }
}

/// A file that is of no use any more, with its lock if it has one.
type Forgotten = (PathBuf, Option<Box<dyn DiskFile>>);

/// Takes out what nobody relies on any more and nobody is naming. Gives the files that need not stay: parts need not
/// if the disk `is_full`.
fn forget(waiting: &mut HashMap<Digest, Waiting>, is_full: bool) -> Vec<Forgotten> {
    let mut forgotten = Vec::new();
    waiting.retain(|_, blob| {
        let stays = blob.is_leaving || !blob.holders.is_empty();
        if !stays && (is_full || blob.file.is_none()) {
            forgotten.push((std::mem::take(&mut blob.path), blob.file.take()));
        }
        stays
    });
    forgotten
}

impl Drop for Shared {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, _)) = process {
            let _ = fs::remove_file(self.place.processes().join(name));
        }
    }
}
