//! The API's errors, and how they cross the wire: `proto/README.md`, "Errors".

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::proto::{self, Reason};
use crate::image::Digest;

/// The `domain` of every ErrorInfo.
const DOMAIN: &str = "linkspan.export.v1";
/// How many violations are listed. A status travels in a header, which has its limits; the message says how many there are.
const VIOLATIONS: usize = 500;

/// The metadata key of what a person can do about an error.
const HINT: &str = "hint";
/// What every reason's name begins with in the definition, and nowhere else.
const REASON_PREFIX: &str = "REASON_";

/// An error of the API: a gRPC status, or part of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) metadata: HashMap<String, String>,
    /// Which field, digest or name, and what is wrong with it.
    pub(crate) violations: Vec<(String, String)>,
}

impl ApiError {
    pub(crate) fn new(code: Code, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), metadata: HashMap::new(), violations: Vec::new() }
    }

    /// A field that is wrong.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::fields(vec![(field.into(), description.into())])
    }

    /// Fields that are wrong: at least one.
    pub(crate) fn fields(violations: Vec<(String, String)>) -> Self {
        let texts: Vec<_> = violations.iter().map(|(field, what)| format!("{field}: {what}")).collect();
        Self { violations, ..Self::new(Code::InvalidArgument, Reason::InvalidField, texts.join("; ")) }
    }

    /// A limit that is reached. Waiting helps only where something else holds what is needed.
    pub(crate) fn limit(code: Code, limit: &str, value: impl ToString, message: impl Into<String>) -> Self {
        Self::new(code, Reason::LimitExceeded, message).with("limit", limit).with("value", value.to_string())
    }

    /// A stream whose client was silent for `idle`.
    pub(crate) fn idle(idle: Duration) -> Self {
        let seconds = idle.as_secs();
        let message = format!("nothing came for {seconds} s, the longest that a stream waits for its client");
        Self::limit(Code::DeadlineExceeded, "idle_timeout", seconds, message)
    }

    /// A call whose task broke off.
    pub(crate) fn broken(error: &dyn std::error::Error) -> Self {
        Self::new(Code::Internal, Reason::EngineRefused, format!("the call broke off: {error}"))
    }

    /// Blobs that are not there: at least one.
    pub(crate) fn missing<'a>(digests: impl IntoIterator<Item = &'a Digest>, whose: &str) -> Self {
        let why = |digest: &Digest| match digest.as_str() == whose {
            true => "it is the root, and it is not in the export".to_owned(),
            false => format!("{whose} needs it, and it is not in the export"),
        };
        let violations: Vec<_> = digests.into_iter().map(|digest| (digest.to_string(), why(digest))).collect();
        let first = violations.first().map(|(digest, _)| digest.clone()).unwrap_or_default();
        let message = match violations.len() {
            1 if first == whose => format!("the root {whose} is not in the export; send it and commit again"),
            1 => format!("{whose} needs {first}, which is not in the export; send it and commit again"),
            n => {
                format!(
                    "{whose} needs {n} blobs that are not in the export, {first} among them; send them and commit again"
                )
            }
        };
        Self { violations, ..Self::new(Code::FailedPrecondition, Reason::BlobsMissing, message) }
    }

    pub(crate) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Adds what a person can do about it.
    pub(crate) fn with_hint(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.with(HINT, hint),
            None => self,
        }
    }

    /// What a person can do about it.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.metadata.get(HINT).map(String::as_str)
    }

    /// The digests among the violations, with what is wrong with each.
    pub(crate) fn digests(&self) -> impl Iterator<Item = (Digest, &str)> {
        self.violations.iter().filter_map(|(field, what)| Some((field.parse().ok()?, what.as_str())))
    }

    /// The error in `status`; `None` if the status is not one of this API.
    pub(crate) fn from_status(status: &Status) -> Option<Self> {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
        let violations = details.bad_request().map(|request| &request.field_violations[..]).unwrap_or_default();
        Some(Self {
            code: status.code(),
            reason: Reason::from_str_name(&format!("{REASON_PREFIX}{}", info.reason)).unwrap_or_default(),
            message: status.message().to_owned(),
            metadata: info.metadata.clone(),
            violations: violations.iter().map(|it| (it.field.clone(), it.description.clone())).collect(),
        })
    }

    /// The error as part of a result.
    pub(crate) fn message(&self) -> proto::Error {
        let violation = |(field, description): &(String, String)| proto::Violation {
            field: field.clone(),
            description: description.clone(),
        };
        proto::Error {
            code: self.code as i32,
            reason: self.reason.into(),
            message: self.message.clone(),
            metadata: self.metadata.clone(),
            violations: self.violations.iter().map(violation).collect(),
        }
    }
}

impl From<proto::Error> for ApiError {
    fn from(error: proto::Error) -> Self {
        let violations = error.violations.iter().map(|it| (it.field.clone(), it.description.clone())).collect();
        Self {
            code: error.code.into(),
            reason: error.reason(),
            message: error.message,
            metadata: error.metadata,
            violations,
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let reason = error.reason.as_str_name().trim_start_matches(REASON_PREFIX);
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, error.metadata);
        for (field, description) in error.violations.into_iter().take(VIOLATIONS) {
            details.add_bad_request_violation(field, description);
        }
        Self::with_error_details(error.code, error.message, details)
    }
}
