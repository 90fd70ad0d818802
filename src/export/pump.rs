//! Moves one blob from a source into an engine.

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::engine::BlobWriter;
use crate::image::Descriptor;
use crate::progress::{Event, Events};
use crate::source::{Source, SourceError};

use super::ExportError;
use super::flight::Flight;

/// Receives a copy of a blob's bytes (shared, not copied) in order, so that a layer can be unpacked while it
/// flows. A full channel slows the transfer down; a closed one is ignored.
pub type Tee = mpsc::Sender<Bytes>;

/// Sends all of `blob` and completes it. Neither hashes nor buffers: the engine verifies the digest at the
/// commit, and what is in flight is bounded by the source's window and the writer's. Goes on where an earlier attempt
/// ended, if the engine kept what it had; with a tee, which needs every byte, the source is read from the start all the
/// same. While the source is silent, `flight` may be taken over by another export that waits for the blob.
pub(super) async fn pump(
    source: &dyn Source,
    blob: &Descriptor,
    mut writer: Box<dyn BlobWriter>,
    tee: Option<&Tee>,
    flight: &Flight,
    events: &Events,
) -> Result<(), ExportError> {
    let offset = writer.offset();
    let mut current = if tee.is_some() { 0 } else { offset };
    let mut chunks = flight.listen(source.open(blob, current)).await?;
    while let Some(chunk) = flight.listen(chunks.next()).await {
        let mut chunk = chunk?;
        let known = offset.saturating_sub(current);
        current += chunk.len() as u64;
        if current > blob.size {
            break;
        }
        if let Some(tee) = tee {
            // The receiver may have given up; the transfer does not depend on it.
            let _ = tee.send(chunk.clone()).await;
        }
        chunk.advance(chunk.len().min(usize::try_from(known).unwrap_or(usize::MAX)));
        if !chunk.is_empty() {
            writer.write(chunk).await?;
        }
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
