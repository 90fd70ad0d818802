//! One export through a daemon.
//!
//! The export is opened when its image is known, for it may exist: an export of the same image that a process of this
//! machine left behind, because that was killed or the daemon restarted under it, is resumed by one other. Its labels say whose it
//! is. So nothing that the daemon has acknowledged is sent twice.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::DaemonConnection;
use super::claim::Claim;
use super::connection::{EXPORT, Scoped};
use super::images::RemoteImages;
use crate::engine::error::REMOTE;
use crate::engine::images::Images as _;
use crate::engine::process::Process;
use crate::engine::stream::SILENCE;
use crate::engine::{EngineError, Origin, Precondition};
use crate::export_v1::convert::{descriptor_message, duration_message};
use crate::export_v1::proto::{
    Export, ExportState, Exporter, GetRequest, ListRequest, NegotiateRequest, OpenRequest, RenewRequest, Standing,
};
use crate::image::{Descriptor, Digest, Graph};

/// The most descriptors that go into one message, whatever the server allows: a message has its size, too.
pub(super) const MAX_DESCRIPTORS: usize = 10_000;
/// The only exporter of an export of ours, and its type.
pub(super) const EXPORTER: &str = "image";
/// How often the expiry of an export is put off. It has the daemon's own time to live, for the next process that resumes it.
const RENEWAL: Duration = Duration::from_secs(300);
/// How long an export that only keeps what is read outlives its process, and how often that is put off.
const READ_TTL: Duration = Duration::from_secs(300);
const READ_RENEWAL: Duration = Duration::from_secs(60);
/// The labels of our exports: what is exported, and by which process.
const ROOT: &str = "root";
const PROCESS: &str = "process";
/// The label of an export that is never committed: it keeps what a client reads.
pub(crate) const READS: &str = "reads";

/// The lease of an export of one image: the export itself, which the daemon keeps a lease for.
#[derive(Debug)]
pub(super) struct RemoteLease {
    pub(super) connection: DaemonConnection,
    origin: Origin,
    descriptors: usize,
    /// To look at what names resolve to.
    images: Option<RemoteImages>,
    export: Mutex<Option<Arc<RemoteExport>>>,
}

/// An export that is open.
#[derive(Debug)]
pub(super) struct RemoteExport {
    pub(super) id: String,
    pub(super) content: Scoped,
    /// The connection's breaks when it was opened.
    pub(super) breaks: u64,
    /// `None` for one that this process has opened: that lives.
    _claim: Option<Claim>,
    _renewal: AbortOnDropHandle<()>,
}

impl RemoteLease {
    pub(super) fn new(
        connection: DaemonConnection,
        origin: Origin,
        descriptors: usize,
        images: Option<RemoteImages>,
    ) -> Self {
        Self { connection, origin, descriptors, images, export: Mutex::default() }
    }

    /// Refuses the first name of which a precondition does not hold.
    pub(super) async fn check_names(&self, preconditions: &[Precondition]) -> Result<(), EngineError> {
        let Some(images) = &self.images else {
            let what = "comparing what a name resolves to before it is set";
            return if preconditions.is_empty() {
                Ok(())
            } else {
                Err(EngineError::NotOffered { engine: REMOTE, what })
            };
        };
        for precondition in preconditions {
            let current = images.resolve(&precondition.name).await?;
            precondition.check(current.as_ref().map(|root| &root.digest))?;
        }
        Ok(())
    }

    fn export(&self) -> MutexGuard<'_, Option<Arc<RemoteExport>>> {
        self.export.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The export has ended, or is left to another process.
    pub(super) fn forget(&self) -> Option<Arc<RemoteExport>> {
        self.export().take()
    }

    /// The export of `root`: ours, one that was left behind, or a new one.
    pub(super) async fn resume(&self, root: &Descriptor) -> Result<Arc<RemoteExport>, EngineError> {
        let known = self.export().clone();
        if let Some(export) = known {
            return Ok(export);
        }
        let (id, claim) = match self.left_behind(root).await? {
            Some((id, claim)) => (id, Some(claim)),
            None => (self.open(root).await?, None),
        };
        self.opened((id, claim), (RENEWAL, None))
    }

    /// An export that only keeps what is read of the image `root`. The daemon chooses its id: it ends the export if this process
    /// goes away before it knows of it, and soon if it goes away later, because nobody resumes it.
    pub(super) async fn read(&self, root: &Descriptor) -> Result<Arc<RemoteExport>, EngineError> {
        let mut request =
            OpenRequest { export_id: String::new(), ttl: Some(duration_message(READ_TTL)), ..self.request(root) };
        request.labels.insert(READS.to_owned(), "true".to_owned());
        let id = self.send(request).await?;
        self.opened((id, None), (READ_RENEWAL, Some(READ_TTL)))
    }

    fn opened(
        &self,
        (id, claim): (String, Option<Claim>),
        renewal: (Duration, Option<Duration>),
    ) -> Result<Arc<RemoteExport>, EngineError> {
        let content = self.connection.scoped(EXPORT, &id)?;
        let renewal = tokio::spawn(renew(self.connection.clone(), id.clone(), renewal));
        let breaks = self.connection.breaks();
        let renewal = AbortOnDropHandle::new(renewal);
        let export = Arc::new(RemoteExport { id, content, breaks, _claim: claim, _renewal: renewal });
        *self.export() = Some(export.clone());
        Ok(export)
    }

    async fn open(&self, root: &Descriptor) -> Result<String, EngineError> {
        self.send(self.request(root)).await
    }

    fn request(&self, root: &Descriptor) -> OpenRequest {
        let labels = [
            ("builder", self.origin.builder.clone()),
            (ROOT, root.digest.to_string()),
            (PROCESS, Process::this().to_string()),
        ];
        OpenRequest {
            export_id: self.origin.export.clone(),
            exporters: vec![exporter()],
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            ..OpenRequest::default()
        }
    }

    async fn send(&self, request: OpenRequest) -> Result<String, EngineError> {
        let operation = "opening an export";
        let call = async { self.connection.exports().open(request).await };
        let export = self.connection.unary(operation, call).await?.export;
        let absent = || EngineError::Protocol { operation: operation.to_owned(), reason: "no export".to_owned() };
        export.map(|export| export.id).ok_or_else(absent)
    }

    /// An export of the same image whose process is gone, and that no other process goes on with: two of them would end it for
    /// each other, or name it otherwise.
    async fn left_behind(&self, root: &Descriptor) -> Result<Option<(String, Claim)>, EngineError> {
        let labels = HashMap::from([(ROOT.to_owned(), root.digest.to_string())]);
        let mut request = ListRequest { labels, ..ListRequest::default() };
        loop {
            let call = async { self.connection.exports().list(request.clone()).await };
            let page = self.connection.unary("looking for an export to resume", call).await?;
            for export in page.exports.into_iter().filter(is_abandoned) {
                let Some(claim) = Claim::take(&export.id) else { continue };
                if self.is_open(&export.id).await? {
                    tracing::debug!(export = export.id, "resuming an export that was left behind");
                    return Ok(Some((export.id, claim)));
                }
            }
            // A server that gives the same page again would be queried for ever.
            if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
                return Ok(None);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Whether an export whose process is gone is open still: since it was listed, that process may have committed it and ended.
    async fn is_open(&self, id: &str) -> Result<bool, EngineError> {
        let request = GetRequest { export_id: id.to_owned() };
        let call = async { self.connection.exports().get(request).await };
        match self.connection.unary("looking at an export to resume", call).await {
            Ok(response) => Ok(response.export.is_some_and(|export| export.state() == ExportState::Open)),
            Err(error) if error.is_disconnect() => Err(error),
            // It is forgotten, or somebody else's by now.
            Err(_) => Ok(false),
        }
    }

    /// Which blobs of the image need not be sent. They stay as long as the export does.
    pub(super) async fn negotiate(&self, id: &str, graph: &Graph) -> Result<HashSet<Digest>, EngineError> {
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
        let late = || self.connection.late(operation, SILENCE);
        let mut exports = self.connection.exports();
        let call = exports.negotiate(stream::iter(messages));
        let mut responses = timeout(SILENCE, call).await.map_err(|_| late())?.map_err(failed)?.into_inner();
        let mut present = HashSet::new();
        while let Some(response) = timeout(SILENCE, responses.message()).await.map_err(|_| late())?.map_err(failed)? {
            let there = response.blobs.iter().filter(|blob| blob.standing() == Standing::Present);
            present.extend(there.filter_map(|blob| blob.digest.parse::<Digest>().ok()));
        }
        Ok(present)
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
async fn renew(connection: DaemonConnection, id: String, (pause, ttl): (Duration, Option<Duration>)) {
    loop {
        let request = RenewRequest { export_id: id.clone(), ttl: ttl.map(duration_message) };
        let call = async { connection.exports().renew(request).await };
        if let Err(error) = connection.unary("renewing the export", call).await {
            tracing::debug!(%error, "the export was not renewed");
        }
        tokio::time::sleep(pause).await;
    }
}
