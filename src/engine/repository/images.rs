//! The images of a repository. Reading needs no lock: the index is replaced as a whole.

use std::fs::File;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::task::spawn_blocking;

use super::super::local::{Entry, LayoutIndex};
use super::stores::Stores;
use crate::engine::EngineError;
use crate::engine::images::{Images, Page, Query, Record};
use crate::image::{Descriptor, Digest, Limits, Reference, media_type_of};
use crate::source::{Chunks, Source, SourceError};

/// How many bytes are read at once.
const CHUNK: usize = 1 << 20;
/// How many bytes of a blob are read to see whether it may be a document.
const SNIFF: u64 = 512;
/// The media type of a blob of unknown type (RFC 2046, section 4.5.1).
const ANYTHING: &str = "application/octet-stream";

/// The images of a repository.
#[derive(Debug, Clone)]
pub(super) struct RepositoryImages {
    stores: Arc<Stores>,
    name: Arc<str>,
}

impl RepositoryImages {
    pub(super) fn new(stores: Arc<Stores>, address: &str) -> Self {
        Self { stores, name: format!("layout {address}").into() }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Stores) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let stores = self.stores.clone();
        self.stores.blobs.run("reading it", move || work(&stores)).await
    }

    fn refused(&self, digest: &Digest, error: &io::Error) -> SourceError {
        let (name, digest) = (self.name.to_string(), digest.clone());
        match error.kind() {
            io::ErrorKind::NotFound => SourceError::NotFound { name, digest },
            _ => SourceError::Read { name, digest, reason: error.to_string() },
        }
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

/// The content of a file of `size` bytes if it is a JSON object, as documents are. Most layers show by their first bytes
/// that they are none, and are not read.
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

/// The descriptor of a blob, from the index or from the media type in its own content. Blocks.
fn identify(stores: &Stores, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
    let Some(size) = stores.blobs.readable(digest) else { return Ok(None) };
    if let Some(root) = stores.names.root(digest)? {
        return Ok(Some(root));
    }
    let mut media_type = None;
    if size <= Limits::default().config_bytes {
        let read = stores.blobs.open(digest).and_then(|file| object(&file, size));
        let bytes = read.map_err(|error| stores.blobs.failed("reading a blob", &error))?;
        media_type = bytes.and_then(|bytes| media_type_of(&bytes));
    }
    Ok(Some(Descriptor::new(media_type.unwrap_or_else(|| ANYTHING.to_owned()), digest.clone(), size)))
}

#[async_trait]
impl Source for RepositoryImages {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let (blobs, digest) = (self.stores.blobs.clone(), blob.digest.clone());
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

#[async_trait]
impl Images for RepositoryImages {
    async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
        let name = name.clone();
        self.work(move |stores| stores.names.resolve(&name)).await
    }

    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let digest = digest.clone();
        self.work(move |stores| identify(stores, &digest)).await
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let query = query.clone();
        self.work(move |stores| {
            let index = stores.names.read()?;
            let entries = index.as_ref().map(LayoutIndex::entries).unwrap_or_default();
            let record = |entry: &Entry| Record { name: entry.name().map(str::to_owned), target: entry.target.clone() };
            Ok(Page::of(entries.iter().map(record), &query))
        })
        .await
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let digest = digest.clone();
        self.work(move |stores| Ok(stores.blobs.readable(&digest))).await
    }

    async fn reliable(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let digest = digest.clone();
        self.work(move |stores| Ok(stores.blobs.present(&digest, None))).await
    }
}
