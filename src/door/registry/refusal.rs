//! Why a request is refused, as a registry's clients read it (OCI distribution specification, "Error Codes").

use http::header::HeaderName;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::response::{json, put};
use crate::activity::Refused;
use crate::engine::EngineError;
use crate::http2::Body;
use crate::source::SourceError;

/// What kind of refusal it is. Clients act on the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    /// Not of the specification; the distribution registry has it for wrong numbers of pages.
    PaginationNumberInvalid,
    RangeInvalid,
    SizeInvalid,
    TagInvalid,
    TooManyRequests,
    Unauthorized,
    /// Not of the specification; the distribution registry has it for a store that does not respond.
    Unavailable,
    /// Not of the specification; the distribution registry has it for requests that no other code fits.
    Unknown,
    Unsupported,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// A refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: Code,
    pub(super) message: String,
    detail: Value,
    headers: Vec<(HeaderName, String)>,
    /// Whether it is not counted as a refusal: it is the engine's, or counted as an export that failed.
    is_uncounted: bool,
    /// Whether something else has deleted the lease under which the request was served.
    pub(super) is_lease_lost: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        let (detail, headers) = (Value::Null, Vec::new());
        Self { status, code, message: message.into(), detail, headers, is_uncounted: false, is_lease_lost: false }
    }

    /// Something of the client's is malformed.
    pub(super) fn bad(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// What was requested is not there.
    pub(super) fn absent(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// Adds what the client sent or asked for.
    pub(super) fn about(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value: Value = value.into();
        self.detail = json!({ key: value });
        self
    }

    /// The same, but not counted: the engine refuses, or what failed is counted as an export.
    pub(super) fn uncounted(self) -> Self {
        Self { is_uncounted: true, ..self }
    }

    /// The kind of its reason. What is not there, conflicts between clients, and trouble of the engine are not counted.
    pub(super) fn reason(&self) -> Option<Refused> {
        match self.status {
            _ if self.is_uncounted => None,
            StatusCode::UNAUTHORIZED => Some(Refused::Unauthenticated),
            StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => Some(Refused::Policy),
            StatusCode::BAD_REQUEST | StatusCode::LENGTH_REQUIRED | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Some(Refused::Input)
            }
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG | StatusCode::TOO_MANY_REQUESTS => {
                Some(Refused::Limit)
            }
            _ => None,
        }
    }

    /// The same as something that is not there: a mirror's client then asks the next host.
    pub(super) fn into_absent(self) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..self }
    }

    pub(super) fn with(mut self, header: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }

    pub(super) fn response(self) -> Response<Body> {
        let Self { status, code, message, detail, headers, .. } = self;
        let mut error = json!({ "code": code.name(), "message": message });
        if !detail.is_null() {
            error["detail"] = detail;
        }
        let mut response = json(status, &json!({ "errors": [error] }));
        for (name, value) in headers {
            put(response.headers_mut(), name, &value);
        }
        response
    }
}

impl From<EngineError> for Refusal {
    /// The engine's trouble: the client may try again.
    fn from(error: EngineError) -> Self {
        let status = match error {
            EngineError::NoSpace { .. } | EngineError::LayoutFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
            EngineError::NotOffered { .. } => {
                return Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, error.to_string()).uncounted();
            }
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        tracing::warn!(%error, "a request could not be served");
        let is_lease_lost = matches!(error, EngineError::LeaseLost { .. });
        Self { is_lease_lost, ..Self::new(status, Code::Unavailable, error.to_string()) }
    }
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::NotFound { ref digest, .. } => {
                let digest = digest.to_string();
                Self::absent(Code::BlobUnknown, error.to_string()).about("digest", digest)
            }
            error => {
                tracing::warn!(%error, "a blob cannot be read");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, error.to_string())
            }
        }
    }
}
