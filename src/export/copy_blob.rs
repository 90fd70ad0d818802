//! Moves one blob from a source into an engine.

use bytes::Bytes;
use futures_util::StreamExt;

use crate::engine::BlobWriter;
use crate::image::Descriptor;
use crate::progress::{Event, Events};
use crate::source::{Chunks, Source, SourceError};

use super::ExportError;
use super::single_flight::FlightGuard;

/// Sends all of `blob` and completes it. Neither hashes nor buffers: the engine verifies the digest at the
/// commit, and what is in flight is bounded by the source's window and the writer's. Goes on where an earlier attempt
/// ended, if the engine kept what it had. `opened` is the source's blob from its first byte, where it was
/// opened before. While the source is silent or drips, `flight` may be taken over by another export that waits for the blob.
pub(super) async fn copy_blob(
    source: &dyn Source,
    blob: &Descriptor,
    mut writer: Box<dyn BlobWriter>,
    opened: Option<Result<Chunks, SourceError>>,
    flight: &FlightGuard,
    events: &Events,
) -> Result<(), ExportError> {
    let mut current = writer.offset();
    events.emit(Event::Sending { digest: blob.digest.clone(), offset: current });
    let mut chunks = match opened.filter(|_| current == 0) {
        Some(chunks) => chunks?,
        None => flight.listen(source.open(blob, current), |_| 0).await?,
    };
    let size =
        |chunk: &Option<Result<Bytes, SourceError>>| chunk.as_ref().map_or(0, |it| it.as_ref().map_or(0, Bytes::len));
    while let Some(chunk) = flight.listen(chunks.next(), size).await {
        let chunk = chunk?;
        current += chunk.len() as u64;
        if current > blob.size {
            break;
        }
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
