//! Why a connection ended early.

use std::io;

use super::body::BrokenChunk;
use super::head::BadHead;
use crate::net::UpstreamError;

/// Why a client's connection was ended before the client or the server ended it. Where there was something to say and
/// somebody to say it to, the client has been told already.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The server behind cannot be reached: the client was answered 503.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A request's head was refused.
    #[error(transparent)]
    Head(#[from] BadHead),
    /// A request's body broke off its own rules: it was refused unless the answer had begun.
    #[error(transparent)]
    Body(#[from] BrokenChunk),
    /// The server's answer broke off its own rules: what came before that was passed on.
    #[error("in an answer: {0}")]
    Response(BrokenChunk),
    /// The client takes no more bytes.
    #[error("the client has gone: {0}")]
    Client(io::Error),
    /// The server sent something that nobody had asked for.
    #[error("the server spoke without being asked")]
    Unasked,
}
