//! The release of what keeps blobs in an engine, until it succeeds.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::EngineError;

/// How long to wait before a release is tried again in an engine that went away: the first time, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How often it is tried: for more than six hours, which is most of a lease's life of eight.
const TRIES: usize = 800;

/// How long the last try may take once nobody waits for an engine any more that does not respond.
const LAST: Duration = Duration::from_secs(15);

/// Calls `release`, however long it takes the engine to come back from a restart or from a full disk, or until `closing`.
/// `what` is the name of what is released in the log; if it is not released, the next start of the daemon does it.
pub(crate) async fn release<F>(what: &str, closing: CancellationToken, release: impl Fn() -> F)
where
    F: Future<Output = Result<(), EngineError>>,
{
    let (mut pause, longest) = PAUSES;
    let closed = async {
        closing.cancelled().await;
        tokio::time::sleep(LAST).await;
    };
    let mut closed = std::pin::pin!(closed);
    for _ in 0..TRIES {
        let outcome = tokio::select! {
            biased;
            outcome = release() => outcome,
            () = &mut closed => break,
        };
        let Err(error) = outcome else { return };
        tracing::debug!(%error, ?pause, "{what} could not be released");
        if closing.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
        pause = longest.min(pause * 2);
    }
    tracing::warn!("{what} could not be released; the next start does it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_hangs_is_not_waited_for_at_the_end() {
        let closing = CancellationToken::new();
        let end = async {
            tokio::time::sleep(4 * LAST).await;
            closing.cancel();
        };
        let begun = tokio::time::Instant::now();
        let hanging = release("a lease", closing.clone(), std::future::pending);
        tokio::join!(hanging, end);
        assert_eq!(begun.elapsed(), 5 * LAST);
        // One that is begun afterwards is tried once.
        release("a lease", closing.clone(), || async { Ok(()) }).await;
        release("a lease", closing, std::future::pending).await;
        assert_eq!(begun.elapsed(), 6 * LAST);
    }
}
