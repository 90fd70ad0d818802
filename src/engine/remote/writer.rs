//! Writing one blob into an export of a daemon.

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::{WriteAction, WriteContentRequest};
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::time::timeout;
use tonic::Code;

use super::connection::Scoped;
use crate::engine::stream::{SILENCE, Store as _, Stream};
use crate::engine::transaction::check_room;
use crate::engine::{BlobWriter, EngineError, Opened};
use crate::image::{Descriptor, Document};

fn size(blob: &Descriptor) -> Result<i64, EngineError> {
    i64::try_from(blob.size).map_err(|_| EngineError::Corrupt {
        digest: blob.digest.clone(),
        reason: format!("its descriptor says {} bytes, more than a store can count", blob.size),
    })
}

/// Sends a document in one message.
pub(super) async fn store(content: &Scoped, document: &Document) -> Result<(), EngineError> {
    let blob = &document.descriptor;
    let message = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: blob.digest.to_string(),
        total: size(blob)?,
        expected: blob.digest.to_string(),
        data: document.bytes.to_vec(),
        ..WriteContentRequest::default()
    };
    let mut stub = content.content();
    let call = async {
        let mut responses = stub.write(content.request(stream::iter([message]))).await?.into_inner();
        responses.message().await
    };
    let operation = format!("writing {}", blob.digest);
    match timeout(SILENCE, call).await {
        Ok(Ok(Some(_))) => Ok(()),
        Ok(Ok(None)) => Err(early(operation)),
        Ok(Err(status)) if status.code() == Code::AlreadyExists => Ok(()),
        Ok(Err(status)) => Err(content.failure(operation, status)),
        Err(_) => Err(content.late(operation, SILENCE)),
    }
}

fn early(operation: String) -> EngineError {
    EngineError::Protocol { operation, reason: "the stream ended before the blob was committed".to_owned() }
}

/// Opens a blob for writing, where an earlier attempt left it. Its digest is its ref, as Negotiate proposes.
pub(super) async fn begin(content: &Scoped, blob: &Descriptor) -> Result<Opened, EngineError> {
    let total = size(blob)?;
    let first = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: blob.digest.to_string(),
        total,
        expected: blob.digest.to_string(),
        ..WriteContentRequest::default()
    };
    let operation = format!("writing {}", blob.digest);
    let (mut stream, response) = match Stream::open(content, &operation, first).await {
        Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => return Ok(Opened::Present),
        Err(EngineError::Rpc { code: Code::Unavailable, .. }) => {
            return Err(EngineError::Busy { what: blob.digest.to_string() });
        }
        outcome => outcome?,
    };
    let offset = u64::try_from(response.offset).ok().filter(|offset| *offset <= blob.size).unwrap_or(0);
    stream.seek(offset);
    let writer = Box::new(RemoteWriter { blob: blob.clone(), total, operation, stream, offset });
    // All of it is there: the end of an earlier attempt, or another namespace of the same containerd. A COMMIT without
    // data takes it.
    if total > 0 && offset == blob.size {
        writer.commit().await?;
        return Ok(Opened::Present);
    }
    Ok(Opened::Writer(writer))
}

/// A blob on its way to the daemon.
#[derive(Debug)]
struct RemoteWriter {
    blob: Descriptor,
    total: i64,
    operation: String,
    stream: Stream,
    offset: u64,
}

#[async_trait]
impl BlobWriter for RemoteWriter {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let room = check_room(&self.blob, self.stream.length(), &bytes)?;
            self.stream.push(bytes, Some(room)).await
        })
    }

    async fn commit(self: Box<Self>) -> Result<(), EngineError> {
        let Self { blob, total, operation, stream, .. } = *self;
        let expected = blob.digest.to_string();
        let message = WriteContentRequest { total, expected, ..WriteContentRequest::default() };
        match stream.commit(message).await?.outcome {
            Ok(Some(_)) | Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => Ok(()),
            Ok(None) => Err(early(operation)),
            Err(error) => Err(error),
        }
    }
}
