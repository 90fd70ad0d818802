//! A Commit that runs, in the messages of the exporter API.

use std::sync::Arc;

use crate::api_server;
use crate::export_v1::proto::{CommitResults, Progress, ProgressKind, Target};
use crate::progress::{Event, Events, State};

/// A Commit that runs, or has run.
pub(super) type CommitTask = api_server::CommitTask<Target, Progress, CommitResults>;

/// A client's view of a Commit.
pub(super) type CommitWatcher = api_server::CommitWatcher<Progress, CommitResults>;

impl CommitTask {
    pub(super) fn report(&self, exporter: &str, kind: ProgressKind, note: &str) {
        let (exporter_id, note) = (exporter.to_owned(), note.to_owned());
        self.send(Progress { exporter_id, kind: kind.into(), note, ..Progress::default() });
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
                Event::Note(note) | Event::NotUnpacked { reason: note } => {
                    progress.note.clone_from(note);
                    ProgressKind::Note
                }
                _ => return,
            };
            progress.kind = kind.into();
            task.send(progress);
        })
    }
}
