//! The states of an export.

use tonic::Code;

use super::ApiError;
use super::proto::{ExportState, Reason};

/// Refuses what cannot be done with the export `id` any more, once it has come to an end.
pub(crate) fn check_alive(id: &str, state: ExportState) -> Result<(), ApiError> {
    let (reason, how) = match state {
        ExportState::Committed => (Reason::ExportCommitted, "is committed"),
        ExportState::Aborted => (Reason::ExportAborted, "was aborted"),
        ExportState::Expired => (Reason::ExportExpired, "has expired"),
        ExportState::Unspecified | ExportState::Open | ExportState::Committing => return Ok(()),
    };
    let message = format!("the export `{id}` {how}; open another one");
    Err(ApiError::new(Code::FailedPrecondition, reason, message).with("export", id))
}
