//! The content store: what is there, and what its labels say.

use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost_types::FieldMask;
use tokio::time::sleep;
use tonic::Code;

use super::client::{Client, Expect as _};
use super::labels::Labels;
use super::lease_calls;
use crate::engine::EngineError;
use crate::image::{Descriptor, Digest};

/// How many read-only look-ups are in flight at once. They share one connection; more would only queue in containerd.
const LOOKUPS: usize = 64;

/// How often to try to abort an ingest that is still being closed; in all about a third of a second.
const ABORT_TRIES: u32 = 5;

/// What the store knows of a blob; `None` if it does not hold it in this namespace.
pub(crate) async fn info(client: &Client, digest: &Digest) -> Result<Option<Info>, EngineError> {
    let mut content = client.content();
    let call = content.info(client.request(InfoRequest { digest: digest.to_string() }));
    let found = client.unary(format!("looking up {digest}"), call).await.unless(Code::NotFound)?;
    Ok(found.and_then(|response| response.info))
}

/// Which of `blobs` the store holds, many look-ups at a time; in the order of `blobs`.
pub(crate) async fn present<'a>(
    client: &Client,
    blobs: impl IntoIterator<Item = &'a Descriptor>,
) -> Result<Vec<(&'a Descriptor, bool)>, EngineError> {
    let lookup = async |blob: &'a Descriptor| Ok::<_, EngineError>((blob, info(client, &blob.digest).await?.is_some()));
    let lookups: Vec<_> = blobs.into_iter().map(lookup).collect();
    let mut found = Vec::new();
    let mut lookups = stream::iter(lookups).buffered(LOOKUPS);
    while let Some(lookup) = lookups.next().await {
        found.push(lookup?);
    }
    Ok(found)
}

/// The sizes of those of `digests` that the store holds, many look-ups at a time; in the same order.
pub(crate) async fn sizes(client: &Client, digests: &[Digest]) -> Result<Vec<Option<u64>>, EngineError> {
    let lookup = async |digest: &Digest| {
        let info = info(client, digest).await?;
        Ok::<_, EngineError>(info.and_then(|info| u64::try_from(info.size).ok()))
    };
    let lookups: Vec<_> = digests.iter().map(lookup).collect();
    stream::iter(lookups).buffered(LOOKUPS).try_collect().await
}

/// Adds `labels` to a blob and leaves its other labels alone.
pub(crate) async fn label(client: &Client, digest: &Digest, labels: Labels) -> Result<(), EngineError> {
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let info = Info { digest: digest.to_string(), labels, ..Info::default() };
    let mut content = client.content();
    let call =
        content.update(client.request(UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) }));
    client.unary(format!("labelling {digest}"), call).await?;
    Ok(())
}

/// How a blob came to be in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It was written now.
    Stored,
    /// It was there already, and is leased now; its labels were not touched.
    Present,
}

/// Writes a small blob with its labels in a single message, or leases it if it is there.
///
/// A first message with the action COMMIT opens, writes, verifies and commits (containerd
/// `contentserver.go`, `Write`); the response comes twice, which is harmless since only the first is read.
pub(crate) async fn put(
    client: &Client,
    lease: &str,
    descriptor: &Descriptor,
    bytes: &Bytes,
    labels: Labels,
) -> Result<Put, EngineError> {
    let operation = format!("storing {}", descriptor.digest);
    let message = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: reference(lease, &descriptor.digest),
        total: size(descriptor)?,
        expected: descriptor.digest.to_string(),
        offset: 0,
        data: bytes.to_vec(),
        labels,
    };
    let mut content = client.content();
    let call = async {
        let mut responses = content.write(client.request(stream::iter([message]))).await?.into_inner();
        responses.message().await.map(tonic::Response::new)
    };
    match client.unary(operation.as_str(), call).await {
        Ok(Some(response)) => {
            verify(&operation, descriptor, response.offset, &response.digest)?;
            Ok(Put::Stored)
        }
        Ok(None) => Err(EngineError::Protocol { operation, reason: "the stream ended without a response".to_owned() }),
        Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => {
            pin(client, lease, &descriptor.digest).await?;
            Ok(Put::Present)
        }
        Err(error) => Err(refused(error, &descriptor.digest)),
    }
}

/// Makes sure of a blob that was reported to exist. ALREADY_EXISTS at the opening of an ingest has leased it, but one
/// that comes later, because another client was faster, has not (`contentserver.go` looks it up by itself), and both
/// look alike. Asking what the lease holds is cheap; adding to it is a synced write.
pub(crate) async fn pin(client: &Client, lease: &str, digest: &Digest) -> Result<(), EngineError> {
    let resources = lease_calls::resources(client, lease).await?;
    if resources.iter().any(|resource| resource.r#type == lease_calls::CONTENT && resource.id == digest.as_str()) {
        return Ok(());
    }
    lease_calls::add(client, lease, lease_calls::CONTENT, digest.as_str()).await?;
    match info(client, digest).await? {
        Some(_) => Ok(()),
        None => Err(EngineError::Missing { digests: vec![digest.clone()] }),
    }
}

/// What a refused write means for the blob.
pub(crate) fn refused(error: EngineError, digest: &Digest) -> EngineError {
    match error {
        // Size or digest did not match (containerd `plugins/content/local/writer.go`, `Commit`).
        EngineError::Rpc { code: Code::FailedPrecondition, message, .. } => {
            EngineError::Corrupt { digest: digest.clone(), reason: message }
        }
        error => error,
    }
}

/// Checks the response to a COMMIT.
pub(crate) fn verify(operation: &str, descriptor: &Descriptor, offset: i64, digest: &str) -> Result<(), EngineError> {
    if u64::try_from(offset) == Ok(descriptor.size) && digest == descriptor.digest.as_str() {
        return Ok(());
    }
    let reason = format!("committed {digest} of {offset} bytes, expected {} bytes", descriptor.size);
    Err(EngineError::Protocol { operation: operation.to_owned(), reason })
}

/// The ref under which an export writes a blob. Private to the export, so that no other client's lock is waited for.
pub(crate) fn reference(lease: &str, digest: &Digest) -> String {
    format!("{lease}/blob/{digest}")
}

/// containerd's ref of a client's ingest `reference`. No id of a lease holds a slash, so that no other export's refs begin
/// with this one's lease, and no client's ref is that of a blob that the export writes by itself.
pub(crate) fn client_ref(lease: &str, reference: &str) -> String {
    format!("{lease}/upload/{reference}")
}

/// A descriptor's size as the protocol wants it.
pub(crate) fn size(descriptor: &Descriptor) -> Result<i64, EngineError> {
    i64::try_from(descriptor.size).map_err(|_| EngineError::Corrupt {
        digest: descriptor.digest.clone(),
        reason: format!("a size of {} bytes is out of range", descriptor.size),
    })
}

/// Aborts an ingest; fine if it is gone already.
///
/// A stream that was just dropped may still be closing: containerd then writes into the folder that it is asked to
/// delete, and the deletion fails. That passes within milliseconds.
pub(crate) async fn abort(client: &Client, name: &str) -> Result<(), EngineError> {
    let mut tries = 0;
    loop {
        let mut content = client.content();
        let call = content.abort(client.request(AbortRequest { r#ref: name.to_owned() }));
        match client.unary(format!("aborting {name}"), call).await.unless(Code::NotFound) {
            Err(EngineError::Rpc { .. }) if tries < ABORT_TRIES => {
                tries += 1;
                sleep(Duration::from_millis(5 << tries)).await;
            }
            outcome => return outcome.map(|_| ()),
        }
    }
}
