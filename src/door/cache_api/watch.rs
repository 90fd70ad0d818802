//! Watch: what happens to versions, as it happens.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::messages::{event, number};
use super::sessions::Sessions;
use crate::cache_v1::limits::WATCHES;
use crate::cache_v1::proto::watch_response::Event;
use crate::cache_v1::proto::{WatchMissed, WatchResponse, WatchStarted};
use crate::export_v1::{ApiError, ResponseStream};

/// Begins a Watch of the refs that begin with `prefix`.
pub(super) async fn watch(sessions: &Arc<Sessions>, prefix: String) -> Result<ResponseStream<WatchResponse>, ApiError> {
    let permit = sessions.watches.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{WATCHES} clients watch; wait until one of them ends");
        ApiError::limit(Code::ResourceExhausted, "watches", WATCHES, message)
    })?;
    let mut events = sessions.caches.watch().await?;
    let (responses, outgoing) = mpsc::channel(1);
    let end = sessions.drain.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let mut next = Some(Event::Started(WatchStarted {}));
        loop {
            if let Some(event) = next.take() {
                let message: Result<_, Status> = Ok(WatchResponse { event: Some(event) });
                match end.run_until_cancelled(responses.send(message)).await {
                    Some(Ok(())) => {}
                    // The server ends, or the client is gone.
                    None | Some(Err(_)) => return,
                }
            }
            next = tokio::select! {
                () = end.cancelled() => return,
                () = responses.closed() => return,
                received = events.recv() => match received {
                    Ok(received) if received.version.reference.starts_with(&prefix) => {
                        Some(Event::Version(event(&received)))
                    }
                    Ok(_) => None,
                    Err(RecvError::Lagged(events)) => Some(Event::Missed(WatchMissed { events: number(events) })),
                    Err(RecvError::Closed) => return,
                },
            };
        }
    });
    Ok(Box::pin(ReceiverStream::new(outgoing)))
}
