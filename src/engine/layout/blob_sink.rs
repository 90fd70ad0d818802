//! Bytes on their way into a file, hashed once on their way, off the reactor.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::disk::Disk;
use super::hashed_file::HashedFile;
use super::paths::LayoutPaths;
use crate::engine::EngineError;
use crate::image::Digest;

/// How much is handed to a blocking thread at once. One such batch is worked on while the next one fills, so at most
/// twice this and what came last is in memory.
pub(super) const BATCH: usize = if cfg!(test) { 64 << 10 } else { 1 << 20 };
/// How much of a file is left to the kernel before its way to the disk is begun, in bytes. So the disk works while
/// bytes come, and what is left at the end is little.
const SYNC_EVERY: u64 = 32 << 20;

const WRITING: &str = "writing a blob";

/// What fills a [`HashedFile`] from asynchronous code: while a blocking thread works on one batch, the next one fills.
#[derive(Debug)]
pub(super) struct BlobSink {
    paths: LayoutPaths,
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
    /// Begins with what `hashed` has got, unless the last one is not done yet.
    async fn advance(&mut self, disk: &Arc<dyn Disk>, hashed: &HashedFile) -> std::io::Result<()> {
        if hashed.file.is_none() || hashed.length < self.until + SYNC_EVERY {
            return Ok(());
        }
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.end().await?;
        let (disk, path) = (disk.clone(), hashed.path.clone());
        self.until = hashed.length;
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
    Ready(HashedFile),
    Busy(JoinHandle<std::io::Result<HashedFile>>),
    Failed(EngineError),
}

impl BlobSink {
    pub(super) fn new(paths: LayoutPaths, disk: Arc<dyn Disk>, hashed: HashedFile) -> Self {
        let length = hashed.length;
        let syncing = Syncing { task: None, until: length };
        Self { paths, disk, state: State::Ready(hashed), batch: Vec::new(), length, syncing }
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
        let mut hashed = self.hashed().await?;
        if let Err(error) = self.syncing.advance(&self.disk, &hashed).await {
            return Err(self.break_off(hashed, &error).await);
        }
        let (batch, disk) = (std::mem::take(&mut self.batch), self.disk.clone());
        self.state = State::Busy(spawn_blocking(move || {
            hashed.take(&*disk, batch).inspect_err(|error| hashed.make_room(&*disk, error))?;
            Ok(hashed)
        }));
        Ok(())
    }

    /// What was told to go to the disk did not get there.
    async fn break_off(&mut self, hashed: HashedFile, error: &std::io::Error) -> EngineError {
        let (disk, told) = (self.disk.clone(), std::io::Error::from(error.kind()));
        // Nothing more can be done where this fails, too.
        let _ = spawn_blocking(move || hashed.make_room(&*disk, &told)).await;
        self.fail(error)
    }

    fn fail(&mut self, error: &std::io::Error) -> EngineError {
        let error = self.paths.failed(WRITING, error);
        self.state = State::Failed(error.clone());
        error
    }

    /// Waits for the thread. Until the state is set again, the sink is broken.
    async fn hashed(&mut self) -> Result<HashedFile, EngineError> {
        let broken = || EngineError::Protocol { operation: WRITING.to_owned(), reason: "it broke off".to_owned() };
        match std::mem::replace(&mut self.state, State::Failed(broken())) {
            State::Ready(hashed) => Ok(hashed),
            State::Failed(error) => {
                self.state = State::Failed(error.clone());
                Err(error)
            }
            State::Busy(thread) => match thread.await {
                Ok(Ok(hashed)) => Ok(hashed),
                Ok(Err(error)) => Err(self.fail(&error)),
                Err(_) => Err(broken()),
            },
        }
    }

    /// Forgets everything that was taken in.
    pub(super) async fn restart(&mut self) -> Result<(), EngineError> {
        let mut hashed = self.hashed().await?;
        self.batch.clear();
        self.length = 0;
        if let Err(error) = self.syncing.end().await {
            return Err(self.break_off(hashed, &error).await);
        }
        self.syncing.until = 0;
        let cleared = spawn_blocking(move || hashed.clear().map(|()| hashed));
        self.state = State::Busy(cleared);
        Ok(())
    }

    /// The digest of what was taken in so far, by the algorithm that the sink began with.
    pub(super) async fn digest(&mut self) -> Result<Digest, EngineError> {
        let hashed = self.hashed().await?;
        let batch = self.batch.clone();
        let done = spawn_blocking(move || {
            let algorithm = hashed.hasher.algorithm();
            hashed.digest(algorithm, &batch).map(|digest| (hashed, digest))
        });
        let broken = self.paths.refuse("hashing an upload broke off");
        let (hashed, digest) =
            done.await.map_err(|_| broken)?.map_err(|error| self.paths.failed("hashing an upload", &error))?;
        self.state = State::Ready(hashed);
        Ok(digest)
    }

    /// Ends the sink: the file, and what is not written yet, which is everything if the file was never needed.
    pub(super) async fn finish(mut self) -> Result<(HashedFile, Vec<Bytes>), EngineError> {
        let hashed = self.hashed().await?;
        if let Err(error) = self.syncing.end().await {
            return Err(self.break_off(hashed, &error).await);
        }
        Ok((hashed, self.batch))
    }
}
