//! The messages of a client's stream.

use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::export_v1::ApiError;
use crate::export_v1::limits::IDLE;

/// The next message; `None` at the end. A client that is silent for too long keeps neither the stream nor what it holds.
pub(crate) async fn next_message<T>(messages: &mut Streaming<T>) -> Result<Option<T>, Status> {
    match timeout(IDLE, messages.message()).await {
        Ok(message) => message,
        Err(_) => Err(ApiError::idle(IDLE).into()),
    }
}
