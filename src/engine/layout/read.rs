//! Reading: the index, and blobs by their names. Changes nothing and needs no lock: the index is replaced as a whole.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use tokio::task::spawn_blocking;

use super::blob_store::BlobStore;
use super::files::{open_file, read_file_at_most};
use super::index::LayoutIndex;
use super::paths::LayoutPaths;
use super::seal::Seal;
use crate::engine::EngineError;
use crate::engine::images::{Images, Page, Query, Record};
use crate::image::layout::MAX_INDEX;
use crate::image::{Descriptor, Digest, Limits, Reference, media_type_of};
use crate::source::{Chunks, Source, SourceError};

/// How much is read at once.
const CHUNK: usize = 1 << 20;
/// How much of a blob is read to see whether it may be a document.
const SNIFF: u64 = 512;
/// The media type of a blob of which nobody says more (RFC 2046, section 4.5.1).
const ANYTHING: &str = "application/octet-stream";

/// Reads `index.json`; `None` if there is none. Blocks.
pub(super) fn read_index(paths: &LayoutPaths) -> Result<Option<LayoutIndex>, EngineError> {
    Ok(read_sealed_index(paths)?.map(|(index, _)| index))
}

/// The same with what tells whether it is still that one. Blocks.
pub(super) fn read_sealed_index(paths: &LayoutPaths) -> Result<Option<(LayoutIndex, Seal)>, EngineError> {
    let read = || {
        let file = open_file(&paths.index())?;
        // Before it is read: what is written into it meanwhile makes it another one.
        let seal = Seal::of(&file.metadata()?);
        Ok::<_, io::Error>((read_file_at_most(file, MAX_INDEX)?, seal))
    };
    let (bytes, seal) = match read() {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(paths.failed("reading index.json", &error)),
    };
    let refused = |reason| paths.refuse(format!("its index.json is not what the OCI specification says: {reason}"));
    LayoutIndex::parse(&bytes).map(|index| Some((index, seal))).map_err(refused)
}

/// The images of a layout.
#[derive(Debug, Clone)]
pub(super) struct LayoutImages {
    blobs: Arc<BlobStore>,
    name: Arc<str>,
}

impl LayoutImages {
    pub(super) fn new(blobs: Arc<BlobStore>) -> Self {
        let name = format!("layout {}", blobs.paths.root().display()).into();
        Self { blobs, name }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BlobStore) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let blobs = self.blobs.clone();
        let done = spawn_blocking(move || work(&blobs)).await;
        done.unwrap_or_else(|_| Err(self.blobs.paths.refuse("reading it broke off")))
    }

    fn refused(&self, digest: &Digest, error: &io::Error) -> SourceError {
        let (name, digest) = (self.name.to_string(), digest.clone());
        match error.kind() {
            io::ErrorKind::NotFound => SourceError::NotFound { name, digest },
            _ => SourceError::Read { name, digest, reason: error.to_string() },
        }
    }

    async fn read(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let (blobs, digest) = (self.blobs.clone(), blob.digest.clone());
        let opened = spawn_blocking(move || blobs.open(&digest)).await.map_err(io::Error::other);
        let file = opened.and_then(|opened| opened).map_err(|error| self.refused(&blob.digest, &error))?;
        let (this, digest) = (self.clone(), blob.digest.clone());
        let chunks = stream::unfold(Some((file, offset)), move |state| {
            let (this, digest) = (this.clone(), digest.clone());
            async move {
                let (file, offset) = state?;
                let read = spawn_blocking(move || chunk(file, offset)).await.map_err(io::Error::other);
                match read.and_then(|read| read) {
                    Ok((_, bytes)) if bytes.is_empty() => None,
                    Ok((file, bytes)) => {
                        let next = offset + bytes.len() as u64;
                        Some((Ok(bytes), Some((file, next))))
                    }
                    Err(error) => Some((Err(this.refused(&digest, &error)), None)),
                }
            }
        });
        Ok(chunks.boxed())
    }
}

fn chunk(file: File, offset: u64) -> io::Result<(File, Bytes)> {
    use std::os::unix::fs::FileExt as _;
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok((file, bytes.into()))
}

/// What a file of `size` bytes holds if it may be a document: a JSON object. Most layers show by their first bytes that they
/// are none, and are not read.
fn object(mut file: &File, size: u64) -> io::Result<Option<Vec<u8>>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    file.take(size.min(SNIFF)).read_to_end(&mut bytes)?;
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Ok(None);
    }
    file.by_ref().take(size.saturating_sub(SNIFF)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// What a blob is, by the index or by its own words. Blocks.
fn identify(blobs: &BlobStore, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
    let Some(size) = blobs.readable(digest) else { return Ok(None) };
    if let Some(root) = read_index(&blobs.paths)?.as_ref().and_then(|index| index.root(digest)) {
        return Ok(Some(root.clone()));
    }
    let mut media_type = None;
    if size <= Limits::default().config_bytes {
        let read = blobs.open(digest).and_then(|file| object(&file, size));
        let bytes = read.map_err(|error| blobs.paths.failed("reading a blob", &error))?;
        media_type = bytes.and_then(|bytes| media_type_of(&bytes));
    }
    Ok(Some(Descriptor::new(media_type.unwrap_or_else(|| ANYTHING.to_owned()), digest.clone(), size)))
}

impl Source for LayoutImages {
    fn name(&self) -> &str {
        &self.name
    }

    fn open<'a>(&'a self, blob: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<Chunks, SourceError>> {
        Box::pin(self.read(blob, offset))
    }
}

impl Images for LayoutImages {
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Option<Descriptor>, EngineError>> {
        let name = name.clone();
        Box::pin(
            self.work(move |blobs| {
                Ok(read_index(&blobs.paths)?.as_ref().and_then(|index| index.resolve(&name)).cloned())
            }),
        )
    }

    fn identify<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Descriptor>, EngineError>> {
        let digest = digest.clone();
        Box::pin(self.work(move |blobs| identify(blobs, &digest)))
    }

    fn list<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Page, EngineError>> {
        let query = query.clone();
        Box::pin(self.work(move |blobs| {
            let index = read_index(&blobs.paths)?;
            let entries = index.as_ref().map(LayoutIndex::entries).unwrap_or_default();
            let record = |entry: &super::index::Entry| Record {
                name: entry.name().map(str::to_owned),
                target: entry.target.clone(),
            };
            Ok(Page::of(entries.iter().map(record), &query))
        }))
    }

    fn size<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>, EngineError>> {
        let digest = digest.clone();
        Box::pin(self.work(move |blobs| Ok(blobs.readable(&digest))))
    }

    fn reliable<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>, EngineError>> {
        let digest = digest.clone();
        Box::pin(self.work(move |blobs| Ok(blobs.present(&digest, None))))
    }
}
