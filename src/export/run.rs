//! Runs exports, each in a task of its own, so that every one of them is cleaned up after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, EngineError, Hold, Ingest, Origin};
use crate::image::{Descriptor, Digest, Graph, Limits, Reference};
use crate::progress::Events;
use crate::source::Source;

use super::ExportError;
use super::flight::Flights;
use super::machine::Machine;
use super::policy::NamePolicy;
use super::report::Report;
use super::transaction::Transaction;

/// How long to wait before an engine that went away is asked again to release a lease: the first time, and at most.
const RELEASE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How often it is asked. With the pauses this is most of a lease's life, which ends by itself after eight hours.
const RELEASE_TRIES: usize = 800;

/// What to export.
#[derive(Debug, Clone)]
pub struct Request {
    /// The root of the image: an index or a manifest. What its annotations call it is not taken for a name.
    pub root: Descriptor,
    /// The names to give it; none leaves it dangling. One with a digest must be this image's.
    pub names: Vec<Reference>,
    /// Who exports.
    pub origin: Origin,
}

/// What an export did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Blobs sent, documents included.
    pub sent_blobs: usize,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Blobs that the engine had.
    pub present_blobs: usize,
}

/// The exports into one engine.
#[derive(Debug)]
pub struct Exports {
    engine: Arc<dyn Engine>,
    flights: Flights,
    limits: Limits,
    policy: NamePolicy,
    tasks: TaskTracker,
    /// Whether what a cancelled export has sent is kept for the next one.
    keeping: Arc<AtomicBool>,
    /// Cancelled when no more patience is to be had with engines that went away.
    closing: CancellationToken,
}

impl Exports {
    /// Exports into `engine`, with the default [`Limits`]; every name may be set.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self::with_policy(engine, NamePolicy::default())
    }

    /// The same for names that `policy` allows.
    pub fn with_policy(engine: Arc<dyn Engine>, policy: NamePolicy) -> Self {
        Self {
            engine,
            flights: Flights::default(),
            limits: Limits::default(),
            policy,
            tasks: TaskTracker::new(),
            keeping: Arc::default(),
            closing: CancellationToken::new(),
        }
    }

    /// From now on an export that is cancelled leaves what it has sent to the next one of the same image, as far as the
    /// engine can keep it: for a process that is told to end, and whose user may run it again.
    pub fn keep_interrupted(&self) {
        self.keeping.store(true, Ordering::Release);
    }

    /// Whether [`Exports::keep_interrupted`] was said, and the engine can keep anything.
    pub fn is_keeping(&self) -> bool {
        self.keeping.load(Ordering::Acquire) && self.engine.identity().kind != "docker-classic"
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Which names may be set.
    pub fn policy(&self) -> &NamePolicy {
        &self.policy
    }

    /// Refuses what policy does not let `name` become, for those who set names by other ways: another image than `root`,
    /// or any where that is not known.
    ///
    /// # Errors
    /// [`ExportError::NameTaken`], or when the engine cannot be asked.
    pub async fn check_move(&self, name: &Reference, root: Option<&Digest>) -> Result<(), ExportError> {
        self.policy.check_move(&*self.engine, name, root).await
    }

    /// Runs one export to its end. Dropping the future cancels it: the export is then aborted in the
    /// background, within a second (or ten, if the engine makes the image at that moment and is stuck), and
    /// [`Exports::finish`] waits for that.
    ///
    /// # Errors
    /// When the export failed; nothing of it is visible then.
    pub async fn run(&self, request: Request, source: Arc<dyn Source>, events: Events) -> Result<Outcome, ExportError> {
        let cancel = CancellationToken::new();
        let _cancel_when_dropped = cancel.clone().drop_guard();
        let transaction = self.transaction(request, Some(source), events);
        let report = Report::of(&transaction.request, transaction.spared.clone());
        let task = self.tasks.spawn(async move { report.end(transaction.run(cancel).await) });
        task.await.unwrap_or_else(|error| Err(ExportError::Broken(error.to_string())))
    }

    /// The same for an image of which `graph` is what the source holds: an index with some of its images. The engine gets
    /// that much, and the index as it is.
    ///
    /// # Errors
    /// As [`Exports::run`].
    pub async fn run_part(
        &self,
        request: Request,
        graph: Graph,
        source: Arc<dyn Source>,
        events: Events,
    ) -> Result<Outcome, ExportError> {
        let cancel = CancellationToken::new();
        let _cancel_when_dropped = cancel.clone().drop_guard();
        let transaction = Transaction { part: Some(graph), ..self.transaction(request, Some(source), events) };
        let task = self.tasks.spawn(transaction.run(cancel));
        task.await.unwrap_or_else(|error| Err(ExportError::Broken(error.to_string())))
    }

    /// Makes an image visible whose blobs were handed to `ingest` before: everything that [`Exports::run`] does from the
    /// plan on. `ingest` is the caller's and stays open; an export that fails leaves it as it was.
    /// Dropping the future or cancelling `cancel` stops it, unless the engine makes the image at that moment.
    ///
    /// # Errors
    /// [`EngineError::Missing`] with every blob that is not there; otherwise as
    /// [`Exports::run`]. Nothing of it is visible then.
    pub async fn commit(
        &self,
        request: Request,
        graph: Arc<Graph>,
        ingest: Arc<dyn Ingest>,
        events: Events,
        cancel: CancellationToken,
    ) -> Result<Outcome, ExportError> {
        let _cancel_when_dropped = cancel.clone().drop_guard();
        let transaction = self.transaction(request, None, events);
        let report = Report::of(&transaction.request, transaction.spared.clone());
        let task = self.tasks.spawn(async move { report.end(transaction.commit(graph, ingest, cancel).await) });
        task.await.unwrap_or_else(|error| Err(ExportError::Broken(error.to_string())))
    }

    fn transaction(&self, request: Request, source: Option<Arc<dyn Source>>, events: Events) -> Transaction {
        Transaction {
            engine: self.engine.clone(),
            flights: self.flights.clone(),
            limits: self.limits,
            policy: self.policy.clone(),
            tasks: self.tasks.clone(),
            keeping: self.keeping.clone(),
            closing: self.closing.clone(),
            machine: Machine::new(request.origin.export.clone(), events.clone()),
            request,
            source,
            part: None,
            events,
            spared: Arc::default(),
        }
    }

    /// Gives up a lease that is of no more use, in the background and for as long as it takes.
    pub fn clean_up(&self, ingest: Arc<dyn Ingest>) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move { release(|| ingest.release(), closing).await });
    }

    /// Gives up `hold` in the background, however long that takes; [`Exports::finish`] waits for it.
    pub fn release(&self, hold: Arc<dyn Hold>) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move { release(|| hold.release(), closing).await });
    }

    /// Waits until every export and every clean-up has ended; an engine that went away is not waited for. No export
    /// may be started afterwards.
    pub async fn finish(&self) {
        self.tasks.close();
        self.closing.cancel();
        self.tasks.wait().await;
    }
}

/// Gives up a lease, however long it takes the engine to come back from a restart or from a full disk. What is not
/// released when the daemon ends is found by its next start, or expires by itself.
pub(super) async fn release<F>(release: impl Fn() -> F, closing: CancellationToken)
where
    F: Future<Output = Result<(), EngineError>>,
{
    let (mut pause, longest) = RELEASE_PAUSES;
    for _ in 0..RELEASE_TRIES {
        let Err(error) = release().await else { return };
        tracing::debug!(%error, ?pause, "a lease could not be released");
        if closing.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
        pause = longest.min(pause * 2);
    }
    tracing::warn!("a lease could not be released; the next start does it, or it expires by itself");
}
