//! The state of a Commit that runs: its targets, its progress, its results.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use crate::export_v1::proto::{CommitResults, Progress, ProgressKind, Target};
use crate::progress::{Event, Events, State};

/// How many steps wait for a client that reads slowly; older ones are dropped.
const BACKLOG: usize = 256;

/// A Commit that runs, or has run.
#[derive(Debug)]
pub(super) struct CommitTask {
    pub(super) targets: Vec<Target>,
    progress: broadcast::Sender<Progress>,
    pub(super) done: watch::Sender<Option<CommitResults>>,
}

/// A client's view of a Commit.
#[derive(Debug)]
pub(super) struct CommitWatcher {
    pub(super) progress: broadcast::Receiver<Progress>,
    pub(super) done: watch::Receiver<Option<CommitResults>>,
}

impl CommitTask {
    pub(super) fn new(targets: Vec<Target>) -> Self {
        Self { targets, progress: broadcast::channel(BACKLOG).0, done: watch::Sender::new(None) }
    }

    pub(super) fn watch(&self) -> CommitWatcher {
        CommitWatcher { progress: self.progress.subscribe(), done: self.done.subscribe() }
    }

    /// Waits for the end: even a Commit that broke off has results.
    pub(super) async fn finished(&self) {
        // The sender is this one's own, so that it is not gone.
        let _ = self.done.subscribe().wait_for(Option::is_some).await;
    }

    pub(super) fn report(&self, exporter: &str, kind: ProgressKind, note: &str) {
        let (exporter_id, note) = (exporter.to_owned(), note.to_owned());
        // There may be no watcher.
        let _ = self.progress.send(Progress { exporter_id, kind: kind.into(), note, ..Progress::default() });
    }

    /// Events of an export, as progress of the exporter `id`.
    pub(super) fn events(self: &Arc<Self>, id: String) -> Events {
        let task = self.clone();
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
            let _ = task.progress.send(progress);
        })
    }
}
