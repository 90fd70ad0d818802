//! The parts of caches that one build imports, to be read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::time::Instant;

use super::{CacheError, InlineCache, ResolvedPart};
use crate::engine::EngineError;
use crate::engine::images::Images;
use crate::image::{Descriptor, Digest};
use crate::source::{Chunks, SourceError};

/// How many streams of the engine are kept open for reads that continue one.
const STREAMS: usize = 8;

/// How long an engine that is away is waited for, and how long it is between two attempts.
const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(250);
/// How often one piece of a blob is read anew.
const REOPENED: usize = 8;

/// What was read of a build's imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadTotals {
    /// Blobs of the engine of which the first byte was read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The blobs of the parts that have been added, and no others of the engine.
#[derive(Debug)]
pub struct CacheReader {
    blobs: Arc<dyn Images>,
    state: Mutex<ReaderState>,
}

#[derive(Debug, Default)]
struct ReaderState {
    documents: HashMap<Digest, Bytes>,
    /// The media types of those that are roots of parts.
    roots: HashMap<Digest, String>,
    /// Of the engine, with their sizes.
    blobs: HashMap<Digest, u64>,
    streams: HashMap<Digest, Open>,
    totals: ReadTotals,
    /// Until when an engine that is away is waited for, since it was first.
    patience: Option<Instant>,
    /// Keep the versions from being deleted.
    parts: Vec<ResolvedPart>,
}

/// A stream of the engine between two reads. A builder reads a layer in pieces of 1 MiB, one call for each (containerd
/// `core/content/proxy/content_reader.go`).
struct Open {
    at: u64,
    /// What came with the last piece and was not requested.
    rest: Bytes,
    chunks: Chunks,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("at", &self.at).finish_non_exhaustive()
    }
}

impl CacheReader {
    /// A reader of blobs that `blobs` has.
    pub fn new(blobs: Arc<dyn Images>) -> Arc<Self> {
        Arc::new(Self { blobs, state: Mutex::default() })
    }

    /// Makes a part readable, and keeps its version for as long as the reader lives.
    pub fn add(&self, part: ResolvedPart) {
        let mut state = self.state();
        state.documents.insert(part.root.descriptor.digest.clone(), part.root.bytes.clone());
        // The stored root as well: it is what a copy of the version needs.
        state
            .blobs
            .extend([&part.listed.config, &part.listed.descriptor].into_iter().chain(&part.listed.layers).map(sized));
        let root = &part.root.descriptor;
        state.roots.insert(root.digest.clone(), root.media_type.clone());
        state.parts.push(part);
    }

    /// Makes the inline cache of an image readable. Nothing keeps it: a build goes on without what is deleted meanwhile.
    pub fn add_inline(&self, cache: &InlineCache) {
        self.add_blobs(cache.blobs());
    }

    /// Makes blobs of the engine readable, which the caller keeps.
    pub fn add_blobs<'a>(&self, blobs: impl IntoIterator<Item = &'a Descriptor>) {
        self.state().blobs.extend(blobs.into_iter().map(sized));
    }

    /// The size of a blob, if it can be read here.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        let state = self.state();
        let document = state.documents.get(digest).map(|bytes| bytes.len() as u64);
        document.or_else(|| state.blobs.get(digest).copied())
    }

    /// How many blobs of the engine can be read here, and how many bytes these are.
    pub fn extent(&self) -> (u64, u64) {
        let state = self.state();
        (state.blobs.len() as u64, state.blobs.values().fold(0, |sum, size| sum.saturating_add(*size)))
    }

    /// The media type of a document, if it is the root of a part.
    pub fn root_type(&self, digest: &Digest) -> Option<String> {
        self.state().roots.get(digest).cloned()
    }

    /// Lets go of the versions, which may be deleted from now on. What the engine still has of them can be read.
    pub fn release_versions(&self) {
        let parts = std::mem::take(&mut self.state().parts);
        drop(parts);
    }

    /// What has been read.
    pub fn totals(&self) -> ReadTotals {
        self.state().totals
    }

    /// The bytes of a blob from `offset` on, `size` of them.
    ///
    /// # Errors
    /// When the engine has lost it.
    pub async fn read(
        self: &Arc<Self>,
        digest: &Digest,
        offset: u64,
        size: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, CacheError>>, CacheError> {
        let (document, total) = {
            let state = self.state();
            (state.documents.get(digest).cloned(), state.blobs.get(digest).copied())
        };
        if let Some(document) = document {
            let range = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(document.len());
            let part = document.slice(range(offset)..range(offset.saturating_add(size)));
            return Ok(stream::iter(Some(Ok(part)).filter(|_| size > 0)).boxed());
        }
        let total = total.ok_or_else(|| lost(digest))?;
        let open = match self.take(digest, offset) {
            Some(open) => open,
            None => {
                let chunks = self.open(digest, total, offset).await?;
                Open { at: offset, rest: Bytes::new(), chunks }
            }
        };
        let (reader, digest) = (self.clone(), digest.clone());
        let pieces = stream::unfold(Some((open, size)), move |state| {
            let (reader, digest) = (reader.clone(), digest.clone());
            async move {
                let (mut open, left) = state?;
                if left == 0 {
                    reader.put_back(&digest, open, total);
                    return None;
                }
                if open.rest.is_empty() {
                    match reader.next(&digest, total, &mut open).await {
                        Ok(Some(chunk)) => open.rest = chunk,
                        Ok(None) => return Some((Err(lost(&digest)), None)),
                        Err(error) => return Some((Err(error.into()), None)),
                    }
                }
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(open.rest.len());
                let piece = open.rest.split_to(length);
                reader.count(open.at, length as u64);
                open.at += length as u64;
                Some((Ok(piece), Some((open, left - length as u64))))
            }
        });
        Ok(pieces.boxed())
    }

    /// The next bytes of a stream. Where the engine went away in the middle of it, from another stream when it is back.
    async fn next(&self, digest: &Digest, total: u64, open: &mut Open) -> Result<Option<Bytes>, SourceError> {
        for _ in 0..REOPENED {
            match open.chunks.next().await.transpose() {
                Err(error) if is_away(&error) => open.chunks = self.open(digest, total, open.at).await?,
                next => return next,
            }
        }
        open.chunks.next().await.transpose()
    }

    /// Opens a blob. An engine that is away is waited for: of a layer that it was offered and cannot load, BuildKit may take
    /// the remains for a result of another step, and fail the build (`cache/manager.go`, `GetByBlob`).
    async fn open(&self, digest: &Digest, total: u64, offset: u64) -> Result<Chunks, SourceError> {
        let blob = Descriptor::new("", digest.clone(), total);
        loop {
            match self.blobs.open(&blob, offset).await {
                Err(error) if is_away(&error) && self.is_waited_for() => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
                Ok(chunks) => {
                    // It is waited for as long the next time.
                    self.state().patience = None;
                    return Ok(chunks);
                }
            }
        }
    }

    /// Whether an engine that is away is still waited for, by all reads together.
    fn is_waited_for(&self) -> bool {
        let now = Instant::now();
        now < *self.state().patience.get_or_insert(now + TIMEOUT)
    }

    fn take(&self, digest: &Digest, offset: u64) -> Option<Open> {
        self.state().streams.remove(digest).filter(|open| open.at == offset)
    }

    fn put_back(&self, digest: &Digest, open: Open, total: u64) {
        let mut state = self.state();
        if open.at < total && state.streams.len() < STREAMS {
            state.streams.insert(digest.clone(), open);
        }
    }

    fn count(&self, at: u64, bytes: u64) {
        let mut state = self.state();
        state.totals.blobs += u64::from(at == 0);
        state.totals.bytes += bytes;
    }

    fn state(&self) -> MutexGuard<'_, ReaderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sized(blob: &Descriptor) -> (Digest, u64) {
    (blob.digest.clone(), blob.size)
}

/// Whether the engine may have the blob, and cannot be queried.
fn is_away(error: &SourceError) -> bool {
    matches!(error, SourceError::Read { .. })
}

/// A blob that is not, or no longer, to be read here.
fn lost(digest: &Digest) -> CacheError {
    EngineError::Missing { digests: vec![digest.clone()] }.into()
}
