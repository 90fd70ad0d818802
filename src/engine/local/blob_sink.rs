//! A blob's bytes, hashed and written off the reactor.

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::hashed_file::{BATCH, HashedFile};
use super::paths::LayoutPaths;
use crate::engine::EngineError;
use crate::image::Digest;

/// Bytes written before a sync is started, so that the disk works while bytes arrive, and the last sync is short.
const SYNC_EVERY: u64 = 32 << 20;

const WRITING: &str = "writing a blob";

/// A writer of a [`HashedFile`] for asynchronous code: while a blocking thread writes one batch, the next one fills.
#[derive(Debug)]
pub(crate) struct BlobSink {
    paths: LayoutPaths,
    state: SinkState,
    batch: Vec<Bytes>,
    /// Bytes pushed, those of the batch included.
    length: u64,
    syncing: Syncing,
}

/// A sync in the background, awaited only at the end: otherwise several sinks that fill at the same rate would all wait
/// for the disk at one time, and leave it idle at another.
#[derive(Debug)]
struct Syncing {
    task: Option<JoinHandle<std::io::Result<()>>>,
    /// The length of the file when the sync began.
    until: u64,
}

impl Syncing {
    /// Begins a sync if enough was written and the last one is done.
    async fn advance(&mut self, hashed: &HashedFile) -> std::io::Result<()> {
        if hashed.file.is_none() || hashed.length < self.until + SYNC_EVERY {
            return Ok(());
        }
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.end().await?;
        let (disk, path) = (hashed.disk.clone(), hashed.path.clone());
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
enum SinkState {
    Ready(HashedFile),
    Busy(JoinHandle<std::io::Result<HashedFile>>),
    Failed(EngineError),
}

impl BlobSink {
    pub(super) fn new(paths: LayoutPaths, hashed: HashedFile) -> Self {
        let length = hashed.length;
        let syncing = Syncing { task: None, until: length };
        Self { paths, state: SinkState::Ready(hashed), batch: Vec::new(), length, syncing }
    }

    /// How many bytes were pushed, or resumed.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Pushes bytes; returns when there is room for more.
    pub(crate) async fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let mut bytes = bytes;
        loop {
            // Batches end at multiples of their size, which are aligned for O_DIRECT.
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

    /// Hands the batch to a blocking thread.
    pub(super) async fn spill(&mut self) -> Result<(), EngineError> {
        let mut hashed = self.hashed().await?;
        if let Err(error) = self.syncing.advance(&hashed).await {
            return Err(self.break_off(hashed, &error).await);
        }
        let batch = std::mem::take(&mut self.batch);
        self.state = SinkState::Busy(spawn_blocking(move || {
            hashed.take(batch).inspect_err(|error| hashed.make_room(error))?;
            Ok(hashed)
        }));
        Ok(())
    }

    /// A sync failed.
    async fn break_off(&mut self, hashed: HashedFile, error: &std::io::Error) -> EngineError {
        let cause = std::io::Error::from(error.kind());
        // An error of the cleanup is ignored: the sync's error is returned.
        let _ = spawn_blocking(move || hashed.make_room(&cause)).await;
        self.fail(error)
    }

    fn fail(&mut self, error: &std::io::Error) -> EngineError {
        let error = self.paths.failed(WRITING, error);
        self.state = SinkState::Failed(error.clone());
        error
    }

    /// Waits for the thread that writes. Until the state is set again, the sink is broken.
    async fn hashed(&mut self) -> Result<HashedFile, EngineError> {
        let broken = || EngineError::Protocol { operation: WRITING.to_owned(), reason: "it broke off".to_owned() };
        match std::mem::replace(&mut self.state, SinkState::Failed(broken())) {
            SinkState::Ready(hashed) => Ok(hashed),
            SinkState::Failed(error) => {
                self.state = SinkState::Failed(error.clone());
                Err(error)
            }
            SinkState::Busy(thread) => match thread.await {
                Ok(Ok(hashed)) => Ok(hashed),
                Ok(Err(error)) => Err(self.fail(&error)),
                Err(_) => Err(broken()),
            },
        }
    }

    /// Removes all content.
    pub(crate) async fn restart(&mut self) -> Result<(), EngineError> {
        let mut hashed = self.hashed().await?;
        self.batch.clear();
        self.length = 0;
        if let Err(error) = self.syncing.end().await {
            return Err(self.break_off(hashed, &error).await);
        }
        self.syncing.until = 0;
        let cleared = spawn_blocking(move || hashed.clear().map(|()| hashed));
        self.state = SinkState::Busy(cleared);
        Ok(())
    }

    /// The digest so far, with the algorithm of the file.
    pub(crate) async fn digest(&mut self) -> Result<Digest, EngineError> {
        let hashed = self.hashed().await?;
        let batch = self.batch.clone();
        let done = spawn_blocking(move || {
            let algorithm = hashed.hasher.algorithm();
            hashed.digest(algorithm, &batch).map(|digest| (hashed, digest))
        });
        let broken = self.paths.invalid("hashing an ingest broke off");
        let (hashed, digest) =
            done.await.map_err(|_| broken)?.map_err(|error| self.paths.failed("hashing an ingest", &error))?;
        self.state = SinkState::Ready(hashed);
        Ok(digest)
    }

    /// Ends the sink. Returns the file and the last batch, which is the whole blob if no file was created.
    pub(crate) async fn finish(mut self) -> Result<(HashedFile, Vec<Bytes>), EngineError> {
        let hashed = self.hashed().await?;
        if let Err(error) = self.syncing.end().await {
            return Err(self.break_off(hashed, &error).await);
        }
        Ok((hashed, self.batch))
    }
}
