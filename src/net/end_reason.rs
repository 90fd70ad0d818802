//! Why connections end: errors with their causes, which HTTP's own texts leave out, and what only the task of a connection learns.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// How long the task of a connection that has ended may take to say why.
const ENDED: Duration = Duration::from_secs(1);

/// An error and its causes. A cause that is in the text already is not repeated.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.map(ToString::to_string).fold(error.to_string(), |reason, cause| {
        if reason.contains(&cause) { reason } else { format!("{reason}: {cause}") }
    })
}

/// Why a connection ended. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct EndReason(watch::Receiver<Option<String>>);

impl EndReason {
    /// What will be known of `connection`, which leads to `peer`, and the future that drives it, for a task.
    pub(crate) fn of<E: std::error::Error + 'static>(
        peer: String,
        connection: impl Future<Output = Result<(), E>>,
    ) -> (Self, impl Future<Output = ()>) {
        let (told, reason) = watch::channel(None);
        let driven = async move {
            if let Err(error) = connection.await {
                let reason = with_causes(&error);
                tracing::debug!(peer, reason, "a connection ended");
                told.send_replace(Some(reason));
            }
        };
        (Self(reason), driven)
    }

    /// Why it ended, if it broke. For whoever knows that it has ended: the task is waited for, which learns it a little later.
    pub(crate) async fn get(&self) -> Option<String> {
        let mut reason = self.0.clone();
        // It is closed when the task has ended.
        let known = timeout(ENDED, reason.wait_for(Option::is_some)).await.ok()?.ok()?;
        known.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: io::Error,
    }

    fn outer(text: &'static str) -> Outer {
        Outer { text, source: io::Error::other("inner") }
    }

    #[test]
    fn a_cause_is_given_once() {
        assert_eq!(with_causes(&outer("outer")), "outer: inner");
        assert_eq!(with_causes(&outer("outer: inner")), "outer: inner");
    }

    #[tokio::test]
    async fn what_broke_a_connection_is_known_to_all_and_a_good_end_has_no_reason() {
        let (reason, driven) = EndReason::of("peer".to_owned(), async { Err(outer("broken")) });
        let driven = tokio::spawn(driven);
        assert_eq!(reason.clone().get().await.as_deref(), Some("broken: inner"));
        driven.await.unwrap();
        assert_eq!(reason.get().await.as_deref(), Some("broken: inner"));
        let (reason, driven) = EndReason::of("peer".to_owned(), async { Ok::<_, io::Error>(()) });
        driven.await;
        assert_eq!(reason.get().await, None);
    }
}
