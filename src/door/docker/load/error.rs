//! The errors that end the filter of an archive early.

use std::io;

use super::guard::Denied;
use crate::engine::EngineError;

/// Why an archive was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// It could not be read: the client disconnected, or it cannot be decompressed.
    #[error(transparent)]
    Input(io::Error),
    /// dockerd reads no further.
    #[error("docker reads no further")]
    Output,
    /// A blob that was omitted cannot be sent after all.
    #[error("a blob that was left out of the archive is needed and cannot be read: {0}")]
    Lost(#[from] EngineError),
    /// A new blob could not be stored.
    #[error("a blob of the archive cannot be stored: {0}")]
    Store(EngineError),
    /// The client left while the archive was being unpacked.
    #[error("the client left")]
    Left,
    /// Policy denies the load.
    #[error(transparent)]
    Denied(#[from] Denied),
}
