//! An engine's errors as errors of the API, and back: a daemon responds with the first, its client understands the second.

use tonic::Code;

use super::EngineError;
use crate::export_v1::ApiError;
use crate::export_v1::proto::Reason;

/// The hint for an export that has ended, or whose daemon went away.
pub(crate) const AGAIN: &str = "run the command again: what the daemon has taken in is not sent again";

/// The code and the reason of an engine's error.
fn code(error: &EngineError) -> (Code, Reason) {
    use EngineError as E;
    match error {
        E::Node { error, .. } | E::NamedOnSome { error, .. } | E::NamesLeft { error, .. } => code(error),
        E::Unreachable { .. } | E::Permission { .. } | E::NotProven { .. } | E::Timeout { .. } | E::NoAnswer { .. } => {
            (Code::Unavailable, Reason::EngineUnavailable)
        }
        E::NoSpace { .. } | E::LayoutFull { .. } => (Code::ResourceExhausted, Reason::NoSpace),
        E::Corrupt { .. } => (Code::FailedPrecondition, Reason::BlobCorrupt),
        E::Graph(_) => (Code::InvalidArgument, Reason::DocumentInvalid),
        E::Missing { .. } => (Code::FailedPrecondition, Reason::BlobsMissing),
        E::LeaseLost { .. } => (Code::FailedPrecondition, Reason::ExportExpired),
        E::Busy { .. } => (Code::Unavailable, Reason::EngineRefused),
        E::Present { .. } => (Code::AlreadyExists, Reason::EngineRefused),
        E::NameMoved { .. } => (Code::Aborted, Reason::PreconditionFailed),
        E::IngestRef { .. } => (Code::InvalidArgument, Reason::InvalidField),
        E::NotOffered { .. } => (Code::Unimplemented, Reason::EngineRefused),
        E::Rpc { code, .. } => (*code, Reason::EngineRefused),
        E::Protocol { .. } => (Code::Internal, Reason::EngineRefused),
        _ => (Code::FailedPrecondition, Reason::EngineRefused),
    }
}

/// To the wire.
impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let (code, reason) = code(&error);
        let api = Self::new(code, reason, error.to_string()).with_hint(error.hint());
        match error {
            EngineError::Missing { digests } => Self::missing(&digests, "the image"),
            EngineError::Corrupt { digest, reason } => Self { violations: vec![(digest.to_string(), reason)], ..api },
            EngineError::NameMoved { current, .. } => {
                let message = format!("{}, which was not expected; resolve it, decide, and push", api.message);
                let current = current.map(|digest| digest.to_string()).unwrap_or_default();
                Self { message, ..api }.with("current", current)
            }
            _ => api,
        }
    }
}

/// From the wire. Errors about blobs are what an engine at hand would return; all others keep the daemon's words.
impl From<ApiError> for EngineError {
    fn from(error: ApiError) -> Self {
        match error.reason {
            Reason::BlobCorrupt => {
                if let Some((digest, what)) = error.digests().next() {
                    return Self::Corrupt { digest, reason: what.to_owned() };
                }
            }
            Reason::BlobsMissing => {
                let digests: Vec<_> = error.digests().map(|(digest, _)| digest).collect();
                if !digests.is_empty() {
                    return Self::Missing { digests };
                }
            }
            _ => {}
        }
        let has_ended = matches!(
            error.reason,
            Reason::ExportNotFound | Reason::ExportExpired | Reason::ExportAborted | Reason::Stopping
        );
        let hint = error.hint().or(has_ended.then_some(AGAIN)).map(str::to_owned);
        Self::Daemon { message: error.message, hint, is_lost: error.reason == Reason::Stopping }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::image::Digest;

    /// What the client makes of the daemon's `error`, sent as a status and as part of a result.
    fn crossed(error: impl Into<ApiError>) -> EngineError {
        let api: ApiError = error.into();
        let [status, result] =
            [ApiError::from_status(&Status::from(api.clone())).unwrap(), ApiError::from(api.message())];
        assert_eq!((&status, &result), (&api, &api));
        status.into()
    }

    #[test]
    fn blobs_are_named_as_by_an_engine() {
        let (one, other) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let missing = crossed(EngineError::Missing { digests: vec![one.clone(), other.clone()] });
        assert!(matches!(&missing, EngineError::Missing { digests } if *digests == [one.clone(), other]), "{missing}");
        let corrupt = crossed(EngineError::Corrupt { digest: one.clone(), reason: "wrong".to_owned() });
        assert!(
            matches!(&corrupt, EngineError::Corrupt { digest, reason } if *digest == one && reason == "wrong"),
            "{corrupt}"
        );
    }

    #[test]
    fn a_hint_crosses_the_wire_beside_the_message() {
        let full = EngineError::NoSpace { operation: "writing; hint: a".to_owned(), message: "it is full".to_owned() };
        let crossed_error = crossed(full.clone());
        assert_eq!(crossed_error.to_string(), full.to_string());
        assert!(full.hint().is_some());
        assert_eq!(crossed_error.hint(), full.hint());
    }

    #[test]
    fn an_export_that_ended_is_begun_again() {
        let expired = crossed(EngineError::LeaseLost { lease: "x".to_owned() });
        assert_eq!(expired.hint(), EngineError::LeaseLost { lease: "x".to_owned() }.hint());
        let expired = crossed(ApiError::new(Code::FailedPrecondition, Reason::ExportExpired, "it has expired"));
        assert!(expired.hint().unwrap().contains("again") && !expired.is_disconnect(), "{expired}");
        let stopping = crossed(ApiError::new(Code::Unavailable, Reason::Stopping, "it stops"));
        assert!(stopping.hint().unwrap().contains("again") && stopping.is_disconnect(), "{stopping}");
    }

    #[test]
    fn a_status_of_another_service_is_no_error_of_this_api() {
        assert_eq!(ApiError::from_status(&Status::already_exists("content: already exists")), None);
    }
}
