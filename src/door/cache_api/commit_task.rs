//! A Commit that runs, in the messages of the caching API.

use crate::api_server;
use crate::cache_v1::proto::{CommitResults, CommitTarget, Progress, ProgressKind};

/// A Commit that runs, or has run.
pub(super) type CommitTask = api_server::CommitTask<CommitTarget, Progress, CommitResults>;

/// A client's view of a Commit.
pub(super) type CommitWatcher = api_server::CommitWatcher<Progress, CommitResults>;

impl CommitTask {
    pub(super) fn report(&self, target: &str, kind: ProgressKind, note: &str) {
        self.send(Progress { target_id: target.to_owned(), kind: kind.into(), note: note.to_owned() });
    }
}
