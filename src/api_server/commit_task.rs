//! A Commit that runs: its targets, its progress, its results.

use tokio::sync::{broadcast, mpsc, watch};
use tonic::{Code, Status};

use crate::export_v1::ApiError;
use crate::export_v1::proto::Reason;

/// How many steps wait for a client that reads slowly; older ones are dropped.
const BACKLOG: usize = 256;

/// A Commit of targets `T` that runs, or has run. It reports progress `P` and ends with results `R`.
#[derive(Debug)]
pub(crate) struct CommitTask<T, P, R> {
    pub(crate) targets: Vec<T>,
    progress: broadcast::Sender<P>,
    done: watch::Sender<Option<R>>,
}

/// A client's view of a Commit.
#[derive(Debug)]
pub(crate) struct CommitWatcher<P, R> {
    progress: broadcast::Receiver<P>,
    done: watch::Receiver<Option<R>>,
}

impl<T, P: Clone, R: Clone> CommitTask<T, P, R> {
    pub(crate) fn new(targets: Vec<T>) -> Self {
        Self { targets, progress: broadcast::channel(BACKLOG).0, done: watch::Sender::new(None) }
    }

    /// One that has run.
    pub(crate) fn ended(targets: Vec<T>, results: R) -> Self {
        let task = Self::new(targets);
        task.end(results);
        task
    }

    pub(crate) fn watch(&self) -> CommitWatcher<P, R> {
        CommitWatcher { progress: self.progress.subscribe(), done: self.done.subscribe() }
    }

    /// Waits for the end: even a Commit that broke off has results.
    pub(crate) async fn finished(&self) {
        // The sender is this one's own, so that it is not gone.
        let _ = self.done.subscribe().wait_for(Option::is_some).await;
    }

    pub(crate) fn end(&self, results: R) {
        self.done.send_replace(Some(results));
    }

    pub(crate) fn send(&self, step: P) {
        // There may be no watcher.
        let _ = self.progress.send(step);
    }
}

impl<P: Clone, R: Clone> CommitWatcher<P, R> {
    /// Sends the progress of a Commit, and then its results, as messages `M`.
    pub(crate) async fn forward<M>(
        self,
        responses: mpsc::Sender<Result<M, Status>>,
        progress: impl Fn(P) -> M,
        results: impl Fn(R) -> M,
    ) {
        let Self { progress: mut steps, mut done } = self;
        let last = loop {
            let next = tokio::select! {
                // What was reported before the end comes before the end.
                biased;
                next = steps.recv() => next,
                results = ended(&mut done) => break results,
            };
            match next {
                Ok(step) => {
                    if responses.send(Ok(progress(step))).await.is_err() {
                        return;
                    }
                }
                // Steps may be left out.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break ended(&mut done).await,
            }
        };
        // The client may have gone.
        let _ = responses.send(last.map(results).map_err(Status::from)).await;
    }

    #[cfg(test)]
    pub(crate) async fn results(&mut self) -> Result<R, ApiError> {
        ended(&mut self.done).await
    }
}

/// The results, once they are there.
async fn ended<R: Clone>(done: &mut watch::Receiver<Option<R>>) -> Result<R, ApiError> {
    let results = done.wait_for(Option::is_some).await.ok().and_then(|results| results.clone());
    results.ok_or_else(|| ApiError::new(Code::Internal, Reason::EngineRefused, "the commit broke off"))
}
