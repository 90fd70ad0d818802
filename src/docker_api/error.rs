//! Errors of requests to dockerd.

use std::time::Duration;

/// Why there is no response from dockerd. A response with an error status is none of these.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    /// Nothing listens at its address.
    #[error("docker does not respond at {address}: {reason}")]
    Unreachable {
        /// Where it was expected.
        address: String,
        /// The error of the connection attempt.
        reason: String,
    },
    /// This process may not use its socket.
    #[error("no permission to use docker at {address}")]
    Permission {
        /// The socket.
        address: String,
    },
    /// There was no response in time.
    #[error("{operation}: no response within {} s", after.as_secs())]
    Timeout {
        /// The request.
        operation: String,
        /// The time limit.
        after: Duration,
    },
    /// The response is not valid HTTP.
    #[error("{operation}: unexpected response: {reason}")]
    Protocol {
        /// The request.
        operation: String,
        /// What is wrong with it.
        reason: String,
    },
}
