//! The messages of a client's stream.

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument as _;

use crate::export_v1::limits::IDLE;
use crate::export_v1::{ApiError, ResponseStream};

/// The next message; `None` at the end. A client that is silent for too long keeps neither the stream nor what it holds.
pub(crate) async fn next_message<T>(messages: &mut Streaming<T>) -> Result<Option<T>, Status> {
    match timeout(IDLE, messages.message()).await {
        Ok(message) => message,
        Err(_) => Err(ApiError::idle(IDLE).into()),
    }
}

/// Responds to each message of a client's stream, one after the other, until one is refused.
pub(crate) fn respond_to_each<T, R, F>(
    mut messages: Streaming<T>,
    mut respond: impl FnMut(T) -> F + Send + 'static,
) -> ResponseStream<R>
where
    T: Send + 'static,
    R: Send + 'static,
    F: Future<Output = Result<R, Status>> + Send,
{
    let (responses, outgoing) = mpsc::channel(1);
    let responding = async move {
        while let Some(message) = next_message(&mut messages).await.transpose() {
            let response = match message {
                Ok(message) => respond(message).await,
                Err(status) => Err(status),
            };
            let failed = response.is_err();
            if responses.send(response).await.is_err() || failed {
                return;
            }
        }
    };
    tokio::spawn(responding.in_current_span());
    Box::pin(ReceiverStream::new(outgoing))
}
