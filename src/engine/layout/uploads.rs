//! Uploads: files under the name of their export, that grow and are gone on with after a restart.

use std::collections::HashMap;
use std::fs::{self, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::lease::{Lease, entries};
use super::pipe::{Core, Pipe};
use super::place::read_at_most;
use super::shared::Shared;
use super::upload::LayoutUpload;
use crate::engine::EngineError;
use crate::engine::uploads::{Begun, Expected, UploadStatus, Uploads, check_name};
use crate::image::{Algorithm, Descriptor, Digest};

/// How many closed uploads are kept open, so that what they hold need not be hashed again.
const MAX_PARKED: usize = 64;
/// How many parts are remembered that need not be read again.
const MAX_PARTS: usize = 10_000;
/// The longest note of an upload.
const MAX_NOTE: u64 = 16 << 10;

/// What is written beside an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    name: String,
    digest: Option<Digest>,
    size: Option<u64>,
    /// Milliseconds since 1970.
    started: u64,
}

/// The uploads of one export.
#[derive(Debug, Clone)]
pub(super) struct LayoutUploads(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    lease: Arc<Lease>,
    export: String,
    open: Mutex<HashMap<String, Arc<Live>>>,
    parked: Mutex<HashMap<String, Core>>,
    /// Parts of blobs that were read and found to be no more than that, with their length then.
    parts: Mutex<HashMap<Digest, u64>>,
}

/// A blob that is asked for, and its size where that is known.
type Sought = (Digest, Option<u64>);

/// An upload that is open.
#[derive(Debug)]
pub(super) struct Live {
    note: Note,
    pub(super) offset: AtomicU64,
}

/// The right to write an upload.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) uploads: Arc<Inner>,
    pub(super) live: Arc<Live>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock_of(&self.uploads.open).remove(&self.live.note.name);
    }
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl LayoutUploads {
    pub(super) fn new(shared: Arc<Shared>, lease: Arc<Lease>, export: String) -> Self {
        let (open, parked, parts) = Default::default();
        Self(Arc::new(Inner { shared, lease, export, open, parked, parts }))
    }

    /// Removes all that is not committed. Blocks.
    pub(super) fn clear(&self) -> io::Result<()> {
        lock_of(&self.0.parked).clear();
        let (place, disk) = (&self.0.shared.place, &self.0.shared.disk);
        let folder = place.uploads_of(&self.0.export);
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
        done.unwrap_or_else(|_| Err(self.0.shared.place.refuse("an upload broke off")))
    }
}

impl Inner {
    fn data(&self, name: &str) -> PathBuf {
        // Names are the client's, and may hold anything.
        self.shared.place.uploads_of(&self.export).join(Digest::sha256(name.as_bytes()).hex())
    }

    fn note(&self, name: &str) -> PathBuf {
        self.data(name).with_extension("json")
    }

    pub(super) fn failed(&self, error: &io::Error) -> EngineError {
        self.shared.refused(&self.export, "writing an upload", error)
    }

    /// Holds the blobs that are there. What is not gets no line in the lease: clients may ask for anything. Blocks.
    fn pin(&self, blobs: &[Sought]) -> Result<Vec<Option<u64>>, EngineError> {
        let may_be_there: Vec<bool> = blobs.iter().map(|blob| self.may_be_there(blob)).collect();
        let there = || blobs.iter().zip(&may_be_there);
        self.lease.hold(&self.shared.place, there().filter(|(_, may)| **may).map(|(blob, _)| &blob.0))?;
        // Once more: from now on what is there stays.
        there().map(|(blob, may)| if *may { self.hold(blob) } else { Ok(None) }).collect()
    }

    fn may_be_there(&self, (digest, size): &Sought) -> bool {
        let part = self.shared.place.partial(&self.shared.boot, digest);
        self.shared.present(digest, *size).is_some() || part.exists() || self.shared.is_left(digest)
    }

    fn hold(&self, (digest, size): &Sought) -> Result<Option<u64>, EngineError> {
        match self.shared.hold(digest, *size, &self.export) {
            Some(size) => Ok(Some(size)),
            None => match self.adopt_part(digest, *size)? {
                Some(size) => Ok(Some(size)),
                None => self.adopt_left(digest),
            },
        }
    }

    /// A blob that an earlier process of this boot had completed, and not synced when it was killed.
    fn adopt_left(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let Some(path) = self.shared.left(digest).map_err(|error| self.failed(&error))? else { return Ok(None) };
        let own = self.shared.own(digest)?;
        match self.shared.disk.rename(&path, &own) {
            // Another process took it, or nobody held it any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            renamed => renamed.map_err(|error| self.failed(&error))?,
        }
        let file = self.shared.disk.append(&own).map_err(|error| self.failed(&error))?;
        let core = Core::resume(digest.algorithm(), own, file).map_err(|error| self.failed(&error))?;
        if core.digest(digest.algorithm(), &[]).map_err(|error| self.failed(&error))? != *digest {
            // The process was killed while it wrote the file.
            self.shared.disk.remove(&core.path).map_err(|error| self.failed(&error))?;
            return Ok(None);
        }
        let size = core.length;
        self.shared.complete(digest, core, &[], &self.export)?;
        Ok(Some(size))
    }

    /// A large one, which has the name of a part. Most parts are none: one of another length than the blob is not read,
    /// and no part twice as long as it does not grow.
    fn adopt_part(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, EngineError> {
        let path = self.shared.place.partial(&self.shared.boot, digest);
        if self.shared.boot.is_empty() {
            return Ok(None);
        }
        let Ok(length) = fs::metadata(&path).map(|found| found.len()) else { return Ok(None) };
        let is_known = lock_of(&self.parts).get(digest) == Some(&length);
        if length == 0 || size.is_some_and(|size| size != length) || is_known {
            return Ok(None);
        }
        let file = self.shared.disk.append(&path).map_err(|error| self.failed(&error))?;
        match file.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(self.failed(&error)),
        }
        let core = Core::resume(digest.algorithm(), path, file).map_err(|error| self.failed(&error))?;
        if core.length == 0 || core.digest(digest.algorithm(), &[]).map_err(|error| self.failed(&error))? != *digest {
            let mut parts = lock_of(&self.parts);
            if parts.len() < MAX_PARTS {
                parts.insert(digest.clone(), core.length);
            }
            return Ok(None);
        }
        let size = core.length;
        self.shared.complete(digest, core, &[], &self.export)?;
        Ok(Some(size))
    }

    /// Opens the upload for its only writer. Blocks.
    fn begin(self: &Arc<Self>, name: &str, expected: &Expected) -> Result<Option<LayoutUpload>, EngineError> {
        if let Some(digest) = &expected.digest
            && self.pin(&[(digest.clone(), expected.size)])?[0].is_some()
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
        let live = Arc::new(Live { note, offset: AtomicU64::new(0) });
        let turn = {
            let mut open = lock_of(&self.open);
            if open.contains_key(name) {
                return Err(EngineError::Busy { what: format!("the upload `{name}`") });
            }
            open.insert(name.to_owned(), live.clone());
            Turn { uploads: self.clone(), live }
        };
        let folder = self.shared.place.uploads_of(&self.export);
        self.shared.disk.create_folder(&folder).map_err(|error| self.failed(&error))?;
        let algorithm = expected.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let (parked, path) = (lock_of(&self.parked).remove(name), self.data(name));
        let core = match parked {
            Some(core) => core,
            None if path.exists() => {
                let file = self.shared.disk.append(&path).map_err(|error| self.failed(&error))?;
                Core::resume(algorithm, path, file).map_err(|error| self.failed(&error))?
            }
            None => Core::new(algorithm, path),
        };
        turn.live.offset.store(core.length, Ordering::Relaxed);
        let pipe = Pipe::new(self.shared.place.clone(), self.shared.disk.clone(), core);
        Ok(Some(LayoutUpload::new(turn, pipe)))
    }

    fn read_note(&self, name: &str) -> io::Result<Option<Note>> {
        match read_at_most(&self.note(name), MAX_NOTE) {
            // One that a crash cut off is as good as none.
            Ok(note) => Ok(serde_json::from_slice(&note).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the upload is known after a restart. Blocks.
    fn write_note(&self, note: &Note) -> io::Result<()> {
        let path = self.note(&note.name);
        if path.exists() {
            return Ok(());
        }
        let text = serde_json::to_vec(note)?;
        let written = self.shared.disk.append(&path).and_then(|mut file| file.write(&text));
        written.inspect_err(|_| drop(self.shared.disk.remove(&path)))
    }

    /// Writes what is left and keeps the upload. Blocks.
    pub(super) fn park(&self, turn: Turn, mut core: Core, rest: &[Bytes]) -> io::Result<()> {
        let name = turn.live.note.name.clone();
        self.write_note(&turn.live.note)?;
        if core.file.is_none() {
            core.file = Some(self.shared.disk.append(&core.path)?);
        }
        let disk = &*self.shared.disk;
        core.take(disk, rest.to_vec()).inspect_err(|error| core.make_room(disk, error))?;
        let mut parked = lock_of(&self.parked);
        if parked.len() < MAX_PARKED {
            parked.insert(name, core);
        }
        // Only now may somebody else have it.
        drop(parked);
        drop(turn);
        Ok(())
    }

    /// Makes a blob of the upload. Blocks.
    pub(super) fn commit(
        &self,
        turn: Turn,
        core: Core,
        rest: &[Bytes],
        expected: &Expected,
    ) -> Result<(Digest, u64), EngineError> {
        let size = core.length + rest.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let note = turn.live.note.clone();
        let wanted = expected.digest.clone().or(note.digest);
        let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = core.digest(algorithm, rest).map_err(|error| self.failed(&error))?;
        let reason = match (&wanted, expected.size.or(note.size)) {
            (_, Some(wanted)) if wanted != size => Some(format!("{size} bytes came, expected {wanted}")),
            (Some(wanted), _) if *wanted != digest => Some(format!("the bytes have the digest {digest}")),
            _ => None,
        };
        if let Some(reason) = reason {
            if let Err(error) = self.park(turn, core, rest) {
                tracing::debug!(%error, upload = note.name, "what came of a corrupt upload is not kept");
            }
            return Err(EngineError::Corrupt { digest: wanted.unwrap_or(digest), reason });
        }
        // Before it is looked for: then a collector that comes between sees that it is needed.
        self.lease.hold(&self.shared.place, [&digest])?;
        let is_there = self.hold(&(digest.clone(), Some(size)))?.is_some();
        let (path, had_file) = (core.path.clone(), core.file.is_some());
        if !is_there {
            let core = if had_file { self.rename(core, &digest)? } else { core };
            self.shared.complete(&digest, core, rest, &self.export)?;
        }
        if had_file || self.note(&note.name).exists() {
            let disk = &self.shared.disk;
            let removed = disk.remove(&path).and_then(|()| disk.remove(&self.note(&note.name)));
            removed.map_err(|error| self.failed(&error))?;
        }
        if is_there { Err(EngineError::Present { digest }) } else { Ok((digest, size)) }
    }

    /// Takes the file out of the uploads. Under the name of a part it is found again if this process is killed.
    fn rename(&self, mut core: Core, digest: &Digest) -> Result<Core, EngineError> {
        let part = self.shared.place.partial(&self.shared.boot, digest);
        let lockable = core.file.as_ref().is_some_and(|file| file.file().try_lock().is_ok());
        let path =
            if !self.shared.boot.is_empty() && lockable && !part.exists() { part } else { self.shared.own(digest)? };
        self.shared.disk.rename(&core.path, &path).map_err(|error| self.failed(&error))?;
        core.path = path;
        Ok(core)
    }

    fn statuses(&self) -> io::Result<Vec<UploadStatus>> {
        let mut found: HashMap<String, UploadStatus> = HashMap::new();
        for entry in entries(&self.shared.place.uploads_of(&self.export))? {
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
        for live in lock_of(&self.open).values() {
            let offset = live.offset.load(Ordering::Relaxed);
            found.insert(live.note.name.clone(), status(&live.note, offset, Some(SystemTime::now())));
        }
        let mut statuses: Vec<_> = found.into_values().collect();
        statuses.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(statuses)
    }
}

fn status(note: &Note, offset: u64, updated: Option<SystemTime>) -> UploadStatus {
    let started = UNIX_EPOCH + Duration::from_millis(note.started);
    let expected = Expected { digest: note.digest.clone(), size: note.size };
    UploadStatus { name: note.name.clone(), offset, expected, started, updated: updated.unwrap_or(started) }
}

impl Uploads for LayoutUploads {
    fn pin<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        let blobs: Vec<_> = digests.iter().map(|digest| (digest.clone(), None)).collect();
        Box::pin(self.work(move |inner| inner.pin(&blobs)))
    }

    fn pin_sized<'a>(&'a self, blobs: &'a [Descriptor]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        let blobs: Vec<_> = blobs.iter().map(|blob| (blob.digest.clone(), Some(blob.size))).collect();
        Box::pin(self.work(move |inner| inner.pin(&blobs)))
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        Box::pin(self.work(|inner| {
            // What was asked for and is not there is held as well, should it come.
            let mut found = Vec::new();
            for digest in inner.lease.held() {
                if inner.hold(&(digest.clone(), None))?.is_some() {
                    found.push(digest);
                }
            }
            Ok(found)
        }))
    }

    fn unpin<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        let digest = digest.clone();
        Box::pin(self.work(move |inner| inner.lease.let_go(&inner.shared.place, &digest)))
    }

    fn begin<'a>(&'a self, name: &'a str, expected: &'a Expected) -> BoxFuture<'a, Result<Begun, EngineError>> {
        Box::pin(async move {
            check_name(name)?;
            let (name, expected) = (name.to_owned(), expected.clone());
            let upload = self.work(move |inner| inner.begin(&name, &expected)).await?;
            Ok(upload.map_or(Begun::Present, |upload| Begun::Upload(Box::new(upload))))
        })
    }

    fn status<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<UploadStatus>, EngineError>> {
        Box::pin(async move { Ok(self.statuses().await?.into_iter().find(|status| status.name == name)) })
    }

    fn statuses(&self) -> BoxFuture<'_, Result<Vec<UploadStatus>, EngineError>> {
        Box::pin(self.work(|inner| inner.statuses().map_err(|error| inner.failed(&error))))
    }

    fn abort<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        let name = name.to_owned();
        Box::pin(self.work(move |inner| {
            if lock_of(&inner.open).contains_key(&name) {
                return Err(EngineError::Busy { what: format!("the upload `{name}`") });
            }
            lock_of(&inner.parked).remove(&name);
            let disk = &inner.shared.disk;
            let removed = disk.remove(&inner.data(&name)).and_then(|()| disk.remove(&inner.note(&name)));
            removed.map_err(|error| inner.failed(&error))
        }))
    }
}
