//! Omitted blobs that must be sent after all.

use std::sync::Arc;

use tracing::debug;

use super::{Filter, PIECE, zeros};
use crate::door::docker::load::error::FilterError;
use crate::door::docker::load::pinning::{self, PinOutcome};
use crate::engine::{EngineError, StoredBlob};
use crate::tar;

impl Filter<'_> {
    /// Sends the first `length` bytes of the engine's copy.
    pub(super) async fn send_stored(&mut self, blob: &Arc<dyn StoredBlob>, length: u64) -> Result<(), FilterError> {
        let mut offset = 0;
        while offset < length {
            let piece = PIECE.min(length - offset);
            // A separate buffer, because the output takes ownership of it.
            let bytes = blob.clone().read_at(offset, vec![0; piece as usize]).await?;
            self.output.send(bytes.into()).await?;
            offset += piece;
        }
        Ok(())
    }

    /// Sends everything that was omitted: without an OCI layout dockerd finds files by their names (containerd
    /// `core/images/archive/importer.go`, `ImportIndex`).
    pub(super) async fn restore(&mut self) -> Result<(), FilterError> {
        for (digest, size) in self.omitted.take() {
            let blob = self.blobs.find(&digest).await?.filter(|blob| blob.size() == size);
            let blob = blob.ok_or_else(|| EngineError::Missing { digests: vec![digest.clone()] })?;
            let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
            self.output.head(tar::member(&name, size), size).await?;
            self.send_stored(&blob, size).await?;
            self.output.send(zeros(tar::padding(size))).await?;
        }
        Ok(())
    }

    /// Sends members that could not be pinned, between two members. With `all` it waits until every pin has an outcome, and every new
    /// blob is in the store.
    pub(super) async fn await_pins(&mut self, all: bool) -> Result<(), FilterError> {
        self.await_commits(if all { 0 } else { usize::MAX }).await?;
        while self.pins.is_due() || (all && !self.pins.is_idle()) {
            let PinOutcome { pinned, lost, error } = self.pins.await_pins(&self.blobs).await;
            for digest in pinned {
                self.omitted.pinned(digest);
            }
            if let Some(error) = &error {
                self.stop_omitting(error);
            }
            for pinning::Member { digest, head, blob } in lost {
                debug!(%digest, "a blob was removed before it was pinned, and is sent");
                self.omitted.remove(&digest);
                self.output.head(head, blob.size()).await?;
                self.send_stored(&blob, blob.size()).await?;
                self.output.send(zeros(tar::padding(blob.size()))).await?;
            }
        }
        Ok(())
    }
}
