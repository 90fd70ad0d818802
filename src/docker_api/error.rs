//! What can go wrong on the way to dockerd.

use std::time::Duration;

/// Why dockerd did not answer. What it answers, refusals included, is not an error here.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    /// Nobody answers at its address.
    #[error("docker does not answer at {address}: {reason}")]
    Unreachable {
        /// Where it was expected.
        address: String,
        /// What the connection attempt said.
        reason: String,
    },
    /// Its socket is there, but this process may not use it.
    #[error("no permission to use docker at {address}")]
    Permission {
        /// The socket.
        address: String,
    },
    /// It did not answer in time.
    #[error("{operation}: no answer within {} s", after.as_secs())]
    Timeout {
        /// What was asked.
        operation: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It answered with something that HTTP does not allow.
    #[error("{operation}: unexpected answer: {reason}")]
    Protocol {
        /// What was asked.
        operation: String,
        /// What was wrong with the answer.
        reason: String,
    },
}
