//! The state of a Commit that runs: its targets, its progress, its results.

use tokio::sync::{broadcast, mpsc, watch};
use tonic::{Code, Status};

use crate::cache_v1::proto::commit_response::Event;
use crate::cache_v1::proto::{CommitResponse, CommitResults, CommitTarget, Progress, ProgressKind};
use crate::export_v1::ApiError;
use crate::export_v1::proto::Reason;

/// How many steps wait for a client that reads slowly; older ones are dropped.
const BACKLOG: usize = 64;

/// A Commit that runs, or has run.
#[derive(Debug)]
pub(super) struct CommitTask {
    pub(super) targets: Vec<CommitTarget>,
    progress: broadcast::Sender<Progress>,
    done: watch::Sender<Option<CommitResults>>,
}

/// A client's view of a Commit.
#[derive(Debug)]
pub(super) struct CommitWatcher {
    progress: broadcast::Receiver<Progress>,
    done: watch::Receiver<Option<CommitResults>>,
}

impl CommitTask {
    pub(super) fn new(targets: Vec<CommitTarget>) -> Self {
        Self { targets, progress: broadcast::channel(BACKLOG).0, done: watch::Sender::new(None) }
    }

    /// One that has run.
    pub(super) fn ended(targets: Vec<CommitTarget>, results: CommitResults) -> Self {
        let task = Self::new(targets);
        task.end(results);
        task
    }

    pub(super) fn watch(&self) -> CommitWatcher {
        CommitWatcher { progress: self.progress.subscribe(), done: self.done.subscribe() }
    }

    /// Waits for the end: even a Commit that broke off has results.
    pub(super) async fn finished(&self) {
        // The sender is this one's own, so that it is not gone.
        let _ = self.done.subscribe().wait_for(Option::is_some).await;
    }

    pub(super) fn end(&self, results: CommitResults) {
        self.done.send_replace(Some(results));
    }

    pub(super) fn report(&self, target: &str, kind: ProgressKind, note: &str) {
        let (target_id, note) = (target.to_owned(), note.to_owned());
        // There may be no watcher.
        let _ = self.progress.send(Progress { target_id, kind: kind.into(), note });
    }
}

impl CommitWatcher {
    /// Passes on the progress of a Commit, and its results.
    pub(super) async fn pass_on(mut self, responses: mpsc::Sender<Result<CommitResponse, Status>>) {
        let message = |event| Ok(CommitResponse { event: Some(event) });
        let last = loop {
            let next = tokio::select! {
                // What was reported before the end comes before the end.
                biased;
                next = self.progress.recv() => next,
                results = results(&mut self.done) => break results,
            };
            match next {
                Ok(step) if responses.send(message(Event::Progress(step.clone()))).await.is_err() => return,
                // Steps may be left out.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break results(&mut self.done).await,
            }
        };
        let _ = responses.send(last.map_err(Status::from).and_then(|results| message(Event::Results(results)))).await;
    }
}

/// The results, once they are there.
async fn results(done: &mut watch::Receiver<Option<CommitResults>>) -> Result<CommitResults, ApiError> {
    let results = done.wait_for(Option::is_some).await.ok().and_then(|results| results.clone());
    results.ok_or_else(|| ApiError::new(Code::Internal, Reason::EngineRefused, "the commit broke off"))
}
