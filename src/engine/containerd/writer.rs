//! Writing a blob of which digest and size are known.

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::{WriteAction, WriteContentRequest};
use futures_util::future::BoxFuture;
use tonic::Code;

use super::client::Client;
use super::content;
use crate::engine::stream::Stream;
use crate::engine::transaction::{check_length, check_room};
use crate::engine::{BlobWriter, EngineError};
use crate::image::Descriptor;

/// What opening a blob came to.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The store has the blob, and it is leased.
    Present,
    /// It must be written.
    Writer(Box<Writer>),
}

/// Opens `blob` for writing under `lease`.
pub(crate) async fn begin(client: &Client, lease: &str, blob: &Descriptor) -> Result<Begun, EngineError> {
    let total = content::size(blob)?;
    let first = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: content::reference(lease, &blob.digest),
        total,
        expected: blob.digest.to_string(),
        ..WriteContentRequest::default()
    };
    let operation = format!("writing {}", blob.digest);
    let (stream, response) = match Stream::open(client, &operation, first).await {
        Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => {
            content::pin(client, lease, &blob.digest).await?;
            return Ok(Begun::Present);
        }
        outcome => outcome?,
    };
    let (client, lease, blob) = (client.clone(), lease.to_owned(), blob.clone());
    let mut writer = Box::new(Writer { client, lease, blob, operation, stream });
    // Another namespace of this containerd holds the blob, and the sharing policy lets us have it: a COMMIT without
    // data registers it here (containerd `core/metadata/content.go`, `Writer`). An ingest of ours that was left half
    // done is not resumed, because containerd would hash it again inside a database transaction: the first write has
    // offset 0 and thereby truncates it.
    if total > 0 && response.offset == total {
        writer.stream.seek(writer.blob.size);
        writer.commit().await?;
        return Ok(Begun::Present);
    }
    Ok(Begun::Writer(writer))
}

/// A blob on its way into the store.
#[derive(Debug)]
pub(crate) struct Writer {
    client: Client,
    lease: String,
    blob: Descriptor,
    operation: String,
    stream: Stream,
}

#[async_trait]
impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let room = check_room(&self.blob, self.stream.length(), &bytes)?;
            let pushed = self.stream.push(bytes, Some(room)).await;
            pushed.map_err(|error| content::refused(error, &self.blob.digest))
        })
    }

    /// Commits what was sent and waits for the response: only then is the blob in the store.
    async fn commit(self: Box<Self>) -> Result<(), EngineError> {
        let Self { client, lease, blob, operation, stream } = *self;
        check_length(&blob, stream.length())?;
        let message = WriteContentRequest {
            total: content::size(&blob)?,
            expected: blob.digest.to_string(),
            ..WriteContentRequest::default()
        };
        match stream.commit(message).await.and_then(|end| end.outcome) {
            Ok(Some(response)) => content::verify(&operation, &blob, response.offset, &response.digest),
            Ok(None) => {
                let reason = "the stream ended before the blob was committed".to_owned();
                Err(EngineError::Protocol { operation, reason })
            }
            // Another client was faster. The bytes are the same; only our lease may not have them yet.
            Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => {
                content::pin(&client, &lease, &blob.digest).await
            }
            Err(error) => {
                let error = content::refused(error, &blob.digest);
                if matches!(error, EngineError::Corrupt { .. }) {
                    // containerd keeps the bytes of a refused ingest.
                    let name = content::reference(&lease, &blob.digest);
                    if let Err(error) = content::abort(&client, &name).await {
                        tracing::debug!(%error, name, "a corrupt ingest stays until its lease goes");
                    }
                }
                Err(error)
            }
        }
    }
}
