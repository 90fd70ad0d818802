//! One export as a transaction: lease, plan, transfer, commit, release.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span};

use crate::engine::{EngineError, ImageTransaction, Lease, Lifetime, Precondition, PreparedImage, TransactionOptions};
use crate::image::{Descriptor, Graph, Reference, Walk};
use crate::progress::{Event, Events, State};
use crate::source::{OnMissing, Source, read_graph};

use super::ExportError;
use super::cancelled::{STOPPING, end_cancelled, finish_commit};
use super::counted::Counted;
use super::name_locks::HeldNames;
use super::policy::check_digests;
use super::request::{Outcome, Request};
use super::rights::Rights;
use super::shared::Shared;
use super::state_machine::StateMachine;
use super::tally::Tally;
use super::transfer::transfer;

/// How often an export is planned at most: an engine that cannot pin what it has may lose some of it again and again.
const PLANS: usize = 3;

/// One export under way.
pub(super) struct Transaction {
    pub(super) shared: Arc<Shared>,
    pub(super) machine: StateMachine,
    pub(super) request: Request,
    /// Where missing blobs are read from; none if nothing may be missing.
    pub(super) source: Option<Arc<dyn Source>>,
    /// What is to be exported of the image, where that is not all of it.
    pub(super) part: Option<Graph>,
    /// The names, if they are held already.
    pub(super) held: Option<Arc<HeldNames>>,
    /// Cancelled when it is cancelled and its engine does not end the commit. What is left of it goes on: it keeps the names that it
    /// holds and its lease until the engine can no longer set the names.
    pub(super) given_up: CancellationToken,
    pub(super) events: Events,
    /// The bytes of what the engine held, once it is known.
    pub(super) spared: Arc<AtomicU64>,
    /// How far it is.
    pub(super) counted: Arc<Counted>,
    /// Counts its blobs.
    pub(super) tally: Arc<Tally>,
}

impl Transaction {
    /// All of it, from the lease on.
    pub(super) async fn run(mut self, cancel: CancellationToken) -> Result<Outcome, ExportError> {
        if let Some(outcome) = self.begin(&cancel).await? {
            return Ok(outcome);
        }
        // Not cut short: a lease that was created must come into our hands, so that it can be released.
        let leasing = self.shared.engine.lease(&self.request.origin, Lifetime::Process);
        let leasing = leasing.instrument(debug_span!("lease"));
        let (lease, graph) = tokio::join!(leasing, until(&cancel, self.walk()));
        let lease = lease?;
        self.shared.leases.add(&lease);
        self.machine.enter(State::Open);
        let result = match graph {
            Ok(graph) => self.export(&lease, Arc::new(graph), &cancel).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.machine.enter(State::Aborted);
            if matches!(result, Err(ExportError::Cancelled)) {
                let is_kept = self.shared.keeping.load(Ordering::Acquire);
                if !end_cancelled(&*lease, is_kept.then_some(&self.request.root.digest)).await {
                    self.shared.release_later(lease);
                }
                return result;
            }
            // A client that gets the failure may rely on nothing being left, unless the engine went away.
            if let Err(error) = lease.release().await {
                tracing::warn!(%error, "a lease could not be released; this is tried again");
                self.shared.release(lease);
            }
        } else {
            // The client need not wait for it: the image is visible and complete.
            self.shared.release(lease);
        }
        result
    }

    /// What its client may do to names.
    fn policy(&self) -> Rights<'_> {
        self.shared.policy(&self.request.origin.principal)
    }

    /// The names that its client has chosen. The other one can point to nothing else than this image.
    fn chosen_names(&self) -> Vec<Reference> {
        let Request { names, kept_as, .. } = &self.request;
        names.iter().filter(|name| kept_as.as_ref() != Some(name)).cloned().collect()
    }

    /// From the plan on, under a lease of the caller's.
    pub(super) async fn commit(
        mut self,
        graph: Arc<Graph>,
        lease: Arc<dyn Lease>,
        cancel: CancellationToken,
    ) -> Result<Outcome, ExportError> {
        if let Some(outcome) = self.begin(&cancel).await? {
            return Ok(outcome);
        }
        self.machine.enter(State::Open);
        let result = self.export(&lease, graph, &cancel).await;
        if result.is_err() {
            self.machine.enter(State::Aborted);
        }
        result
    }

    /// The checks before the first write: the name policy, and whether the image is already complete.
    async fn begin(&mut self, cancel: &CancellationToken) -> Result<Option<Outcome>, ExportError> {
        let Request { root, names, kept_as, .. } = &self.request;
        let policy = self.policy();
        check_digests(root, names)?;
        let chosen = self.chosen_names();
        policy.check(&chosen)?;
        kept_as.iter().try_for_each(|name| policy.check_kept(name))?;
        // Where that takes the image's documents, only the commit compares (`Precondition`).
        if self.shared.engine.knows_as(&root.digest).is_some() {
            until(cancel, policy.check_moves(&*self.shared.engine, root, &chosen)).await?;
        }
        let look = self.shared.already_complete(root, names, self.held.clone());
        let Some(present_blobs) = until(cancel, look).await? else {
            return Ok(None);
        };
        self.tally.unchanged(present_blobs);
        self.machine.enter(State::Committed);
        Ok(Some(Outcome { present_blobs, ..Outcome::default() }))
    }

    /// From the lease to the commit; again from the plan if the engine lost meanwhile what it had then.
    async fn export(
        &mut self,
        lease: &Arc<dyn Lease>,
        graph: Arc<Graph>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, ExportError> {
        for _ in 1..PLANS {
            match self.attempt(lease, &graph, cancel).await {
                Err(ExportError::Engine(error)) if error.is_outdated_plan() => {
                    tracing::info!(export = %self.request.origin.export, %error, "the export is planned again");
                    self.events.emit(Event::Note(format!("{error}; sending it")));
                }
                outcome => return outcome,
            }
        }
        self.attempt(lease, &graph, cancel).await
    }

    async fn attempt(
        &mut self,
        lease: &Arc<dyn Lease>,
        graph: &Arc<Graph>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, ExportError> {
        let options = TransactionOptions {
            unpack: self.request.unpack,
            names: self.request.names.clone(),
            events: self.events.clone(),
        };
        // Not entered: what is begun here, such as unpacking, goes on after it.
        let planning = debug_span!("plan");
        let image = until(cancel, lease.clone().begin(graph.clone(), options)).await?;
        drop(planning);
        let result = self.store(&*image, cancel).await;
        match &result {
            Err(ExportError::Cancelled) => {
                if timeout(STOPPING, image.cancel()).await.is_err() {
                    tracing::warn!("the engine is slow to stop a cancelled export");
                }
                if let Some(left) = image.names_left() {
                    tracing::warn!("an export was cancelled while its image was named: {left}");
                    self.shared.note_names_left(left);
                }
            }
            Err(_) => image.cancel().await,
            Ok(_) => {}
        }
        result
    }

    async fn store(
        &mut self,
        image: &dyn ImageTransaction,
        cancel: &CancellationToken,
    ) -> Result<Outcome, ExportError> {
        let (prepared, outcome) = until(cancel, self.prepare(image)).await?;
        let mut preconditions = self.request.preconditions.clone();
        let expected = vec![None, Some(self.request.root.digest.clone())];
        let free = |name: &Reference| Precondition { name: name.clone(), expected: expected.clone() };
        let policy = self.policy();
        preconditions.extend(self.chosen_names().iter().filter(|name| !policy.may_move(name)).map(free));
        // From the look at the names until they are set: docker has no way to compare and set.
        let held = match self.held.clone() {
            Some(held) => held,
            None => {
                let names = self.request.names.iter().chain(preconditions.iter().map(|it| &it.name));
                Arc::new(until(cancel, self.shared.names.hold(names)).await?)
            }
        };
        let committing = prepared.commit(&self.request.names, &preconditions).instrument(debug_span!("commit"));
        let given_up = || {
            if let Some(left) = image.names_left() {
                self.shared.note_names_left(left);
            }
            self.given_up.cancel();
        };
        let finished = finish_commit(cancel, committing, || prepared.unwanted(), given_up).await;
        let Some((committed, is_unwanted)) = finished else {
            // What the engine makes of it is not known.
            self.shared.unfinished.fetch_add(1, Ordering::AcqRel);
            return Err(ExportError::Cancelled);
        };
        drop(held);
        committed.map_err(|error| match error {
            _ if is_unwanted => ExportError::Cancelled,
            EngineError::NameMoved { name, current: Some(current) }
                if name.parse().is_ok_and(|name: Reference| !policy.may_move(&name)) =>
            {
                ExportError::NameTaken { name, current }
            }
            error => error.into(),
        })?;
        self.machine.enter(State::Committed);
        Ok(outcome)
    }

    /// Everything up to the commit.
    async fn prepare<'a>(
        &mut self,
        image: &'a dyn ImageTransaction,
    ) -> Result<(&'a dyn PreparedImage, Outcome), ExportError> {
        let plan = image.plan();
        self.machine.enter(State::Planned);
        self.counted.plan(plan);
        self.tally.plan(plan);
        // What the client sent under the lease before is there now, and was not spared.
        let (received, held): (Vec<_>, Vec<_>) =
            plan.present.iter().partition(|blob| self.request.received.contains(&blob.digest));
        self.spared.store(bytes_of(held.iter().copied()), Ordering::Relaxed);
        let (missing, stored) = (plan.missing.clone(), plan.stored.clone());
        self.events.emit(Event::Planned { present: plan.present.len(), missing, stored });

        self.machine.enter(State::Transferring);
        let (blobs, bytes) = match &self.source {
            Some(source) => transfer(&**source, image, &plan.missing, &self.shared.flights, &self.events).await?,
            None if plan.missing.is_empty() => (0, 0),
            None => {
                let digests = plan.missing.iter().map(|blob| blob.digest.clone()).collect();
                return Err(EngineError::Missing { digests }.into());
            }
        };
        let prepared = image.prepare().instrument(debug_span!("prepare")).await?;
        self.machine.enter(State::Ready);
        let outcome = Outcome {
            sent_blobs: blobs + plan.stored.len() + received.len(),
            sent_bytes: bytes + bytes_of(plan.stored.iter().chain(received)),
            present_blobs: held.len() + plan.missing.len() - blobs,
        };
        Ok((prepared, outcome))
    }

    /// Reads the documents of the image from the source.
    async fn walk(&self) -> Result<Graph, ExportError> {
        if let Some(part) = &self.part {
            return Ok(part.clone());
        }
        let root = self.request.root.clone();
        match &self.source {
            Some(source) => Ok(read_graph(&**source, root, self.shared.limits, OnMissing::Stop).await?),
            None => Ok(Walk::new(root, self.shared.limits)?.finish()?),
        }
    }
}

fn bytes_of<'b>(blobs: impl IntoIterator<Item = &'b Descriptor>) -> u64 {
    blobs.into_iter().map(|blob| blob.size).sum()
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
