//! An image on its way into a daemon.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;

use super::lease::{EXPORTER, RemoteExport, RemoteLease};
use super::writer;
use crate::engine::stream::SILENCE;
use crate::engine::{EngineError, ImageTransaction, Opened, Plan, Precondition, PreparedImage};
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor_message;
use crate::export_v1::proto::commit_response::Event as Response;
use crate::export_v1::proto::{CommitRequest, ExporterResult, Progress, ProgressKind, Target};
use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::progress::{Event, Events};

/// How many documents are sent at once.
const PARALLEL: usize = 8;

/// An image of an export that is open.
#[derive(Debug)]
pub(super) struct RemoteTransaction {
    lease: Arc<RemoteLease>,
    export: Arc<RemoteExport>,
    root: Descriptor,
    plan: Plan,
    events: Events,
}

impl RemoteTransaction {
    /// Negotiates `graph`, and sends the documents that the daemon lacks.
    pub(super) async fn begin(
        lease: Arc<RemoteLease>,
        export: Arc<RemoteExport>,
        graph: &Graph,
        events: Events,
    ) -> Result<Self, EngineError> {
        let present = lease.negotiate(&export.id, graph).await?;
        let is_there = |blob: &Descriptor| present.contains(&blob.digest);
        let mut plan = Plan::default();
        let (present, absent): (Vec<_>, Vec<_>) =
            graph.documents().iter().partition(|document| is_there(&document.descriptor));
        plan.present.extend(present.into_iter().map(|document| document.descriptor.clone()));
        // Collected first: a lazy iterator held across an await defeats the compiler's check that this is `Send`.
        let sending: Vec<_> = absent.iter().map(|document| writer::store(&export.content, document)).collect();
        stream::iter(sending).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        plan.stored.extend(absent.into_iter().map(|document| document.descriptor.clone()));
        // Where the daemon cannot do without a foreign layer, it says so at the commit.
        plan.add_leaves(graph.leaves().iter().map(|leaf| (leaf, is_there(leaf))));
        Ok(Self { lease, export, root: graph.root().clone(), plan, events })
    }

    async fn set(&self, names: &[Reference]) -> Result<(), EngineError> {
        let operation = "committing the image";
        let target = Target {
            exporter_id: EXPORTER.to_owned(),
            root: Some(descriptor_message(&self.root)),
            names: names.iter().map(ToString::to_string).collect(),
            ..Target::default()
        };
        let request = CommitRequest { export_id: self.export.id.clone(), targets: vec![target] };
        let failed = |status: tonic::Status| self.lease.connection.failure(operation, &status);
        let late = || self.lease.connection.late(operation, SILENCE);
        let mut exports = self.lease.connection.exports();
        let call = exports.commit(request);
        let mut responses = timeout(SILENCE, call).await.map_err(|_| late())?.map_err(failed)?.into_inner();
        loop {
            let response = timeout(SILENCE, responses.message()).await.map_err(|_| late())?;
            match response.map_err(failed)?.and_then(|response| response.event) {
                Some(Response::Progress(progress)) => self.report(progress),
                Some(Response::Results(results)) => return outcome(operation, &results.results),
                None => return outcome(operation, &[]),
            }
        }
    }

    /// Passes on the progress of a commit. Its states are those of the daemon's own export.
    fn report(&self, progress: Progress) {
        let digest = progress.digest.parse::<Digest>();
        match (progress.kind(), digest) {
            (ProgressKind::Unpacking, Ok(digest)) => self.events.emit(Event::Unpacking { digest }),
            (ProgressKind::Unpacked, Ok(digest)) => self.events.emit(Event::Unpacked { digest }),
            (ProgressKind::Note, _) => self.events.emit(Event::Note(progress.note)),
            _ => {}
        }
    }
}

fn outcome(operation: &str, results: &[ExporterResult]) -> Result<(), EngineError> {
    match results {
        [ExporterResult { error: Some(error), .. }] => Err(ApiError::from(error.clone()).into()),
        [_] => Ok(()),
        _ => {
            let reason = "the commit ended without its result".to_owned();
            Err(EngineError::Protocol { operation: operation.to_owned(), reason })
        }
    }
}

#[async_trait]
impl ImageTransaction for RemoteTransaction {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        writer::begin(&self.export.content, blob).await
    }

    /// The daemon looks at every blob when it commits.
    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        Ok(self)
    }

    /// Nothing is under way here but what its caller has dropped.
    async fn cancel(&self) {}
}

#[async_trait]
impl PreparedImage for RemoteTransaction {
    /// Commit has no preconditions: names are looked at right before, as with dockerd, and the daemon's own policy compares
    /// them when it sets them.
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        self.lease.check_names(preconditions).await?;
        self.set(names).await?;
        // The export has ended: there is nothing to abort.
        self.lease.forget();
        Ok(())
    }
}
