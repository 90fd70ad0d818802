//! The errors of the API when a cache fails.

use tonic::Code;

use crate::caches::CacheError;
use crate::engine::EngineError;
use crate::export_v1::ApiError;
use crate::export_v1::proto::Reason;
use crate::source::SourceError;

impl From<CacheError> for ApiError {
    fn from(error: CacheError) -> Self {
        let (message, hint) = (error.to_string(), error.hint());
        let api = |code, reason| Self::new(code, reason, message.clone()).with_hint(hint.clone());
        match error {
            CacheError::Name { .. } => Self::field("ref", message),
            CacheError::Denied { reference, allowed } => Self {
                violations: vec![(reference, "no pattern allows it".to_owned())],
                ..api(Code::PermissionDenied, Reason::NameDenied).with("allowed", allowed.join(","))
            },
            CacheError::Unknown { reference } => api(Code::NotFound, Reason::CacheUnknown).with("ref", reference),
            CacheError::Document(_) | CacheError::Config { .. } => api(Code::InvalidArgument, Reason::DocumentInvalid),
            CacheError::TooLarge { bytes, limit, .. } => api(Code::ResourceExhausted, Reason::Quota)
                .with("bytes", bytes.to_string())
                .with("limit", limit.to_string()),
            CacheError::Engine(EngineError::Missing { digests }) => Self::missing(&digests, "the cache"),
            CacheError::Source(SourceError::NotFound { digest, .. }) => {
                let what = (digest.to_string(), "the engine has lost it".to_owned());
                Self { violations: vec![what], ..api(Code::NotFound, Reason::BlobsMissing) }
            }
            CacheError::Unusable { error, .. } => Self { message, ..Self::from(*error) }.with_hint(hint),
            CacheError::Ambiguous { .. } => Self::field("version_id", message),
            CacheError::Engine(error) => error.into(),
            _ => api(Code::Unavailable, Reason::EngineUnavailable),
        }
    }
}

/// A hold that is not there.
pub(super) fn no_hold(id: &str) -> ApiError {
    if id.is_empty() {
        let message = "the call names no hold; give the id that Resolve returned";
        return ApiError::new(Code::InvalidArgument, Reason::InvalidField, message);
    }
    let shown: String = id.chars().take(64).collect();
    let message = format!("there is no hold `{shown}`: it was released, or not renewed in time; resolve again");
    ApiError::new(Code::FailedPrecondition, Reason::HoldEnded, message).with("hold", shown)
}

/// An export that is not there.
pub(super) fn no_export(id: &str) -> ApiError {
    if id.is_empty() {
        let message = "the call names no export; give the id that Open returned";
        return ApiError::new(Code::InvalidArgument, Reason::ExportRequired, message);
    }
    let shown: String = id.chars().take(64).collect();
    let message = format!("there is no export `{shown}`: it was never opened, or ended long ago; open one");
    ApiError::new(Code::NotFound, Reason::ExportNotFound, message).with("export", shown)
}
