//! One export as a transaction: lease, plan, transfer, commit, release.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::engine::{Condition, EngineError, Ingest};
use crate::image::{Graph, Reference, Walk};
use crate::progress::{Event, Events, State};
use crate::source::{OnMissing, Source, read_graph};

use super::ExportError;
use super::machine::Machine;
use super::policy::{NamePolicy, check_digests};
use super::run::{Outcome, Request, Shared, release};
use super::transfer::transfer;

/// How often an export is planned at most: an engine that cannot pin what it has may lose some of it again and again.
const PLANS: usize = 3;

/// How long a commit is waited for when nobody wants it any more. The engine may have all that it needs for the image: if
/// the lease went first, blobs could go of an image that becomes visible. It takes milliseconds, unless the engine is stuck.
const SETTLE: Duration = Duration::from_secs(10);

/// One export under way.
pub(super) struct Transaction {
    pub(super) shared: Arc<Shared>,
    pub(super) machine: Machine,
    pub(super) request: Request,
    /// Where missing blobs are read from; none if nothing may be missing.
    pub(super) source: Option<Arc<dyn Source>>,
    /// What is to be exported of the image, where that is not all of it.
    pub(super) part: Option<Graph>,
    pub(super) events: Events,
    /// The bytes of what the engine held, once it is known.
    pub(super) spared: Arc<AtomicU64>,
}

impl Transaction {
    /// All of it, from the lease on.
    pub(super) async fn run(mut self, cancel: CancellationToken) -> Result<Outcome, ExportError> {
        if let Some(outcome) = self.begin(&cancel).await? {
            return Ok(outcome);
        }
        // Opening is not cut short: a lease that was created must come into our hands, so that it can be released.
        let opening = self.shared.engine.open(&self.request.origin, self.events.clone());
        let (ingest, graph) = tokio::join!(opening, until(&cancel, self.walk()));
        let ingest = ingest?;
        self.machine.enter(State::Open);
        let result = match graph {
            Ok(graph) => self.ingest(&*ingest, Arc::new(graph), &cancel).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.machine.enter(State::Aborted);
            let is_kept = matches!(result, Err(ExportError::Cancelled)) && self.shared.keeping.load(Ordering::Acquire);
            if is_kept && ingest.suspend().await.is_ok() {
                return result;
            }
            // A client that is told of the failure may rely on nothing being left, unless the engine went away.
            if let Err(error) = ingest.release().await {
                tracing::warn!(%error, "a lease could not be released; this is tried again");
                self.release(ingest);
            }
        } else {
            // The client need not wait for it: the image is visible and complete.
            self.release(ingest);
        }
        result
    }

    /// Which names its client may set.
    fn policy(&self) -> &NamePolicy {
        self.shared.policy(&self.request.origin.principal)
    }

    /// Gives up the lease in the background.
    fn release(&self, ingest: Arc<dyn Ingest>) {
        let closing = self.shared.closing.clone();
        self.shared.tasks.spawn(async move { release(|| ingest.release(), closing).await });
    }

    /// From the plan on, under a lease of the caller's.
    pub(super) async fn commit(
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
        let policy = self.policy();
        check_digests(root, names)?;
        policy.check(names)?;
        // Where that takes the image's documents, the commit looks alone (`Ingest::require`).
        if self.shared.engine.knows_as(&root.digest).is_some() {
            until(cancel, policy.check_moves(&*self.shared.engine, root, names)).await?;
        }
        let Some(present_blobs) = until(cancel, self.shared.engine.current(root, names)).await? else {
            return Ok(None);
        };
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
            EngineError::NameMoved { name, current: Some(current) } if !self.policy().allow_tag_move => {
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
        self.spared.store(plan.present.iter().map(|blob| blob.size).sum(), Ordering::Relaxed);
        let (missing, stored) = (plan.missing.clone(), plan.stored.clone());
        self.events.emit(Event::Planned { present, missing, stored });

        self.machine.enter(State::Transferring);
        let (blobs, bytes) = match &self.source {
            Some(source) => transfer(&**source, ingest, &plan.missing, &self.shared.flights, &self.events).await?,
            None if plan.missing.is_empty() => (0, 0),
            None => {
                let digests = plan.missing.into_iter().map(|blob| blob.digest).collect();
                return Err(EngineError::Missing { digests }.into());
            }
        };
        ingest.settle().await?;
        self.machine.enter(State::Ready);

        if !self.policy().allow_tag_move {
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

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_nobody_wants_any_more_is_waited_for_but_not_for_ever() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert_eq!(settled(&cancel, ready(1)).await.unwrap(), 1);
        let late = async {
            yield_now().await;
            tokio::time::sleep(SETTLE / 2).await;
            2
        };
        assert_eq!(settled(&cancel, late).await.unwrap(), 2);
        let begun = tokio::time::Instant::now();
        assert!(matches!(settled(&cancel, pending::<()>()).await, Err(ExportError::Cancelled)));
        assert_eq!(begun.elapsed(), SETTLE);
    }
}
