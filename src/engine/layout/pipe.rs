//! Bytes on their way into a file, hashed once on their way, off the reactor.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::disk::{Disk, DiskFile};
use super::place::{Place, is_full};
use crate::engine::EngineError;
use crate::image::{Algorithm, Digest, Hasher};

/// How much is handed to a blocking thread at once. One such batch is worked on while the next one fills, so at most
/// twice this and what came last is in memory.
pub(super) const BATCH: usize = if cfg!(test) { 64 << 10 } else { 1 << 20 };
/// How much of a file is left to the kernel before its way to the disk is begun, in bytes. So the disk works while
/// bytes come, and what is left at the end is little.
const SYNC_EVERY: u64 = 32 << 20;

/// A file that grows, and the hash of its content.
pub(super) struct Core {
    hasher: Hasher,
    /// `None` as long as everything came in one batch.
    pub(super) file: Option<Box<dyn DiskFile>>,
    /// Where the file is, or will be once it is needed.
    pub(super) path: PathBuf,
    /// Bytes written and hashed.
    pub(super) length: u64,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("path", &self.path).field("length", &self.length).finish_non_exhaustive()
    }
}

impl Core {
    /// Nothing yet; a file at `path` is made when it is needed.
    pub(super) fn new(algorithm: Algorithm, path: PathBuf) -> Self {
        Self { hasher: Hasher::new(algorithm), file: None, path, length: 0 }
    }

    /// Goes on with an open file: hashes what it holds. Blocks.
    pub(super) fn resume(algorithm: Algorithm, path: PathBuf, file: Box<dyn DiskFile>) -> std::io::Result<Self> {
        let (hasher, length) = hash(file.file(), algorithm)?;
        Ok(Self { hasher, file: Some(file), path, length })
    }

    /// The digest of what there is. Blocks where the content was hashed by another algorithm.
    pub(super) fn digest(&self, algorithm: Algorithm, batch: &[Bytes]) -> std::io::Result<Digest> {
        let mut hasher = self.hasher.clone();
        if hasher.algorithm() != algorithm {
            hasher = match &self.file {
                Some(file) => hash(file.file(), algorithm)?.0,
                None => Hasher::new(algorithm),
            };
        }
        batch.iter().for_each(|chunk| hasher.update(chunk));
        Ok(hasher.finish())
    }

    /// Takes in a batch. Blocks.
    pub(super) fn take(&mut self, disk: &dyn Disk, batch: Vec<Bytes>) -> std::io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(disk.append(&self.path)?),
        };
        let hasher = &mut self.hasher;
        // Hashed just before it is copied: then it is in the processor's caches.
        let mut hashed = batch.into_iter().inspect(|chunk| hasher.update(chunk));
        self.length += file.extend(self.length, &mut hashed)?;
        Ok(())
    }

    /// Removes the file if what failed is that there is no room: then nobody can go on with it, and it would keep others
    /// from writing anything. Blocks.
    pub(super) fn make_room(&self, disk: &dyn Disk, error: &std::io::Error) {
        if is_full(error)
            && self.file.is_some()
            && let Err(error) = disk.remove(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "it keeps the disk full");
        }
    }

    /// Forgets everything. Blocks.
    pub(super) fn clear(&mut self) -> std::io::Result<()> {
        if let Some(file) = &mut self.file {
            file.clear()?;
        }
        self.hasher = Hasher::new(self.hasher.algorithm());
        self.length = 0;
        Ok(())
    }
}

/// The hash of a file, read from its start, and its length.
pub(super) fn hash(file: &std::fs::File, algorithm: Algorithm) -> std::io::Result<(Hasher, u64)> {
    use std::os::unix::fs::FileExt as _;
    let (mut hasher, mut length, mut buffer) = (Hasher::new(algorithm), 0, vec![0; BATCH]);
    loop {
        match file.read_at(&mut buffer, length)? {
            0 => return Ok((hasher, length)),
            read => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}

const WRITING: &str = "writing a blob";

/// What fills a [`Core`] from asynchronous code: while a blocking thread works on one batch, the next one fills.
#[derive(Debug)]
pub(super) struct Pipe {
    place: Place,
    disk: Arc<dyn Disk>,
    state: State,
    batch: Vec<Bytes>,
    /// Bytes taken in, those of the batch included.
    length: u64,
    syncing: Syncing,
}

/// What was told to go to the disk while more comes. Nobody waits for it before the end: several pipes that are filled
/// alike would otherwise all wait for the disk at one time, and leave it without work at another.
#[derive(Debug)]
struct Syncing {
    task: Option<JoinHandle<std::io::Result<()>>>,
    /// How long the file was then.
    until: u64,
}

impl Syncing {
    /// Begins with what `core` has got, unless the last one is not done yet.
    async fn advance(&mut self, disk: &Arc<dyn Disk>, core: &Core) -> std::io::Result<()> {
        if core.file.is_none() || core.length < self.until + SYNC_EVERY {
            return Ok(());
        }
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.end().await?;
        let (disk, path) = (disk.clone(), core.path.clone());
        self.until = core.length;
        self.task = Some(spawn_blocking(move || disk.sync_file(&path)));
        Ok(())
    }

    /// Waits for it. Its error must not be lost: the kernel reports it only once.
    async fn end(&mut self) -> std::io::Result<()> {
        match self.task.take() {
            Some(task) => task.await.unwrap_or_else(|broken| Err(std::io::Error::other(broken))),
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
enum State {
    Ready(Core),
    Busy(JoinHandle<std::io::Result<Core>>),
    Failed(EngineError),
}

impl Pipe {
    pub(super) fn new(place: Place, disk: Arc<dyn Disk>, core: Core) -> Self {
        let length = core.length;
        let syncing = Syncing { task: None, until: length };
        Self { place, disk, state: State::Ready(core), batch: Vec::new(), length, syncing }
    }

    /// How many bytes there are.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Takes in bytes; returns when there is room for more.
    pub(super) async fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let mut bytes = bytes;
        loop {
            // Batches end where the disk likes it.
            let room = BATCH - (self.length % BATCH as u64) as usize;
            let is_full = bytes.len() >= room;
            let part = bytes.split_to(room.min(bytes.len()));
            self.length += part.len() as u64;
            self.batch.push(part);
            // Many small chunks cost more than their bytes.
            if is_full || self.batch.len() >= 1024 {
                self.spill().await?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Hands what was batched to a blocking thread.
    pub(super) async fn spill(&mut self) -> Result<(), EngineError> {
        let mut core = self.core().await?;
        if let Err(error) = self.syncing.advance(&self.disk, &core).await {
            return Err(self.break_off(core, &error).await);
        }
        let (batch, disk) = (std::mem::take(&mut self.batch), self.disk.clone());
        self.state = State::Busy(spawn_blocking(move || {
            core.take(&*disk, batch).inspect_err(|error| core.make_room(&*disk, error))?;
            Ok(core)
        }));
        Ok(())
    }

    /// What was told to go to the disk did not get there.
    async fn break_off(&mut self, core: Core, error: &std::io::Error) -> EngineError {
        let (disk, told) = (self.disk.clone(), std::io::Error::from(error.kind()));
        // Nothing more can be done where this fails, too.
        let _ = spawn_blocking(move || core.make_room(&*disk, &told)).await;
        self.fail(error)
    }

    fn fail(&mut self, error: &std::io::Error) -> EngineError {
        let error = self.place.failed(WRITING, error);
        self.state = State::Failed(error.clone());
        error
    }

    /// Waits for the thread. Until the state is set again, the pipe is broken.
    async fn core(&mut self) -> Result<Core, EngineError> {
        let broken = || EngineError::Protocol { operation: WRITING.to_owned(), reason: "it broke off".to_owned() };
        match std::mem::replace(&mut self.state, State::Failed(broken())) {
            State::Ready(core) => Ok(core),
            State::Failed(error) => {
                self.state = State::Failed(error.clone());
                Err(error)
            }
            State::Busy(thread) => match thread.await {
                Ok(Ok(core)) => Ok(core),
                Ok(Err(error)) => Err(self.fail(&error)),
                Err(_) => Err(broken()),
            },
        }
    }

    /// Forgets everything that was taken in.
    pub(super) async fn restart(&mut self) -> Result<(), EngineError> {
        let mut core = self.core().await?;
        self.batch.clear();
        self.length = 0;
        if let Err(error) = self.syncing.end().await {
            return Err(self.break_off(core, &error).await);
        }
        self.syncing.until = 0;
        let cleared = spawn_blocking(move || core.clear().map(|()| core));
        self.state = State::Busy(cleared);
        Ok(())
    }

    /// The digest of what was taken in so far, by the algorithm that the pipe began with.
    pub(super) async fn digest(&mut self) -> Result<Digest, EngineError> {
        let core = self.core().await?;
        let batch = self.batch.clone();
        let done = spawn_blocking(move || {
            let algorithm = core.hasher.algorithm();
            core.digest(algorithm, &batch).map(|digest| (core, digest))
        });
        let broken = self.place.refuse("hashing an upload broke off");
        let (core, digest) =
            done.await.map_err(|_| broken)?.map_err(|error| self.place.failed("hashing an upload", &error))?;
        self.state = State::Ready(core);
        Ok(digest)
    }

    /// Ends the pipe: the core, and what is not written yet, which is everything if the file was never needed.
    pub(super) async fn finish(mut self) -> Result<(Core, Vec<Bytes>), EngineError> {
        let core = self.core().await?;
        if let Err(error) = self.syncing.end().await {
            return Err(self.break_off(core, &error).await);
        }
        Ok((core, self.batch))
    }
}

/// Whether two paths are on the same disk is found out by trying; this only names the file.
pub(super) fn private(place: &Place, process: &str) -> PathBuf {
    Path::new(&place.ingest()).join(format!("{process}.{}", super::unique()))
}
