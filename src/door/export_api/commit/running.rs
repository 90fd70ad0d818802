//! A Commit that is under way: who watches it, and how it ends.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use tonic::Code;

use super::result;
use crate::door::export_api::session::Session;
use crate::export_v1::ApiError;
use crate::export_v1::proto::{CommitResults, ExportState, Progress, ProgressKind, Reason, Target};
use crate::progress::{Event, Events, State};

/// How many steps wait for a client that reads slowly; older ones are dropped.
const BACKLOG: usize = 256;

/// A Commit that runs, or has run.
#[derive(Debug)]
pub(in crate::door::export_api) struct Running {
    pub(super) targets: Vec<Target>,
    progress: broadcast::Sender<Progress>,
    pub(super) done: watch::Sender<Option<CommitResults>>,
}

/// What somebody who watches a Commit gets.
#[derive(Debug)]
pub(in crate::door::export_api) struct Watching {
    pub(in crate::door::export_api) progress: broadcast::Receiver<Progress>,
    pub(in crate::door::export_api) done: watch::Receiver<Option<CommitResults>>,
}

impl Running {
    pub(super) fn new(targets: Vec<Target>) -> Self {
        Self { targets, progress: broadcast::channel(BACKLOG).0, done: watch::Sender::new(None) }
    }

    pub(super) fn watch(&self) -> Watching {
        Watching { progress: self.progress.subscribe(), done: self.done.subscribe() }
    }

    /// Waits for the end: there are results even of one that broke off.
    pub(in crate::door::export_api) async fn finished(&self) {
        // The sender is this one's own, so that it is not gone.
        let _ = self.done.subscribe().wait_for(Option::is_some).await;
    }

    /// Ends what its task has left unfinished: the export is open again, unless it has ended.
    fn break_off(&self, session: &Session) {
        let mut stage = session.stage();
        let mut results = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let known = stage.results.get(&target.exporter_id);
            let done = known.filter(|(given, result)| given == target && result.error.is_none());
            if let Some((_, done)) = done {
                results.push(done.clone());
            } else if let Some(exporter) = session.record.exporter(&target.exporter_id) {
                let message = "the Commit broke off, which is a fault of the server; its log says where";
                let failed = result(exporter, Err(ApiError::new(Code::Internal, Reason::EngineRefused, message)));
                // A name that was set stays set.
                if known.is_none_or(|(_, earlier)| earlier.error.is_some()) {
                    stage.results.insert(exporter.id.clone(), (target.clone(), failed.clone()));
                }
                results.push(failed);
            }
        }
        if stage.state == ExportState::Committing {
            stage.state = ExportState::Open;
        }
        stage.running = None;
        let state = stage.state.into();
        drop(stage);
        self.done.send_replace(Some(CommitResults { results, state }));
    }
}

/// Does `work`, a Commit, whoever watches it; should it panic, nobody waits for it for ever.
pub(super) fn watch_over(
    session: Arc<Session>,
    running: Arc<Running>,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let task = tokio::spawn(work);
    tokio::spawn(async move {
        if let Err(error) = task.await {
            tracing::error!(export = session.id, %error, "a Commit broke off");
            running.break_off(&session);
        }
    });
}

impl Running {
    pub(super) fn tell(&self, exporter: &str, kind: ProgressKind, note: &str) {
        let (exporter_id, note) = (exporter.to_owned(), note.to_owned());
        // Nobody may be watching.
        let _ = self.progress.send(Progress { exporter_id, kind: kind.into(), note, ..Progress::default() });
    }

    /// What an export tells, as progress of the exporter `id`.
    pub(super) fn events(self: &Arc<Self>, id: String) -> Events {
        let running = self.clone();
        Events::new(move |event| {
            let mut progress = Progress { exporter_id: id.clone(), ..Progress::default() };
            let kind = match event {
                Event::Planned { present, .. } => {
                    progress.current = i64::try_from(*present).unwrap_or(0);
                    progress.total = progress.current;
                    ProgressKind::Planned
                }
                Event::Unpacking { digest } => {
                    progress.digest = digest.to_string();
                    ProgressKind::Unpacking
                }
                Event::Unpacked { digest } => {
                    progress.digest = digest.to_string();
                    ProgressKind::Unpacked
                }
                Event::State(State::Ready) => ProgressKind::Ready,
                Event::State(State::Committed) => ProgressKind::Committed,
                Event::Note(note) => {
                    progress.note.clone_from(note);
                    ProgressKind::Note
                }
                _ => return,
            };
            progress.kind = kind.into();
            let _ = running.progress.send(progress);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::export_api::session::fixture::session;
    use crate::engine::stuck::Stuck;

    #[tokio::test]
    async fn a_commit_that_breaks_off_has_results_and_the_export_can_be_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let session = Arc::new(session(folder.path(), Stuck::default()).await);
        let target = Target { exporter_id: "a".to_owned(), ..Target::default() };
        let running = Arc::new(Running::new(vec![target]));
        let mut watching = running.watch();
        {
            let mut stage = session.stage();
            (stage.state, stage.running) = (ExportState::Committing, Some(running.clone()));
        }
        watch_over(session.clone(), running.clone(), async { panic!("as a fault of ours would") });
        running.finished().await;
        let results = watching.done.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert_eq!((results.state(), results.results.len()), (ExportState::Open, 1));
        let error = results.results[0].error.clone().unwrap();
        assert_eq!((Code::from(error.code), error.reason()), (Code::Internal, Reason::EngineRefused));
        let stage = session.stage();
        assert!(stage.state == ExportState::Open && stage.running.is_none());
    }
}
