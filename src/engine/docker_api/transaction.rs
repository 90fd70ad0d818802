//! An image on its way into a dockerd.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::DockerApi;
use super::archive::{Archive, Writer, closed};
use super::load::Load;
use super::plan::plan;
use super::unnamed::UnnamedRecord;
use crate::engine::docker::broken;
use crate::engine::{
    EngineError, EngineKind, ImageTransaction, Lease, Opened, Plan, Precondition, PreparedImage, TransactionOptions,
};
use crate::image::{Descriptor, Graph, Kind, Reference};

/// How long a commit that was cancelled is waited for. It may go on after that, for as long as the process lives.
const GIVING_BACK: Duration = Duration::from_secs(10);

/// The commits of a lease, each in a task of its own: one whose caller has gone still has to give names back.
#[derive(Debug, Clone)]
pub(super) struct Commits(TaskTracker);

impl Commits {
    pub(super) fn new() -> Self {
        let tasks = TaskTracker::new();
        // Tasks may be added to it all the same, and it can be waited for at any time.
        tasks.close();
        Self(tasks)
    }

    /// Waits for those that were cancelled.
    pub(super) async fn cancelled(&self) {
        if timeout(GIVING_BACK, self.0.wait()).await.is_err() {
            tracing::warn!("docker is slow, and may still have to give names back what they pointed to before");
        }
    }
}

/// An image, of which nothing is in dockerd but the files that it has received so far; without a name once it is prepared.
#[derive(Debug)]
pub(super) struct DockerApiTransaction {
    load: Arc<Load>,
    /// What dockerd said of the load, once it has loaded the image.
    notes: Mutex<Option<Vec<String>>>,
    commits: Commits,
}

impl DockerApiTransaction {
    /// Plans `graph`.
    pub(super) async fn begin(
        docker: Arc<DockerApi>,
        spool: Option<Arc<dyn Lease>>,
        graph: Arc<Graph>,
        options: TransactionOptions,
        next_is_whole: Arc<AtomicBool>,
        commits: Commits,
        cancelled: CancellationToken,
    ) -> Result<Self, EngineError> {
        if !matches!(graph.root().kind(), Kind::Index | Kind::Manifest) {
            let what = "a root that is neither an index nor a manifest";
            return Err(EngineError::NotOffered { engine: EngineKind::DockerApi.name(), what });
        }
        let is_whole = next_is_whole.load(Ordering::Acquire);
        // Before the archive, which may take the connection that others would need one more for, over ssh for instance.
        let unnamed = UnnamedRecord::look(docker.clone(), graph.root().digest.clone());
        let planned = plan(&docker.content, spool.as_ref(), &graph, !is_whole);
        let (archived, unnamed) = futures_util::try_join!(planned, unnamed)?;
        let archive = Arc::new(AsyncMutex::new(Archive::NotBegun));
        let load = Load { docker, graph, options, archived, is_whole, next_is_whole, archive, unnamed, cancelled };
        Ok(Self { load: Arc::new(load), notes: Mutex::default(), commits })
    }
}

#[async_trait]
impl ImageTransaction for DockerApiTransaction {
    fn plan(&self) -> &Plan {
        &self.load.archived.plan
    }

    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        Ok(Opened::Writer(Box::new(Writer::begin(self.load.turn().await?, blob).await?)))
    }

    /// Has dockerd load and unpack the image, without a name: one that is set before that points to an image that is not complete.
    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        let notes = self.load.load().await?;
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = Some(notes);
        Ok(self)
    }

    async fn cancel(&self) {
        // A writer fails at its next piece, and a commit gives names back.
        self.load.cancelled.cancel();
        self.commits.cancelled().await;
        self.load.unnamed.forget().await;
    }
}

#[async_trait]
impl PreparedImage for DockerApiTransaction {
    /// Dropping the future cancels the task and does not end it.
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(closed)?;
        let (load, names, preconditions) = (self.load.clone(), names.to_vec(), preconditions.to_vec());
        let when_dropped = self.load.cancelled.clone().drop_guard();
        let committing = async move { load.commit(notes, &names, &preconditions).await };
        let outcome = self.commits.0.spawn(committing.in_current_span()).await;
        when_dropped.disarm();
        outcome.unwrap_or_else(|error| Err(broken(error.to_string())))
    }

    fn unwanted(&self) -> bool {
        self.load.cancelled.cancel();
        true
    }
}
