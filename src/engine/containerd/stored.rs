//! Blobs of the content store, to be read at random.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_client::services::v1::ReadContentRequest;

use super::ContainerdEngine;
use super::client::{Client, UNARY};
use super::content;
use super::unpack::Host;
use crate::engine::{EngineError, StoredBlob, StoredBlobs};
use crate::image::Digest;

/// The blobs of one namespace.
#[derive(Debug)]
pub(crate) struct ContainerdBlobs {
    client: Client,
    files: Option<(Arc<Host>, PathBuf)>,
}

impl ContainerdBlobs {
    /// Those of `engine`.
    pub(crate) async fn new(engine: &ContainerdEngine) -> Result<Self, EngineError> {
        let client = engine.client().clone();
        let host = Host::of(&client).await?.ok();
        let files = host.zip(engine.server().content.clone()).map(|(host, root)| (Arc::new(host), root));
        Ok(Self { client, files })
    }

    /// The blob's own file (containerd `plugins/content/local/store.go`, `blobPath`).
    async fn open(&self, digest: &Digest) -> Option<File> {
        let (host, root) = self.files.as_ref()?;
        let path = root.join("blobs").join(digest.algorithm().name()).join(digest.hex());
        let host = host.clone();
        tokio::task::spawn_blocking(move || host.file(&path)).await.ok()?.ok()
    }
}

#[async_trait]
impl StoredBlobs for ContainerdBlobs {
    async fn find(&self, digest: &Digest) -> Result<Option<Arc<dyn StoredBlob>>, EngineError> {
        let Some(info) = content::info(&self.client, digest).await? else { return Ok(None) };
        let Ok(size) = u64::try_from(info.size) else { return Ok(None) };
        let file = match self.open(digest).await {
            Some(file) => file,
            None => return Ok(Some(Arc::new(Remote { client: self.client.clone(), digest: digest.clone(), size }))),
        };
        // Another length means that it is not the store's file after all.
        let is_it = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == size);
        Ok(is_it.then(|| Arc::new(Local { file: Arc::new(file), digest: digest.clone(), size }) as Arc<dyn StoredBlob>))
    }
}

/// A blob whose file is accessible. Reading it costs a third of asking containerd for the bytes.
#[derive(Debug)]
struct Local {
    file: Arc<File>,
    digest: Digest,
    size: u64,
}

#[async_trait]
impl StoredBlob for Local {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(self: Arc<Self>, offset: u64, mut buffer: Vec<u8>) -> Result<Vec<u8>, EngineError> {
        let failed = |reason: String| EngineError::Protocol {
            operation: format!("reading the engine's file of {}", self.digest),
            reason,
        };
        let file = self.file.clone();
        let reading = tokio::task::spawn_blocking(move || file.read_exact_at(&mut buffer, offset).map(|()| buffer));
        match reading.await {
            Ok(read) => read.map_err(|error| failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// A blob that only containerd can read.
#[derive(Debug)]
struct Remote {
    client: Client,
    digest: Digest,
    size: u64,
}

#[async_trait]
impl StoredBlob for Remote {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(self: Arc<Self>, offset: u64, mut buffer: Vec<u8>) -> Result<Vec<u8>, EngineError> {
        let operation = format!("reading {}", self.digest);
        let broken = |reason: &str| EngineError::Protocol { operation: operation.clone(), reason: reason.to_owned() };
        // A size of 0 would mean all of it.
        if buffer.is_empty() {
            return Ok(buffer);
        }
        let (start, size) = i64::try_from(offset)
            .ok()
            .zip(i64::try_from(buffer.len()).ok())
            .ok_or_else(|| broken("the range is not one"))?;
        let request = ReadContentRequest { digest: self.digest.to_string(), offset: start, size };
        let mut content = self.client.content();
        let call = content.read(self.client.request(request));
        let mut chunks = self.client.unary(operation.as_str(), call).await?;
        let mut filled = 0;
        while filled < buffer.len() {
            let next = tokio::time::timeout(UNARY, chunks.message()).await;
            let next = next.map_err(|_| EngineError::Timeout { operation: operation.clone(), after: UNARY })?;
            let chunk = next.map_err(|status| self.client.failure(operation.as_str(), status))?;
            let data = chunk.ok_or_else(|| broken("it ended early"))?.data;
            let room = buffer.get_mut(filled..filled + data.len()).ok_or_else(|| broken("more than was asked for"))?;
            room.copy_from_slice(&data);
            filled += data.len();
        }
        Ok(buffer)
    }
}
