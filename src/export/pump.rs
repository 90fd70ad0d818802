//! Moves one blob from a source into an engine.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::engine::BlobWriter;
use crate::image::Descriptor;
use crate::progress::{Event, Events};
use crate::source::{Source, SourceError};

use super::ExportError;

/// Receives a copy of a blob's bytes (shared, not copied) in order, so that a layer can be unpacked while it
/// flows. A full channel slows the transfer down; a closed one is ignored.
pub type Tee = mpsc::Sender<Bytes>;

/// Sends all of `blob` and completes it. Neither hashes nor buffers: the engine verifies the digest at the
/// commit, and what is in flight is bounded by the source's window and the writer's.
pub(super) async fn pump(
    source: &dyn Source,
    blob: &Descriptor,
    mut writer: Box<dyn BlobWriter>,
    tee: Option<&Tee>,
    events: &Events,
) -> Result<(), ExportError> {
    let mut chunks = source.open(blob).await?;
    let mut current = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        current += chunk.len() as u64;
        if current > blob.size {
            break;
        }
        if let Some(tee) = tee {
            // The receiver may have given up; the transfer does not depend on it.
            let _ = tee.send(chunk.clone()).await;
        }
        writer.write(chunk).await?;
        events.emit(Event::Sent { digest: blob.digest.clone(), current, total: blob.size });
    }
    if current != blob.size {
        let (name, digest) = (source.name().to_owned(), blob.digest.clone());
        return Err(SourceError::Length { name, digest, expected: blob.size, actual: current }.into());
    }
    writer.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests;
