//! A builder's content store: its own files where the builder runs on this host as root, else its control connection.
//!
//! A large blob that goes through the control connection is copied by the builder, by two gRPC messages and by us. Where the file
//! can be read instead, the builder does nothing. Nothing else depends on it: the engine verifies each blob's digest, and whatever
//! does not fit is read over the connection.

mod file;
mod folder;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::http2::{Calls, ConnectionPool};
use crate::image::{Descriptor, Digest};
use crate::source::{BlobLookup, BuildkitContent, Chunks, Source, SourceError};
use file::BlobFile;
use folder::BlobFolder;

/// The smallest blob whose file is looked for, which takes about a millisecond, and two where that takes a request to docker.
const LEAST_BYTES: u64 = 8 << 20;

/// How long it may take to learn which process the builder is.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The content store of one builder.
#[derive(Debug)]
pub(super) struct BuilderContent {
    remote: BuildkitContent,
    connections: Arc<ConnectionPool>,
    /// Why the last blob was not read from its file: a reason is logged once.
    refusal: Mutex<Option<String>>,
}

impl BuilderContent {
    /// That of the builder called `name` behind `connections`.
    pub(super) fn new(name: &str, calls: Calls, connections: Arc<ConnectionPool>) -> Self {
        Self { remote: BuildkitContent::new(name, calls), connections, refusal: Mutex::default() }
    }

    /// When a blob was written, by the builder's clock; `None` if it does not hold the blob or does not know.
    ///
    /// # Errors
    /// When the builder does not respond.
    pub(super) async fn created(&self, digest: &Digest) -> Result<Option<SystemTime>, SourceError> {
        self.remote.created(digest).await
    }

    /// The file of a blob; `None` if it is not accessible.
    async fn file(&self, blob: &Descriptor) -> Option<BlobFile> {
        let opened = async {
            let process = timeout(TIMEOUT, self.connections.process()).await.ok().flatten();
            let process = process.ok_or_else(|| io::Error::other("it is not known to run on this host"))?;
            let (name, blob) = (self.remote.name().to_owned(), blob.clone());
            spawn_blocking(move || {
                let file = BlobFolder::of_builder(process)?.file(&blob)?;
                Ok(BlobFile::new(name, blob, file))
            })
            .await
            .map_err(io::Error::other)?
        };
        let refused = |error: &io::Error| {
            let reason = Some(error.to_string());
            let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            if *refusal != reason {
                tracing::debug!(%error, builder = self.connections.name(), "the builder's files are not accessible");
                *refusal = reason;
            }
        };
        opened.await.inspect_err(refused).ok()
    }
}

#[async_trait]
impl Source for BuilderContent {
    fn name(&self) -> &str {
        self.remote.name()
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        if blob.size >= LEAST_BYTES
            && let Some(file) = self.file(blob).await
        {
            tracing::debug!(digest = %blob.digest, bytes = blob.size, "a blob is read from the builder's own files");
            return Ok(file.chunks(offset));
        }
        self.remote.open(blob, offset).await
    }
}

#[async_trait]
impl BlobLookup for BuilderContent {
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError> {
        self.remote.blob_size(digest).await
    }
}
