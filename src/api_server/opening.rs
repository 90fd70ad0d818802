//! Calls that open something for a client, which has to know of it.

use tracing::Instrument as _;

use crate::export_v1::ApiError;

/// What was opened, until the response to its client is made.
struct Unclaimed<T, E: FnOnce(&T)> {
    opened: T,
    end: Option<E>,
}

impl<T, E: FnOnce(&T)> Drop for Unclaimed<T, E> {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(&self.opened);
        }
    }
}

/// Runs `opening` to its end even if the client goes away, since what it creates in the engine must come into our hands. `end`
/// ends what was opened for a client that has gone before its response, and that will never know of it.
///
/// # Errors
/// Those of `opening`.
pub(crate) async fn opened<T: Clone + Send + 'static>(
    opening: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    end: impl FnOnce(&T) + Send + 'static,
) -> Result<T, ApiError> {
    let opening = async move { Ok::<_, ApiError>(Unclaimed { opened: opening.await?, end: Some(end) }) };
    let opening = tokio::spawn(opening.in_current_span());
    let mut unclaimed = opening.await.map_err(|error| ApiError::broken(&error))??;
    unclaimed.end = None;
    Ok(unclaimed.opened.clone())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_is_ended_when_it_is_open() {
        let ((begin, begun), (end, ended)) = (oneshot::channel(), oneshot::channel());
        let opening = opened(async move { Ok(begun.await.unwrap()) }, move |id: &u32| end.send(*id).unwrap());
        // The client goes away before it is open.
        timeout(Duration::from_millis(10), opening).await.unwrap_err();
        begin.send(7).unwrap();
        assert_eq!(timeout(Duration::from_secs(30), ended).await.unwrap(), Ok(7));
        let kept = opened(async { Ok(8) }, |_: &u32| panic!("its client knows of it"));
        assert_eq!(kept.await.unwrap(), 8);
    }
}
