//! Why a connection ended early.

use std::io;

use super::body::BrokenChunk;
use super::head::BadHead;
use crate::net::UpstreamError;

/// Why a client connection was closed before the client or the server closed it. The client has already got an error
/// response where that was possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The upstream cannot be reached; the client got a 503.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A request's head was rejected.
    #[error(transparent)]
    Head(#[from] BadHead),
    /// A request's chunked coding is broken; the client got a 400, unless the response had begun.
    #[error(transparent)]
    Body(#[from] BrokenChunk),
    /// The response's chunked coding is broken; the bytes before that were forwarded.
    #[error("in a response: {0}")]
    Response(BrokenChunk),
    /// The client accepts no more bytes.
    #[error("the client has gone: {0}")]
    Client(io::Error),
    /// The upstream sent bytes without a request.
    #[error("the server sent bytes without a request")]
    Unsolicited,
}
