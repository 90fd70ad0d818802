//! How an export ends that was cancelled: its commit, and what it has sent.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::engine::Lease;
use crate::image::Digest;

/// How long a commit of a cancelled export may become one that succeeds, and how long it is waited for after that, for the names that
/// it gives back. It takes milliseconds, unless the engine is stuck.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
const GIVING_BACK: Duration = Duration::from_secs(10);

/// How long the engine may take after that to stop, and once more to keep what was sent or to release it: whoever interrupted an
/// export waits for it. Both take milliseconds, unless the engine is stuck.
pub(super) const STOPPING: Duration = Duration::from_secs(12);
const RELEASING: Duration = Duration::from_secs(10);

/// Keeps what a cancelled export of the image `kept` has sent, or releases it: whether its lease has ended.
pub(super) async fn end_cancelled(lease: &dyn Lease, kept: Option<&Digest>) -> bool {
    let ending = async {
        if let Some(root) = kept
            && lease.suspend(root).await.is_ok()
        {
            return true;
        }
        lease.release().await.inspect_err(|error| tracing::warn!(%error, "a lease could not be released")).is_ok()
    };
    timeout(RELEASING, ending).await.unwrap_or(false)
}

/// Runs `commit` to its end, however long that takes: until then the engine may set names. Once `cancel` is there, the engine has
/// [`COMMIT_TIMEOUT`] left before `unwanted` is called, which the second part of the result tells, and [`GIVING_BACK`] from then on before
/// the whole export is `given_up`. `None` if the commit was dropped, because nobody gives anything back.
pub(super) async fn finish_commit<T>(
    cancel: &CancellationToken,
    commit: impl Future<Output = T>,
    unwanted: impl FnOnce() -> bool,
    given_up: impl FnOnce(),
) -> Option<(T, bool)> {
    let mut commit = std::pin::pin!(commit);
    let late = async {
        cancel.cancelled().await;
        sleep(COMMIT_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        outcome = &mut commit => return Some((outcome, false)),
        () = late => if !unwanted() { return None },
    }
    tokio::select! {
        biased;
        outcome = &mut commit => return Some((outcome, true)),
        () = sleep(GIVING_BACK) => given_up(),
    }
    tracing::warn!(
        "the engine does not end the commit of an export that was cancelled; its names stay held until it does"
    );
    Some((commit.await, true))
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;
    use crate::engine::fixture::Stuck;

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_hangs_is_not_waited_for_after_a_cancelled_export() {
        let begun = tokio::time::Instant::now();
        let lease = Stuck::default();
        assert!(!end_cancelled(&lease, Some(&Digest::sha256(b"root"))).await);
        assert!(!end_cancelled(&lease, None).await);
        assert_eq!(begun.elapsed(), 2 * RELEASING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_commit_comes_to_its_end() {
        let (cancel, given_up) = (CancellationToken::new(), CancellationToken::new());
        cancel.cancel();
        let never = || panic!("it was in time");
        assert_eq!(finish_commit(&cancel, ready(1), never, || given_up.cancel()).await, Some((1, false)));
        let in_time = async {
            sleep(COMMIT_TIMEOUT / 2).await;
            2
        };
        assert_eq!(finish_commit(&cancel, in_time, never, || given_up.cancel()).await, Some((2, false)));
        // One that gives its names back when it is told to.
        let (tell, told) = oneshot::channel();
        let begun = Instant::now();
        let giving_back = async { told.await.unwrap() };
        assert_eq!(
            finish_commit(&cancel, giving_back, || tell.send(3).is_ok(), || given_up.cancel()).await,
            Some((3, true))
        );
        assert!(begun.elapsed() >= COMMIT_TIMEOUT && !given_up.is_cancelled());
        // Where nobody gives anything back it is dropped.
        let begun = Instant::now();
        assert_eq!(finish_commit(&cancel, std::future::pending::<()>(), || false, || given_up.cancel()).await, None);
        assert!(begun.elapsed() == COMMIT_TIMEOUT && !given_up.is_cancelled());
        // Whoever waits for the export learns that it is given up, and the commit goes on.
        let begun = Instant::now();
        let stuck = async {
            given_up.cancelled().await;
            let waited = begun.elapsed();
            sleep(COMMIT_TIMEOUT * 6).await;
            waited
        };
        let (waited, is_unwanted) = finish_commit(&cancel, stuck, || true, || given_up.cancel()).await.unwrap();
        assert!(is_unwanted && waited >= COMMIT_TIMEOUT + GIVING_BACK && begun.elapsed() >= COMMIT_TIMEOUT * 6);
    }
}
