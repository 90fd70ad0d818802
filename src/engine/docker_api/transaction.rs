//! An image on its way into a dockerd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::DockerApi;
use super::archive::{Archive, Writer, closed, copy, refused};
use super::names::{self, NamesBefore};
use super::plan::{Archived, expected, not_found, plan};
use crate::engine::docker::{Upload, check_loaded, is_transient, pause};
use crate::engine::{
    EngineError, EngineKind, ImageTransaction, Lease, Opened, Plan, Precondition, PreparedImage, TransactionOptions,
    UnpackFor,
};
use crate::image::layout::{self, INDEX_FILE, blob_path};
use crate::image::{Descriptor, Graph, Kind, Reference};
use crate::progress::Event;

/// How long a load is repeated that fails for a reason that passes.
const TRANSIENT: Duration = Duration::from_secs(15);
/// How a line begins with which dockerd reports, with status 200, that the image cannot run.
const UNPACK_FAILED: &str = "Error unpacking";

/// An image, of which nothing is in dockerd but the files that it has received so far.
#[derive(Debug)]
pub(super) struct DockerApiTransaction {
    docker: Arc<DockerApi>,
    graph: Arc<Graph>,
    options: TransactionOptions,
    archived: Archived,
    /// Whether nothing is left out of the archive.
    is_whole: bool,
    /// Whether the next plan is to leave nothing out.
    next_is_whole: Arc<AtomicBool>,
    /// Files come in parallel and an archive has one after the other, so that the lock is held while a file is written. It is
    /// taken before a blob is read; its holder waits only for the blob's source and for dockerd, not for another blob.
    archive: Arc<AsyncMutex<Archive>>,
    cancelled: CancellationToken,
}

impl DockerApiTransaction {
    /// Plans `graph`.
    pub(super) async fn begin(
        docker: Arc<DockerApi>,
        spool: Option<Arc<dyn Lease>>,
        graph: Arc<Graph>,
        options: TransactionOptions,
        next_is_whole: Arc<AtomicBool>,
        cancelled: CancellationToken,
    ) -> Result<Self, EngineError> {
        if !matches!(graph.root().kind(), Kind::Index | Kind::Manifest) {
            let what = "a root that is neither an index nor a manifest";
            return Err(EngineError::NotOffered { engine: EngineKind::DockerApi.name(), what });
        }
        let is_whole = next_is_whole.load(Ordering::Acquire);
        let archived = plan(&docker.content, spool.as_ref(), &graph, !is_whole).await?;
        let archive = Arc::new(AsyncMutex::new(Archive::NotBegun));
        Ok(Self { docker, graph, options, archived, is_whole, next_is_whole, archive, cancelled })
    }

    /// The turn to write, with the load begun.
    async fn turn(&self) -> Result<OwnedMutexGuard<Archive>, EngineError> {
        let mut archive = self.archive.clone().lock_owned().await;
        archive.open(&self.docker.api, &self.cancelled).await?;
        Ok(archive)
    }

    /// Sends what is left of the archive, its names last. Returns what dockerd says.
    async fn rest(&self, upload: Upload, names: &[Reference]) -> Result<Vec<String>, EngineError> {
        for document in self.graph.documents() {
            upload.file(&blob_path(&document.descriptor.digest), document.bytes.clone()).await?;
        }
        let images = self.docker.images();
        for blob in self.archived.spooled.iter().chain(&self.archived.repeated) {
            copy(&upload, &images, blob).await?;
        }
        let entries = layout::entries(&self.graph.root().clone().without_names(), names);
        let index = layout::index(&entries).map_err(|error| refused(error.to_string()))?;
        upload.file(INDEX_FILE, index.into()).await?;
        upload.finish().await
    }

    /// Loads the image. `may_have_begun` tells afterwards whether dockerd may have set names.
    async fn load(
        &self,
        names: &[Reference],
        preconditions: &[Precondition],
        may_have_begun: &mut bool,
    ) -> Result<Vec<String>, EngineError> {
        let end = Instant::now() + TRANSIENT;
        loop {
            names::check(&self.docker.api, preconditions).await?;
            let mut archive = self.turn().await?;
            let Archive::Open(upload) = std::mem::replace(&mut *archive, Archive::Closed) else {
                return Err(closed());
            };
            *may_have_begun = true;
            match self.rest(upload, names).await {
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

    /// That dockerd did what was requested, and that the image is complete.
    async fn confirm(&self, notes: &[String], names: &[Reference]) -> Result<(), EngineError> {
        let root = self.graph.root();
        let expected = expected(&self.graph, &self.archived.plan);
        let full: Vec<_> = names.iter().map(ToString::to_string).collect();
        let named = futures_util::future::try_join_all(full.iter().map(|name| names::image(&self.docker.api, name)));
        let (digests, named) = futures_util::try_join!(self.docker.content.lacks(expected), named)?;
        if !digests.is_empty() {
            return Err(EngineError::Vanished { digests });
        }
        let packed = notes.iter().find(|note| note.starts_with(UNPACK_FAILED));
        if let Some(reason) = packed.filter(|_| self.options.unpack != UnpackFor::CommitIfPossible) {
            return Err(refused(reason.clone()));
        }
        check_loaded(notes, names, root.digest.as_str()).map_err(refused)?;
        // A name that points to another image by now was moved by another client.
        match names.iter().zip(named).find(|(_, found)| found.is_none()) {
            Some((name, _)) => Err(refused(format!("it did not give the image the name `{}`", name.familiar()))),
            None => Ok(()),
        }
    }

    /// What a failure means for the next plan: once something went, nothing is relied on, and if that was so already, there is
    /// no other plan.
    fn outdated(&self, error: EngineError) -> EngineError {
        match error {
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

#[async_trait]
impl ImageTransaction for DockerApiTransaction {
    fn plan(&self) -> &Plan {
        &self.archived.plan
    }

    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        Ok(Opened::Writer(Box::new(Writer::begin(self.turn().await?, blob).await?)))
    }

    /// dockerd stores and unpacks what it is sent; that all of it is there is looked at after the load.
    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        Ok(self)
    }

    async fn cancel(&self) {
        // A writer fails at its next piece.
        self.cancelled.cancel();
    }
}

#[async_trait]
impl PreparedImage for DockerApiTransaction {
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        let before = NamesBefore::of(&self.docker.api, names).await?;
        let mut may_have_begun = false;
        let outcome = match self.load(names, preconditions, &mut may_have_begun).await {
            Ok(notes) => self.confirm(&notes, names).await.map(|()| notes),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(notes) => {
                for note in notes {
                    let is_packed = note.starts_with(UNPACK_FAILED);
                    let event = if is_packed { Event::NotUnpacked { reason: note } } else { Event::Note(note) };
                    self.options.events.emit(event);
                }
                Ok(())
            }
            Err(error) => {
                if may_have_begun {
                    before.restore(&self.docker.api, &self.graph.root().digest).await;
                }
                // It may be another dockerd by now, with the classic store: that cannot load what it was sent, and asking first
                // would cost as much as the rest of a small export.
                let other_store = match error {
                    EngineError::Commit { .. } => self.docker.check_store().await.err(),
                    _ => None,
                };
                Err(match other_store {
                    Some(other @ EngineError::ClassicStore { .. }) => other,
                    _ => self.outdated(error),
                })
            }
        }
    }
}
