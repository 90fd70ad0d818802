//! What can go wrong at an engine.

use crate::image::Digest;

/// An engine's refusal, in a form that callers can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The bytes are not what their descriptor says.
    #[error("{digest} is corrupt: {reason}")]
    Corrupt {
        /// The digest that was expected.
        digest: Digest,
        /// What the store said.
        reason: String,
    },
}
