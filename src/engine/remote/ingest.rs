//! One export through a daemon.
//!
//! It is opened when its image is known, for it may have been begun before: an export of the same image that a process
//! of this machine left behind, because that was killed or the daemon restarted under it, is gone on with. Its labels
//! say whose it is. So nothing that the daemon has acknowledged is sent twice.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Scoped;
use super::{Connection, writer};
use crate::engine::process::Process;
use crate::engine::stream::SILENCE;
use crate::engine::{EngineError, Ingest, Opened, Origin, Plan};
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor_message;
use crate::export_v1::proto::commit_response::Event as Answer;
use crate::export_v1::proto::{
    AbortRequest, CommitRequest, Export, ExportState, Exporter, ExporterResult, ListRequest, NegotiateRequest,
    OpenRequest, Progress, ProgressKind, RenewRequest, Standing, Target,
};
use crate::image::{Descriptor, Digest, Graph, Kind, Reference};
use crate::progress::{Event, Events};

/// The most descriptors that go into one message, whatever the server allows: a message has its size, too.
pub(super) const MAX_DESCRIPTORS: usize = 10_000;
/// The only exporter of an export of ours, and its type.
const EXPORTER: &str = "image";
/// How many documents are sent at once.
const PARALLEL: usize = 8;
/// How often the expiry is put off: well within any time to live that makes sense.
const RENEWAL: Duration = Duration::from_secs(300);
/// The labels of our exports: what is exported, and by which process.
const ROOT: &str = "root";
const PROCESS: &str = "process";

/// An export of one image.
#[derive(Debug)]
pub(super) struct RemoteIngest {
    connection: Connection,
    origin: Origin,
    events: Events,
    descriptors: usize,
    begun: Mutex<Option<Arc<Begun>>>,
}

/// What is known once it is open.
#[derive(Debug)]
struct Begun {
    id: String,
    root: Descriptor,
    content: Scoped,
    _renewal: AbortOnDropHandle<()>,
}

impl RemoteIngest {
    pub(super) fn new(connection: Connection, origin: Origin, events: Events, descriptors: usize) -> Self {
        Self { connection, origin, events, descriptors, begun: Mutex::default() }
    }

    fn begun(&self, operation: &str) -> Result<Arc<Begun>, EngineError> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone();
        begun.ok_or_else(|| EngineError::Protocol {
            operation: operation.to_owned(),
            reason: "the export has no plan yet".to_owned(),
        })
    }

    /// The export of `root`: ours, one that was left behind, or a new one.
    async fn begin(&self, root: &Descriptor) -> Result<Arc<Begun>, EngineError> {
        let known = self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(begun) = known {
            return Ok(begun);
        }
        let id = match self.left_behind(root).await? {
            Some(id) => id,
            None => self.open(root).await?,
        };
        self.begin_as(id, root)
    }

    /// Holds what the daemon has of `graph` for somebody who reads it.
    pub(super) async fn keep(&self, graph: &Graph) -> Result<(), EngineError> {
        let begun = self.begin_as(self.open(graph.root()).await?, graph.root())?;
        self.negotiate(&begun.id, graph).await.map(|_| ())
    }

    fn begin_as(&self, id: String, root: &Descriptor) -> Result<Arc<Begun>, EngineError> {
        let content = self.connection.scoped(&id)?;
        let renewal = tokio::spawn(renew(self.connection.clone(), id.clone()));
        let renewal = AbortOnDropHandle::new(renewal);
        let begun = Arc::new(Begun { id, root: root.clone(), content, _renewal: renewal });
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun.clone());
        Ok(begun)
    }

    async fn open(&self, root: &Descriptor) -> Result<String, EngineError> {
        let labels = [
            ("builder", self.origin.builder.clone()),
            (ROOT, root.digest.to_string()),
            (PROCESS, Process::this().to_string()),
        ];
        let request = OpenRequest {
            export_id: self.origin.export.clone(),
            exporters: vec![exporter()],
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            ..OpenRequest::default()
        };
        let operation = "opening an export";
        let call = async { self.connection.exports().open(request).await };
        let export = self.connection.unary(operation, call).await?.export;
        let absent = || EngineError::Protocol { operation: operation.to_owned(), reason: "no export".to_owned() };
        export.map(|export| export.id).ok_or_else(absent)
    }

    /// An export of the same image whose process is gone. Should two processes find it at once, one is told that the
    /// other writes.
    async fn left_behind(&self, root: &Descriptor) -> Result<Option<String>, EngineError> {
        let labels = HashMap::from([(ROOT.to_owned(), root.digest.to_string())]);
        let mut request = ListRequest { labels, ..ListRequest::default() };
        loop {
            let call = async { self.connection.exports().list(request.clone()).await };
            let page = self.connection.unary("looking for an export to go on with", call).await?;
            if let Some(export) = page.exports.into_iter().find(is_abandoned) {
                tracing::debug!(export = export.id, "going on with an export that was left behind");
                return Ok(Some(export.id));
            }
            // A server that gives the same page again would be asked for ever.
            if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
                return Ok(None);
            }
            request.page_token = page.next_page_token;
        }
    }

    async fn make_plan(&self, graph: &Graph) -> Result<Plan, EngineError> {
        let begun = self.begin(graph.root()).await?;
        let standings = self.negotiate(&begun.id, graph).await?;
        let is_there = |blob: &Descriptor| standings.contains(&blob.digest);
        let mut plan = Plan::default();
        let (present, absent): (Vec<_>, Vec<_>) =
            graph.documents().iter().partition(|document| is_there(&document.descriptor));
        plan.present.extend(present.into_iter().map(|document| document.descriptor.clone()));
        // Collected first: a lazy iterator held across an await defeats the compiler's check that this is `Send`.
        let sending: Vec<_> = absent.iter().map(|document| writer::store(&begun.content, document)).collect();
        stream::iter(sending).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        plan.stored.extend(absent.into_iter().map(|document| document.descriptor.clone()));
        for leaf in graph.leaves() {
            match (is_there(leaf), leaf.kind()) {
                (true, _) => plan.present.push(leaf.clone()),
                // The daemon can do without it, or says at the commit that it cannot.
                (false, Kind::ForeignLayer) => {}
                (false, _) => plan.missing.push(leaf.clone()),
            }
        }
        plan.missing.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        Ok(plan)
    }

    /// Which blobs of the image need not be sent. They stay as long as the export does.
    async fn negotiate(&self, id: &str, graph: &Graph) -> Result<HashSet<Digest>, EngineError> {
        let blob = |blob: &Descriptor| {
            // What else a descriptor says is of no interest to a store, and may be long.
            descriptor_message(&Descriptor::new(&blob.media_type, blob.digest.clone(), blob.size))
        };
        let blobs: Vec<_> = graph.descriptors().map(blob).collect();
        let message =
            |descriptors: &[_]| NegotiateRequest { export_id: id.to_owned(), descriptors: descriptors.to_vec() };
        let messages: Vec<_> = blobs.chunks(self.descriptors).map(message).collect();
        let operation = "negotiating what is to be sent";
        let failed = |status: tonic::Status| self.connection.failure(operation, &status);
        let late = || EngineError::Timeout { operation: operation.to_owned(), after: SILENCE };
        let mut exports = self.connection.exports();
        let call = exports.negotiate(stream::iter(messages));
        let mut answers = timeout(SILENCE, call).await.map_err(|_| late())?.map_err(failed)?.into_inner();
        let mut present = HashSet::new();
        while let Some(answer) = timeout(SILENCE, answers.message()).await.map_err(|_| late())?.map_err(failed)? {
            let there = answer.blobs.iter().filter(|blob| blob.standing() == Standing::Present);
            present.extend(there.filter_map(|blob| blob.digest.parse::<Digest>().ok()));
        }
        Ok(present)
    }

    async fn set(&self, names: &[Reference]) -> Result<(), EngineError> {
        let operation = "committing the image";
        let begun = self.begun(operation)?;
        let target = Target {
            exporter_id: EXPORTER.to_owned(),
            root: Some(descriptor_message(&begun.root)),
            names: names.iter().map(ToString::to_string).collect(),
            ..Target::default()
        };
        let request = CommitRequest { export_id: begun.id.clone(), targets: vec![target] };
        let failed = |status: tonic::Status| self.connection.failure(operation, &status);
        let late = || EngineError::Timeout { operation: operation.to_owned(), after: SILENCE };
        let mut exports = self.connection.exports();
        let call = exports.commit(request);
        let mut answers = timeout(SILENCE, call).await.map_err(|_| late())?.map_err(failed)?.into_inner();
        loop {
            let answer = timeout(SILENCE, answers.message()).await.map_err(|_| late())?;
            match answer.map_err(failed)?.and_then(|answer| answer.event) {
                Some(Answer::Progress(progress)) => self.tell(progress),
                Some(Answer::Results(results)) => return outcome(operation, &results.results),
                None => return outcome(operation, &[]),
            }
        }
    }

    /// Passes on what the daemon tells of a commit. Its states are those of its own export.
    fn tell(&self, progress: Progress) {
        let digest = progress.digest.parse::<Digest>();
        match (progress.kind(), digest) {
            (ProgressKind::Unpacking, Ok(digest)) => self.events.emit(Event::Unpacking { digest }),
            (ProgressKind::Unpacked, Ok(digest)) => self.events.emit(Event::Unpacked { digest }),
            (ProgressKind::Note, _) => self.events.emit(Event::Note(progress.note)),
            _ => {}
        }
    }

    async fn give_up(&self) -> Result<(), EngineError> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(begun) = begun else { return Ok(()) };
        let request = AbortRequest { export_id: begun.id.clone() };
        let call = async { self.connection.exports().abort(request).await };
        match self.connection.unary("giving up the export", call).await {
            Ok(_) => Ok(()),
            // It is left to the next attempt, and to its expiry.
            Err(error) if error.is_disconnect() => {
                tracing::debug!(export = begun.id, %error, "the export stays");
                Ok(())
            }
            // It has ended, one way or the other.
            Err(EngineError::Daemon { message, .. }) => {
                tracing::debug!(export = begun.id, message, "the export had ended");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn exporter() -> Exporter {
    Exporter { id: EXPORTER.to_owned(), r#type: EXPORTER.to_owned(), ..Exporter::default() }
}

fn is_abandoned(export: &Export) -> bool {
    let process = export.labels.get(PROCESS).and_then(|process| process.parse::<Process>().ok());
    export.state() == ExportState::Open
        && export.exporters == [exporter()]
        && process.is_some_and(|process| process.is_gone())
}

/// Puts off the expiry for as long as it is polled. What fails is seen by the next call of the export itself.
async fn renew(connection: Connection, id: String) {
    loop {
        let request = RenewRequest { export_id: id.clone(), ttl: None };
        let call = async { connection.exports().renew(request).await };
        if let Err(error) = connection.unary("renewing the export", call).await {
            tracing::debug!(%error, "the export was not renewed");
        }
        tokio::time::sleep(RENEWAL).await;
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

impl Ingest for RemoteIngest {
    fn plan<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        Box::pin(self.make_plan(graph))
    }

    fn writer<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>> {
        Box::pin(async move { writer::begin(&self.begun("writing a blob")?.content, blob).await })
    }

    /// The daemon looks at every blob when it commits.
    fn settle(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }

    fn commit<'a>(&'a self, names: &'a [Reference]) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            self.set(names).await?;
            // It has come to its end, and there is nothing to give up.
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
            Ok(())
        })
    }

    /// It stays open until it expires, and who goes on with it finds all that the daemon has taken in.
    fn suspend(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async { Ok(()) })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.give_up())
    }
}
