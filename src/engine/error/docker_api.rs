//! Errors of requests to dockerd, as errors of its engines.

use super::EngineError;
use crate::docker_api::ApiError;

impl From<ApiError> for EngineError {
    fn from(error: ApiError) -> Self {
        let engine = "docker";
        match error {
            ApiError::Unreachable { address, reason } => Self::Unreachable { engine, address, reason },
            ApiError::Permission { address } => Self::Permission { engine, address },
            ApiError::Timeout { operation, after } => Self::Timeout { operation, after },
            ApiError::Protocol { operation, reason } => Self::Protocol { operation, reason },
        }
    }
}
