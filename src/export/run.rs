//! Runs exports, each in a task of its own, so that every one of them is cleaned up after.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Condition, Engine, EngineError, Hold, Ingest, Origin};
use crate::image::{Descriptor, Graph, Limits, Reference, Walk};
use crate::progress::{Event, Events, State};
use crate::source::{Source, read_graph};

use super::ExportError;
use super::flight::Flights;
use super::machine::Machine;
use super::policy::NamePolicy;
use super::transfer::transfer;

/// How often an export is planned at most: an engine that cannot pin what it has may lose some of it again and again.
const PLANS: usize = 3;

/// How long a commit is waited for when nobody wants it any more. The engine may have all that it needs for the image: if
/// the lease went first, blobs could go of an image that becomes visible. It takes milliseconds, unless the engine is stuck.
const SETTLE: Duration = Duration::from_secs(10);

/// How long to wait before an engine that went away is asked again to release a lease: the first time, and at most.
const RELEASE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How often it is asked. With the pauses this is most of a lease's life, which ends by itself after eight hours.
const RELEASE_TRIES: usize = 800;

/// What to export.
#[derive(Debug, Clone)]
pub struct Request {
    /// The root of the image: an index or a manifest.
    pub root: Descriptor,
    /// The names to give it; none leaves it dangling.
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
            closing: CancellationToken::new(),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Which names may be set.
    pub fn policy(&self) -> &NamePolicy {
        &self.policy
    }

    /// Runs one export to its end. Dropping the future cancels it: the export is then aborted in the
    /// background, within a second, and [`Exports::finish`] waits for that.
    ///
    /// # Errors
    /// When the export failed; nothing of it is visible then.
    pub async fn run(&self, request: Request, source: Arc<dyn Source>, events: Events) -> Result<Outcome, ExportError> {
        let cancel = CancellationToken::new();
        let _cancel_when_dropped = cancel.clone().drop_guard();
        let task = self.tasks.spawn(self.export(request, Some(source), events).run(cancel));
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
        let task = self.tasks.spawn(self.export(request, None, events).commit(graph, ingest, cancel));
        task.await.unwrap_or_else(|error| Err(ExportError::Broken(error.to_string())))
    }

    fn export(&self, request: Request, source: Option<Arc<dyn Source>>, events: Events) -> Export {
        Export {
            engine: self.engine.clone(),
            flights: self.flights.clone(),
            limits: self.limits,
            policy: self.policy.clone(),
            tasks: self.tasks.clone(),
            closing: self.closing.clone(),
            machine: Machine::new(request.origin.export.clone(), events.clone()),
            request,
            source,
            events,
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

/// One export under way.
struct Export {
    engine: Arc<dyn Engine>,
    flights: Flights,
    limits: Limits,
    policy: NamePolicy,
    tasks: TaskTracker,
    closing: CancellationToken,
    machine: Machine,
    request: Request,
    /// Where missing blobs are read from; none if nothing may be missing.
    source: Option<Arc<dyn Source>>,
    events: Events,
}

impl Export {
    async fn run(mut self, cancel: CancellationToken) -> Result<Outcome, ExportError> {
        if let Some(outcome) = self.begin(&cancel).await? {
            return Ok(outcome);
        }
        // Opening is not cut short: a lease that was created must come into our hands, so that it can be released.
        let opening = self.engine.open(&self.request.origin, self.events.clone());
        let (ingest, graph) = tokio::join!(opening, until(&cancel, self.walk()));
        let ingest = ingest?;
        self.machine.enter(State::Open);
        let result = match graph {
            Ok(graph) => self.ingest(&*ingest, Arc::new(graph), &cancel).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.machine.enter(State::Aborted);
            // A client that is told of the failure may rely on nothing being left, unless the engine went away.
            if let Err(error) = ingest.release().await {
                tracing::warn!(%error, "a lease could not be released; this is tried again");
                self.tasks.spawn(async move { release(|| ingest.release(), self.closing).await });
            }
        } else {
            // The client need not wait for it: the image is visible and complete.
            self.tasks.spawn(async move { release(|| ingest.release(), self.closing).await });
        }
        result
    }

    async fn commit(
        mut self,
        graph: Arc<Graph>,
        ingest: Arc<dyn Ingest>,
        cancel: CancellationToken,
    ) -> Result<Outcome, ExportError> {
        if let Some(outcome) = self.begin(&cancel).await? {
            return Ok(outcome);
        }
        self.machine.enter(State::Open);
        let result = self.ingest(&*ingest, graph, &cancel).await;
        if result.is_err() {
            self.machine.enter(State::Aborted);
            ingest.withdraw().await;
        }
        result
    }

    /// What comes before any write: may the names be set, and is there anything to do at all?
    async fn begin(&mut self, cancel: &CancellationToken) -> Result<Option<Outcome>, ExportError> {
        let Request { root, names, .. } = &self.request;
        self.policy.check(names)?;
        until(cancel, self.policy.check_moves(&*self.engine, root, names)).await?;
        let Some(present_blobs) = until(cancel, self.engine.current(root, names)).await? else { return Ok(None) };
        self.machine.enter(State::Committed);
        Ok(Some(Outcome { present_blobs, ..Outcome::default() }))
    }

    /// From the open lease to the commit; again from the plan if the engine lost meanwhile what it had then.
    async fn ingest(
        &mut self,
        ingest: &dyn Ingest,
        graph: Arc<Graph>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, ExportError> {
        for _ in 1..PLANS {
            match self.attempt(ingest, &graph, cancel).await {
                Err(ExportError::Engine(error)) if error.is_outdated_plan() => {
                    tracing::info!(export = %self.request.origin.export, %error, "the export is planned again");
                    self.events.emit(Event::Note(format!("{error}; sending it")));
                }
                outcome => return outcome,
            }
        }
        self.attempt(ingest, &graph, cancel).await
    }

    async fn attempt(
        &mut self,
        ingest: &dyn Ingest,
        graph: &Arc<Graph>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, ExportError> {
        let outcome = until(cancel, self.prepare(ingest, graph)).await?;
        settled(cancel, ingest.commit(&self.request.names)).await?.map_err(|error| match error {
            EngineError::NameMoved { name, current: Some(current) } if !self.policy.may_move => {
                ExportError::NameTaken { name, current }
            }
            error => error.into(),
        })?;
        self.machine.enter(State::Committed);
        Ok(outcome)
    }

    /// Everything up to the commit.
    async fn prepare(&mut self, ingest: &dyn Ingest, graph: &Arc<Graph>) -> Result<Outcome, ExportError> {
        let plan = ingest.plan(graph).await?;
        self.machine.enter(State::Planned);
        let present = plan.present.len();
        self.events.emit(Event::Planned { present, missing: plan.missing.clone() });

        self.machine.enter(State::Transferring);
        let (blobs, bytes) = match &self.source {
            Some(source) => transfer(&**source, ingest, &plan.missing, &self.flights, &self.events).await?,
            None if plan.missing.is_empty() => (0, 0),
            None => {
                let digests = plan.missing.into_iter().map(|blob| blob.digest).collect();
                return Err(EngineError::Missing { digests }.into());
            }
        };
        ingest.settle().await?;
        self.machine.enter(State::Ready);

        if !self.policy.may_move {
            let expected = vec![None, Some(self.request.root.digest.clone())];
            let condition = |name: &Reference| Condition { name: name.clone(), expected: expected.clone() };
            ingest.require(self.request.names.iter().map(condition).collect());
        }
        Ok(Outcome {
            sent_blobs: blobs + plan.stored.len(),
            sent_bytes: bytes + plan.stored.iter().map(|document| document.size).sum::<u64>(),
            present_blobs: present + plan.missing.len() - blobs,
        })
    }

    /// Reads the documents of the image from the source.
    async fn walk(&self) -> Result<Graph, ExportError> {
        let root = self.request.root.clone();
        match &self.source {
            Some(source) => Ok(read_graph(&**source, root, self.limits).await?),
            None => Ok(Walk::new(root, self.limits)?.finish()?),
        }
    }
}

/// Runs `work` unless `cancel` comes first.
async fn until<T, E>(cancel: &CancellationToken, work: impl Future<Output = Result<T, E>>) -> Result<T, ExportError>
where
    ExportError: From<E>,
{
    tokio::select! {
        result = work => Ok(result?),
        () = cancel.cancelled() => Err(ExportError::Cancelled),
    }
}

/// Runs `commit` to its end. Once `cancel` is there, the engine has [`SETTLE`] left.
async fn settled<T>(cancel: &CancellationToken, commit: impl Future<Output = T>) -> Result<T, ExportError> {
    let mut commit = std::pin::pin!(commit);
    tokio::select! {
        biased;
        outcome = &mut commit => Ok(outcome),
        () = cancel.cancelled() => timeout(SETTLE, commit).await.map_err(|_| ExportError::Cancelled),
    }
}

/// Gives up a lease, however long it takes the engine to come back from a restart or from a full disk. What is not
/// released when the daemon ends is found by its next start, or expires by itself.
async fn release<F>(release: impl Fn() -> F, closing: CancellationToken)
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
