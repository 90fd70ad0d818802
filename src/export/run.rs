//! Runs exports, each in a task of its own, so that every one of them is cleaned up after.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::activity::Activities;
use crate::engine::{Engine, EngineError, EngineKind, Lease, OpenLeases, Origin};
use crate::image::{Descriptor, Digest, Graph, Limits, Reference};
use crate::net::Principal;
use crate::progress::{Event, Events, State};
use crate::source::Source;
use crate::trace_context;

use super::ExportError;
use super::counted::Counted;
use super::live::LiveExports;
use super::name_locks::{HeldNames, NameLocks};
use super::policy::NamePolicy;
use super::report::{Ending, Report};
use super::request::{Outcome, Request};
use super::rights::Rights;
use super::shared::Shared;
use super::single_flight::SingleFlight;
use super::state_machine::StateMachine;
use super::tally::Tally;
use super::transaction::Transaction;

/// The exports into one engine.
#[derive(Debug)]
pub struct Exports {
    shared: Arc<Shared>,
}

impl Exports {
    /// Exports into `engine`, with the default [`Limits`]; every name may be set.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self::with_policy(engine, NamePolicy::default())
    }

    /// The same for names that `policy` allows.
    pub fn with_policy(engine: Arc<dyn Engine>, policy: NamePolicy) -> Self {
        Self::observed(engine, policy, Activities::default())
    }

    /// The same, told to `activities`.
    pub fn observed(engine: Arc<dyn Engine>, policy: NamePolicy, activities: Activities) -> Self {
        let shared = Shared {
            engine,
            flights: SingleFlight::default(),
            limits: Limits::default(),
            policy,
            names: NameLocks::default(),
            live: LiveExports::default(),
            leases: OpenLeases::default(),
            activities,
            tasks: TaskTracker::new(),
            keeping: AtomicBool::default(),
            completed: AtomicUsize::default(),
            names_left: Mutex::default(),
            unfinished: AtomicUsize::default(),
            closing: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Those into `engine`, listed together with these.
    #[must_use]
    pub fn beside(&self, engine: Arc<dyn Engine>) -> Self {
        let shared = Shared {
            engine,
            flights: SingleFlight::default(),
            limits: self.shared.limits,
            policy: self.shared.policy.clone(),
            names: NameLocks::default(),
            live: self.shared.live.clone(),
            leases: self.shared.leases.clone(),
            activities: self.shared.activities.clone(),
            tasks: self.shared.tasks.clone(),
            keeping: AtomicBool::default(),
            completed: AtomicUsize::default(),
            names_left: Mutex::default(),
            unfinished: AtomicUsize::default(),
            closing: self.shared.closing.clone(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// From now on an export that is cancelled leaves what it has sent to the next one of the same image, as far as the
    /// engine can keep it: for a process that is to end, and whose user may run it again.
    pub fn keep_interrupted(&self) {
        self.shared.keeping.store(true, Ordering::Release);
    }

    /// Whether [`Exports::keep_interrupted`] was called, and the engine can keep anything.
    pub fn is_keeping(&self) -> bool {
        let keeps_nothing =
            matches!(self.shared.engine.identity().kind, EngineKind::DockerClassic | EngineKind::DockerApi);
        self.shared.keeping.load(Ordering::Acquire) && !keeps_nothing
    }

    /// How many exports have succeeded, of those that were begun here: also one that ended after it was cancelled, because
    /// the engine was making its image visible.
    pub fn completed(&self) -> usize {
        self.shared.completed.load(Ordering::Acquire)
    }

    /// What an export that was cancelled has left of its names, because the engine did not take them back in time.
    pub fn names_left(&self) -> Option<String> {
        self.shared.names_left().clone()
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.shared.engine
    }

    /// The blobs that are on their way.
    pub(super) fn flights(&self) -> &SingleFlight {
        &self.shared.flights
    }

    /// What `principal` may do to names.
    pub fn policy(&self, principal: &Principal) -> Rights<'_> {
        self.shared.policy(principal)
    }

    /// How many exports were cancelled and are no longer waited for, while the engine sets their names: it may still do so.
    pub fn unfinished(&self) -> usize {
        self.shared.unfinished.load(Ordering::Acquire)
    }

    /// [`Engine::already_complete`], which may set names, while no other export of this process does.
    ///
    /// # Errors
    /// [`ExportError::NameBusy`], or when the engine cannot be queried.
    pub async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, ExportError> {
        self.shared.already_complete(root, names, None).await
    }

    /// Waits until no other export of this process sets one of `names`; none does until what is returned is dropped. To be taken
    /// into the task that sets them.
    ///
    /// # Errors
    /// [`ExportError::NameBusy`].
    pub async fn hold_names(&self, names: &[Reference]) -> Result<HeldNames, ExportError> {
        self.shared.names.hold(names).await
    }

    /// Whether rules say what clients may do.
    pub fn has_rules(&self) -> bool {
        !self.shared.policy.rules.is_empty()
    }

    /// Those that are under way, and whatever else is added to them.
    pub fn live(&self) -> &LiveExports {
        &self.shared.live
    }

    /// The leases that this process holds.
    pub fn leases(&self) -> &OpenLeases {
        &self.shared.leases
    }

    /// Whoever counts what happens.
    pub fn activities(&self) -> &Activities {
        &self.shared.activities
    }

    /// Refuses what policy does not let `principal` make of `name`, for those who set names by other ways: another image
    /// than `root`, or any where that is not known.
    ///
    /// # Errors
    /// [`ExportError::NameTaken`], or when the engine cannot be queried.
    pub async fn check_move(
        &self,
        principal: &Principal,
        name: &Reference,
        root: Option<&Digest>,
    ) -> Result<(), ExportError> {
        self.policy(principal).check_move(&*self.shared.engine, name, root).await
    }

    /// Runs one export to its end. Dropping the future cancels it: the export is then aborted in the
    /// background, within a second (or half a minute, if the engine makes the image at that moment and is stuck: what it does then is no longer
    /// waited for, and nobody else of this process sets the names before it is done), and
    /// [`Exports::finish`] waits for that.
    ///
    /// # Errors
    /// When the export failed; nothing of it is visible then.
    pub async fn run(&self, request: Request, source: Arc<dyn Source>, events: Events) -> Result<Outcome, ExportError> {
        let transaction = self.transaction(request, Some(source), events);
        self.supervise(transaction, CancellationToken::new(), Transaction::run).await
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
        let transaction = Transaction { part: Some(graph), ..self.transaction(request, Some(source), events) };
        self.supervise(transaction, CancellationToken::new(), Transaction::run).await
    }

    /// Makes an image visible whose blobs were stored under `lease` before: everything that [`Exports::run`] does from the
    /// plan on. `lease` is the caller's and stays; an export that fails leaves it as it was.
    /// Dropping the future or cancelling `cancel` stops it, unless the engine makes the image at that moment.
    ///
    /// # Errors
    /// [`EngineError::Missing`] with every blob that is not there; otherwise as
    /// [`Exports::run`]. Nothing of it is visible then.
    pub async fn commit(
        &self,
        request: Request,
        graph: Arc<Graph>,
        lease: Arc<dyn Lease>,
        events: Events,
        cancel: CancellationToken,
    ) -> Result<Outcome, ExportError> {
        let transaction = self.transaction(request, None, events);
        self.supervise(transaction, cancel, |transaction, cancel| transaction.commit(graph, lease, cancel)).await
    }

    /// The same for names that the caller holds, and has looked at.
    pub(crate) async fn commit_held(
        &self,
        request: Request,
        graph: Arc<Graph>,
        lease: Arc<dyn Lease>,
        held: HeldNames,
    ) -> Result<Outcome, ExportError> {
        let held = Some(Arc::new(held));
        let transaction = Transaction { held, ..self.transaction(request, None, Events::none()) };
        let cancel = CancellationToken::new();
        self.supervise(transaction, cancel, |transaction, cancel| transaction.commit(graph, lease, cancel)).await
    }

    /// Runs `work` in a task of its own, which dropping the future cancels and does not end. It is waited for until its end, or until
    /// it says that it is [given up](Transaction::given_up): it goes on after that, for as long as the process lives.
    async fn supervise<F>(
        &self,
        transaction: Transaction,
        cancel: CancellationToken,
        work: impl FnOnce(Transaction, CancellationToken) -> F,
    ) -> Result<Outcome, ExportError>
    where
        F: Future<Output = Result<Outcome, ExportError>> + Send + 'static,
    {
        let _cancel_when_dropped = cancel.clone().drop_guard();
        let Origin { export, door, principal, .. } = transaction.request.origin.clone();
        let engine = self.engine().identity().kind.name();
        let ending = Ending::new(door, engine, self.activities().clone());
        let report = Report::of(&transaction.request, transaction.spared.clone(), ending);
        // That of the request which this is for, where it can have one.
        trace_context::about_export(&export);
        let span = tracing::info_span!("export", id = export, door, engine, %principal);
        let (spared, given_up) = (transaction.spared.clone(), transaction.given_up.clone());
        let work = work(transaction, cancel);
        // The report has what the span has: it is logged in the span around it.
        let work = work.instrument(span.clone());
        let shared = self.shared.clone();
        let work = async move {
            let result = report.end(work.await);
            match &result {
                Ok(outcome) => {
                    shared.completed.fetch_add(1, Ordering::AcqRel);
                    trace_context::number(&span, "sent_bytes", outcome.sent_bytes);
                    if let Some(bytes) = Some(spared.load(Ordering::Relaxed)).filter(|bytes| *bytes != u64::MAX) {
                        trace_context::number(&span, "spared_bytes", bytes);
                    }
                }
                // Who gives up has not failed.
                Err(ExportError::Cancelled) => {}
                Err(error) => trace_context::fail(&span, error),
            }
            result
        };
        let (task, shared) = (tokio::spawn(work.instrument(Span::current())), self.shared.clone());
        let waiting = async move {
            tokio::select! {
                biased;
                result = task => result.unwrap_or_else(|error| Err(ExportError::Broken(error.to_string()))),
                () = given_up.cancelled() => {
                    shared.unfinished.fetch_add(1, Ordering::AcqRel);
                    Err(ExportError::Cancelled)
                }
            }
        };
        self.shared.tasks.spawn(waiting).await.unwrap_or_else(|error| Err(ExportError::Broken(error.to_string())))
    }

    fn transaction(&self, request: Request, source: Option<Arc<dyn Source>>, events: Events) -> Transaction {
        let names = request.names.iter().map(ToString::to_string).collect();
        let (listed, counted) = (self.shared.live.add(&request.origin, names), Arc::<Counted>::default());
        let (asked, counting) = (counted.clone(), counted.clone());
        listed.ask(move || Some(asked.progress()));
        let (live, id) = (self.shared.live.clone(), request.origin.export.clone());
        let activities = self.activities().clone();
        let received = request.received.clone();
        let tally = Arc::new(Tally::new(request.origin.door, activities.clone(), received));
        let tallying = tally.clone();
        let others = events.clone();
        let events = events.and(move |event| {
            tallying.note(event);
            if counting.count(event) {
                live.enter(&id, State::Unpacking.name());
                others.emit(Event::State(State::Unpacking));
            }
        });
        Transaction {
            shared: self.shared.clone(),
            machine: StateMachine::new(listed, events.clone(), activities, counted.clone()),
            request,
            source,
            part: None,
            held: None,
            given_up: CancellationToken::new(),
            events,
            spared: Arc::default(),
            counted,
            tally,
        }
    }

    /// Releases a lease in the background and for as long as it takes; [`Exports::finish`] waits for it.
    pub fn release(&self, lease: Arc<dyn Lease>) {
        self.shared.release(lease);
    }

    /// The same for a lease that its owner wraps: `release` is called until it succeeds.
    pub fn release_by<F>(&self, release: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), EngineError>> + Send,
    {
        self.shared.release_by(release);
    }

    /// Runs a clean-up in the background; [`Exports::finish`] waits for it.
    pub fn clean_up(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(work);
    }

    /// Waits until every export and every clean-up has ended; an engine that went away is not waited for. No export
    /// may be started afterwards.
    pub async fn finish(&self) {
        self.shared.tasks.close();
        self.shared.closing.cancel();
        self.shared.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture::layout;

    /// Docker tags names again that are what they should be: to look is to set.
    #[tokio::test(start_paused = true)]
    async fn names_that_somebody_sets_are_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let exports = Exports::new(layout(folder.path()).await);
        let root = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"root"), 4);
        let names = ["a:1".parse().unwrap()];
        let held = exports.hold_names(&names).await.unwrap();
        let busy = exports.already_complete(&root, &names).await;
        assert!(matches!(busy, Err(ExportError::NameBusy { .. })), "{busy:?}");
        drop(held);
        assert_eq!(exports.already_complete(&root, &names).await.unwrap(), None);
    }
}
