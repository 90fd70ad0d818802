//! The load: the archive, which names nothing, what dockerd says of it, and that the image is complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::DockerApi;
use super::archive::{Archive, closed, copy, refused};
use super::plan::{Archived, expected, not_found};
use super::unnamed::UnnamedRecord;
use crate::engine::docker::{TRANSIENT, UNPACK_FAILED, Upload, check_loaded, is_transient, pause};
use crate::engine::{EngineError, TransactionOptions, UnpackFor};
use crate::image::layout::{self, INDEX_FILE, blob_path};
use crate::image::{Digest, Graph};

/// An image on its way, as its writers and its commit share it.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) docker: Arc<DockerApi>,
    pub(super) graph: Arc<Graph>,
    pub(super) options: TransactionOptions,
    pub(super) archived: Archived,
    /// Whether nothing is left out of the archive.
    pub(super) is_whole: bool,
    /// Whether the next plan is to leave nothing out.
    pub(super) next_is_whole: Arc<AtomicBool>,
    /// Files come in parallel and an archive has one after the other, so that the lock is held while a file is written. It is
    /// taken before a blob is read; its holder waits only for the blob's source and for dockerd, not for another blob.
    pub(super) archive: Arc<AsyncMutex<Archive>>,
    pub(super) unnamed: UnnamedRecord,
    pub(super) cancelled: CancellationToken,
}

impl Load {
    pub(super) fn root(&self) -> &Digest {
        &self.graph.root().digest
    }

    /// The turn to write, with the load begun.
    pub(super) async fn turn(&self) -> Result<OwnedMutexGuard<Archive>, EngineError> {
        let mut archive = self.archive.clone().lock_owned().await;
        archive.open(&self.docker.api, &self.cancelled).await?;
        Ok(archive)
    }

    /// Has dockerd load and unpack the image, without a name, and returns what it says for people. Dropping the future breaks
    /// the load off; [`UnnamedRecord::forget`] is for the caller then.
    ///
    /// # Errors
    /// Nothing is left of the image then but bytes that dockerd keeps for a day.
    pub(super) async fn load(&self) -> Result<Vec<String>, EngineError> {
        let outcome = match self.send().await {
            Ok(notes) => self.check_complete(&notes).await.map(|()| notes),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(notes) => Ok(notes),
            Err(error) => {
                self.unnamed.forget().await;
                Err(self.explained(error).await)
            }
        }
    }

    /// Sends what is left of the archive, the file that makes an image of it last. Returns what dockerd says.
    async fn rest(&self, upload: Upload) -> Result<Vec<String>, EngineError> {
        for document in self.graph.documents() {
            upload.file(&blob_path(&document.descriptor.digest), document.bytes.clone()).await?;
        }
        let images = self.docker.images();
        for blob in self.archived.spooled.iter().chain(&self.archived.repeated) {
            copy(&upload, &images, blob).await?;
        }
        let entries = layout::entries(&self.graph.root().clone().without_names(), &[]);
        let index = layout::index(&entries).map_err(|error| refused(error.to_string()))?;
        self.unnamed.load_begins();
        upload.file(INDEX_FILE, index.into()).await?;
        let outcome = upload.finish().await;
        if matches!(outcome, Ok(_) | Err(EngineError::Commit { .. } | EngineError::NoSpace { .. })) {
            self.unnamed.load_ended();
        }
        outcome
    }

    async fn send(&self) -> Result<Vec<String>, EngineError> {
        let end = Instant::now() + TRANSIENT;
        loop {
            let mut archive = self.turn().await?;
            let Archive::Open(upload) = std::mem::replace(&mut *archive, Archive::Closed) else {
                return Err(closed());
            };
            match self.rest(upload).await {
                Err(EngineError::Commit { reason, .. }) if is_transient(&reason) && Instant::now() < end => {
                    // Layers that were in the archive are in the store by now. Whether they stay is looked at after the load.
                    tracing::debug!(reason, "docker is asked again");
                    *archive = Archive::NotBegun;
                    drop(archive);
                    sleep(pause()).await;
                }
                Err(EngineError::Commit { engine, reason }) => {
                    return Err(match not_found(&reason) {
                        Some(digests) => EngineError::Vanished { digests },
                        None => EngineError::Commit { engine, reason },
                    });
                }
                outcome => return outcome,
            }
        }
    }

    /// That every blob is there, and that dockerd did not fail to unpack the image. That it is unpacked it does not show: a
    /// snapshot that other images have made already is noted on their configs alone.
    async fn check_complete(&self, notes: &[String]) -> Result<(), EngineError> {
        self.check_blobs().await?;
        let packed = notes.iter().find(|note| note.starts_with(UNPACK_FAILED));
        if let Some(reason) = packed.filter(|_| self.options.unpack != UnpackFor::CommitIfPossible) {
            return Err(refused(reason.clone()));
        }
        check_loaded(notes, &[], self.root().as_str()).map_err(refused)
    }

    /// That every blob is there.
    pub(super) async fn check_blobs(&self) -> Result<(), EngineError> {
        let digests = self.docker.content.lacks(expected(&self.graph, &self.archived.plan)).await?;
        if digests.is_empty() { Ok(()) } else { Err(EngineError::Vanished { digests }) }
    }

    /// What a failure means: another dockerd, or another plan.
    pub(super) async fn explained(&self, error: EngineError) -> EngineError {
        // It may be another dockerd by now, with the classic store: that cannot load what it was sent, and asking first
        // would cost as much as the rest of a small export.
        if matches!(error, EngineError::Commit { .. })
            && let Err(other @ EngineError::ClassicStore { .. }) = self.docker.check_store().await
        {
            return other;
        }
        match error {
            // Once something went, nothing is relied on, and if that was so already, there is no other plan.
            EngineError::Vanished { digests } if self.is_whole => EngineError::Missing { digests },
            EngineError::Vanished { digests } => {
                // Who sent blobs before is told which are missing; the others send all.
                self.next_is_whole.store(true, Ordering::Release);
                EngineError::Vanished { digests }
            }
            error => error,
        }
    }
}
