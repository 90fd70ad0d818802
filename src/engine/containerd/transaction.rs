//! An image on its way into a containerd.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::client::Client;
use super::content;
use super::labels::Labels;
use super::leased_client::LeasedClient;
use super::plan::{check_complete, plan};
use super::unpack::{CommittedBlobs, Job, Unpack};
use super::writer::{self, Begun};
use crate::engine::{
    BlobWriter, EngineError, ImageTransaction, Opened, Plan, Precondition, PreparedImage, TransactionOptions, UnpackFor,
};
use crate::image::{Descriptor, Digest, Graph, Platform, Reference};
use crate::progress::{Event, Events};

/// What makes a visible image of blobs that are in place: containerd's image service, or a dockerd.
#[async_trait]
pub(crate) trait Committer: Debug + Send + Sync {
    /// See [`PreparedImage::commit`].
    async fn commit(
        &self,
        image: &ContainerdTransaction,
        names: &[Reference],
        preconditions: &[Precondition],
    ) -> Result<(), EngineError>;
}

/// An image that is being exported under a lease.
#[derive(Debug)]
pub(crate) struct ContainerdTransaction {
    pub(super) lease: Arc<LeasedClient>,
    committer: Arc<dyn Committer>,
    graph: Arc<Graph>,
    options: TransactionOptions,
    plan: Plan,
    committed: CommittedBlobs,
    unpack: Mutex<Option<Unpack>>,
    /// The images whose names this one is to get, as far as they are pinned.
    pub(super) replaced: Mutex<BTreeSet<Digest>>,
}

impl ContainerdTransaction {
    /// Plans the image and begins to unpack it.
    pub(super) async fn begin(
        lease: Arc<LeasedClient>,
        committer: Arc<dyn Committer>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Self, EngineError> {
        let (plan, committed, unpack, replaced) = Default::default();
        let mut this = Self { lease, committer, graph, options, plan, committed, unpack, replaced };
        let names = this.options.names.iter().map(ToString::to_string).collect();
        // What the names point to now is pinned meanwhile: at the commit nothing is left to be written for it.
        let (plan, _) = tokio::try_join!(this.start(), this.pin_replaced(names))?;
        this.plan = plan;
        Ok(this)
    }

    /// The client that acts in the name of the lease.
    pub(crate) fn client(&self) -> &Client {
        &self.lease.client
    }

    /// The image's root.
    pub(crate) fn root(&self) -> &Descriptor {
        self.graph.root()
    }

    /// The digests of the image's blobs.
    pub(crate) fn digests(&self) -> HashSet<Digest> {
        self.graph.descriptors().map(|blob| blob.digest.clone()).collect()
    }

    /// Who gets the events.
    pub(crate) fn events(&self) -> &Events {
        &self.options.events
    }

    async fn start(&self) -> Result<Plan, EngineError> {
        let (lease, snapshots) = (&self.lease, &self.lease.snapshots);
        let unpack = self.options.unpack;
        let job = if unpack == UnpackFor::Nobody { None } else { self.job() };
        if job.is_none() && self.may_stay_packed() {
            self.note_undescribed();
        }
        let labelled = job.as_ref().filter(|_| unpack.precedes_commit());
        let plan = plan(&lease.client, &lease.id, &self.graph, labelled).await?;
        self.committed.add(plan.present.iter().map(|blob| blob.digest.clone()));
        if let Some(job) = job {
            let known =
                |blob: &Descriptor| plan.present.iter().chain(&plan.missing).any(|have| have.digest == blob.digest);
            // A foreign layer that is absent cannot be unpacked, and so nothing can.
            if job.layers.iter().all(|layer| known(&layer.blob)) {
                let (committed, events) = (self.committed.clone(), self.options.events.clone());
                let snapshots = snapshots.with_sync(unpack.precedes_commit());
                *self.unpack() = Some(Unpack::start(job, snapshots, lease.parallel, committed, events));
            }
        }
        Ok(plan)
    }

    /// What there is to be unpacked.
    fn job(&self) -> Option<Job> {
        Job::of(&self.graph, &Platform::host(), self.lease.snapshots.snapshotter())
    }

    /// An image for this machine whose config does not describe its layers is none that can be unpacked.
    fn note_undescribed(&self) {
        let Some((_, manifest, _, config)) = self.graph.image_for(&Platform::host()) else { return };
        if let Err(error) = manifest.layers_with_diff_ids(config) {
            self.events().emit(Event::NotUnpacked { reason: error.to_string() });
        }
    }

    /// Whether the image is committed if it cannot be unpacked.
    pub(crate) fn may_stay_packed(&self) -> bool {
        self.options.unpack == UnpackFor::CommitIfPossible
    }

    /// The image is committed as it is. The label of its config stays: whoever unpacks it after all needs it.
    async fn stay_packed(&self, reason: String) {
        self.lease.snapshots.remove_active().await;
        self.events().emit(Event::NotUnpacked { reason });
    }

    /// Labels the config with the snapshots that it is to keep.
    async fn label_config(&self) -> Result<(), EngineError> {
        let Some((job, label)) = self.job().and_then(|job| job.label().map(|label| (job, label))) else {
            return Ok(());
        };
        content::label(self.client(), &job.config, Labels::from([label])).await
    }

    fn unpack(&self) -> std::sync::MutexGuard<'_, Option<Unpack>> {
        self.unpack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores documents that were deleted again, and unpacks what their labels no longer kept. Returns what is missing all
    /// the same.
    pub(super) async fn restore(&self) -> Result<Vec<Digest>, EngineError> {
        self.start().await?;
        match self.verify().await {
            Ok(()) => Ok(Vec::new()),
            Err(EngineError::Missing { digests }) => {
                self.cancel().await;
                Ok(digests)
            }
            Err(error) => Err(error),
        }
    }

    /// Fails unless every blob is there, except for foreign layers.
    pub(super) async fn check_complete(&self) -> Result<(), EngineError> {
        check_complete(self.client(), &self.graph).await
    }

    async fn verify(&self) -> Result<(), EngineError> {
        // First, because an unpack of layers that never came would be waited for without end.
        self.check_complete().await?;
        let unpack = self.unpack().take();
        if let Some(unpack) = unpack {
            let took_time = !unpack.is_finished();
            match unpack.finish().await {
                Err(EngineError::Unpack { layer, reason }) if self.may_stay_packed() => {
                    self.stay_packed(format!("layer {layer} cannot be unpacked: {reason}")).await;
                }
                Err(error @ EngineError::Corrupt { .. }) if self.may_stay_packed() => {
                    self.stay_packed(error.to_string()).await;
                }
                outcome => outcome?,
            }
            if self.options.unpack == UnpackFor::Engine {
                self.label_config().await?;
            }
            if took_time {
                self.check_complete().await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ImageTransaction for ContainerdTransaction {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        match writer::begin(&self.lease.client, &self.lease.id, blob).await? {
            Begun::Present => {
                self.committed.add([blob.digest.clone()]);
                Ok(Opened::Present)
            }
            Begun::Writer(writer) => {
                let (digest, committed) = (blob.digest.clone(), self.committed.clone());
                Ok(Opened::Writer(Box::new(NotifyOnCommit { writer, digest, committed })))
            }
        }
    }

    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        self.verify().await?;
        Ok(self)
    }

    /// A lease has one transaction at a time, so that no other one's snapshots are removed.
    async fn cancel(&self) {
        let unpack = self.unpack().take();
        if let Some(unpack) = unpack {
            unpack.cancel().await;
        }
        self.lease.snapshots.remove_active().await;
    }
}

#[async_trait]
impl PreparedImage for ContainerdTransaction {
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        self.committer.commit(self, names, preconditions).await
    }
}

/// A writer that notifies the unpacker when its blob is in the store.
#[derive(Debug)]
struct NotifyOnCommit {
    writer: Box<writer::Writer>,
    digest: Digest,
    committed: CommittedBlobs,
}

#[async_trait]
impl BlobWriter for NotifyOnCommit {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        self.writer.write(bytes)
    }

    async fn commit(self: Box<Self>) -> Result<(), EngineError> {
        self.writer.commit().await?;
        self.committed.add([self.digest]);
        Ok(())
    }
}
