//! What makes snapshots and writes into them, and must have ended before they are removed.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// How long threads and calls may take whose result nobody waits for any more. They only wait for the disk.
const STOPPING: Duration = Duration::from_secs(30);

/// The threads that write into snapshots, and the calls that make them. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct ApplyTasks(TaskTracker);

impl ApplyTasks {
    /// Runs `apply` in a thread of its own.
    pub(super) fn spawn<T: Send + 'static>(&self, apply: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.0.spawn_blocking(apply)
    }

    /// Runs a call to its end, whether its result is waited for or not.
    pub(super) fn call<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.spawn(call)
    }

    /// Waits until no thread writes into a snapshot. Those that nobody waits for any more stop by themselves.
    pub(super) async fn stopped(&self) {
        self.0.close();
        if timeout(STOPPING, self.0.wait()).await.is_err() {
            tracing::warn!("a layer is still being unpacked, although nobody waits for it");
        }
    }
}
