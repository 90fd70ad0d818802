//! Why the filter of an archive ends early.

use std::io;

use super::guard::Denied;
use crate::engine::EngineError;

/// Why an archive did not reach its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// It could not be read: the client went away, or it cannot be decompressed.
    #[error(transparent)]
    Input(io::Error),
    /// dockerd takes no more of it.
    #[error("docker reads no further")]
    Output,
    /// What was left out cannot be sent after all.
    #[error("a blob that was left out of the archive is needed and cannot be read: {0}")]
    Lost(#[from] EngineError),
    /// Policy does not let it be loaded.
    #[error(transparent)]
    Denied(#[from] Denied),
}
