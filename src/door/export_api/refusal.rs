//! What a client is told when something does not go: `proto/README.md`, "Errors".

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::proto::{self, Reason};
use crate::engine::EngineError;
use crate::export::ExportError;
use crate::image::{Digest, GraphError};
use crate::output::folder::FolderError;
use crate::output::rootfs::RootfsError;
use crate::source::SourceError;
use crate::source::tree::TreeError;

/// The `domain` of every ErrorInfo.
pub(super) const DOMAIN: &str = "linkspan.export.v1";
/// How many violations are listed. A status travels in a header, which has its limits; the message says how many there are.
const VIOLATIONS: usize = 500;

/// A refusal, before it is known whether it becomes a status or a result.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) metadata: HashMap<String, String>,
    /// Which field, digest or name, and what is wrong with it.
    pub(super) violations: Vec<(String, String)>,
}

impl Refusal {
    pub(super) fn new(code: Code, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), metadata: HashMap::new(), violations: Vec::new() }
    }

    /// A field that is wrong.
    pub(super) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::fields(vec![(field.into(), description.into())])
    }

    /// Fields that are wrong: at least one.
    pub(super) fn fields(violations: Vec<(String, String)>) -> Self {
        let texts: Vec<_> = violations.iter().map(|(field, what)| format!("{field}: {what}")).collect();
        Self { violations, ..Self::new(Code::InvalidArgument, Reason::InvalidField, texts.join("; ")) }
    }

    /// A limit that is reached. Waiting helps only where something else holds what is wanted.
    pub(super) fn limit(code: Code, limit: &str, value: impl ToString, message: impl Into<String>) -> Self {
        Self::new(code, Reason::LimitExceeded, message).with("limit", limit).with("value", value.to_string())
    }

    /// Blobs that are not there: at least one.
    pub(super) fn missing<'a>(digests: impl IntoIterator<Item = &'a Digest>, whose: &str) -> Self {
        let violations: Vec<_> = digests
            .into_iter()
            .map(|digest| (digest.to_string(), format!("{whose} needs it, and it is not in the export")))
            .collect();
        let first = violations.first().map(|(digest, _)| digest.clone()).unwrap_or_default();
        let message = match violations.len() {
            1 => format!("{whose} needs {first}, which is not in the export; send it and commit again"),
            n => {
                format!(
                    "{whose} needs {n} blobs that are not in the export, {first} among them; send them and commit again"
                )
            }
        };
        Self { violations, ..Self::new(Code::FailedPrecondition, Reason::BlobsMissing, message) }
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// The same as part of an answer.
    pub(super) fn message(&self) -> proto::Error {
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

/// What is wrong with a name whose digest is not that of the image, `root`.
pub(super) fn other_image(root: &Digest) -> String {
    format!("it is the name of another image: this one is {root}; leave the digest out of the name")
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let reason = refusal.reason.as_str_name().trim_start_matches("REASON_");
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, refusal.metadata);
        for (field, description) in refusal.violations.into_iter().take(VIOLATIONS) {
            details.add_bad_request_violation(field, description);
        }
        Self::with_error_details(refusal.code, refusal.message, details)
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        use EngineError as E;
        let (code, reason) = match &error {
            E::Unreachable { .. } | E::Permission { .. } | E::NotProven { .. } | E::Timeout { .. } => {
                (Code::Unavailable, Reason::EngineUnavailable)
            }
            E::NoSpace { .. } => (Code::ResourceExhausted, Reason::NoSpace),
            E::Corrupt { .. } => (Code::FailedPrecondition, Reason::BlobCorrupt),
            E::Graph(_) => (Code::InvalidArgument, Reason::DocumentInvalid),
            E::Missing { digests } => return Self::missing(digests, "the image"),
            E::LeaseLost { .. } => (Code::FailedPrecondition, Reason::ExportExpired),
            E::Busy { .. } => (Code::Unavailable, Reason::EngineRefused),
            E::Present { .. } => (Code::AlreadyExists, Reason::EngineRefused),
            E::NameMoved { current, .. } => {
                let current = current.as_ref().map(ToString::to_string).unwrap_or_default();
                let message = format!("{error}, which was not expected; resolve it, decide, and push");
                return Self::new(Code::Aborted, Reason::PreconditionFailed, message).with("current", current);
            }
            E::UploadName { .. } => (Code::InvalidArgument, Reason::InvalidField),
            E::NotOffered { .. } => (Code::Unimplemented, Reason::EngineRefused),
            E::Rpc { code, .. } => (*code, Reason::EngineRefused),
            E::Protocol { .. } => (Code::Internal, Reason::EngineRefused),
            _ => (Code::FailedPrecondition, Reason::EngineRefused),
        };
        let message = match error.hint() {
            Some(hint) => format!("{error}; to mend it: {hint}"),
            None => error.to_string(),
        };
        let refusal = Self::new(code, reason, message);
        match error {
            E::Corrupt { digest, reason } => Self { violations: vec![(digest.to_string(), reason)], ..refusal },
            _ => refusal,
        }
    }
}

impl From<GraphError> for Refusal {
    fn from(error: GraphError) -> Self {
        Self::new(Code::InvalidArgument, Reason::DocumentInvalid, format!("the image is invalid: {error}"))
    }
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Self {
        match &error {
            SourceError::NotFound { digest, .. } => Self::missing([digest], "the image"),
            _ => Self::new(Code::Unavailable, Reason::EngineUnavailable, error.to_string()),
        }
    }
}

impl From<TreeError> for Refusal {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Source(error) => error.into(),
            TreeError::Absent { digest, .. } => Self::missing([&digest], "the image"),
            TreeError::Root { .. } => Self::field("reference", error.to_string()),
            TreeError::Limit { .. } | TreeError::Document(_) => {
                Self::new(Code::InvalidArgument, Reason::DocumentInvalid, error.to_string())
            }
        }
    }
}

impl From<RootfsError> for Refusal {
    fn from(error: RootfsError) -> Self {
        match error {
            RootfsError::Source(error) => error.into(),
            RootfsError::Absent { layer } => Self::missing([&layer], "the file system of the image"),
            RootfsError::Limit { limit, .. } => {
                Self::limit(Code::InvalidArgument, "file_system", limit, error.to_string())
            }
            RootfsError::Layer { ref layer, .. } | RootfsError::DiffId { ref layer, .. } => Self {
                violations: vec![(layer.to_string(), error.to_string())],
                ..Self::new(Code::InvalidArgument, Reason::DocumentInvalid, error.to_string())
            },
            RootfsError::NoImage | RootfsError::SamePlatform { .. } | RootfsError::Overlap { .. } => {
                Self::field("root", error.to_string())
            }
            error => Self::new(Code::InvalidArgument, Reason::DocumentInvalid, error.to_string()),
        }
    }
}

impl From<FolderError> for Refusal {
    fn from(error: FolderError) -> Self {
        let message = error.to_string();
        let dest = |path: &std::path::Path| path.display().to_string();
        match error {
            FolderError::Source(error) => error.into(),
            FolderError::NotAllowed => {
                Self::new(Code::PermissionDenied, Reason::DestDenied, message).with("allowed", "")
            }
            FolderError::Outside { dest: path, allowed } => Self {
                violations: vec![(path, message.clone())],
                ..Self::new(Code::PermissionDenied, Reason::DestDenied, message)
                    .with("allowed", allowed.iter().map(|folder| dest(folder)).collect::<Vec<_>>().join(","))
            },
            FolderError::Path { .. } => Self::field("dest", message),
            FolderError::Taken { path } => Self {
                violations: vec![(dest(&path), "it is there already".to_owned())],
                ..Self::new(Code::AlreadyExists, Reason::DestTaken, message)
            },
            FolderError::NoSpace { .. } => Self::new(Code::ResourceExhausted, Reason::NoSpace, message),
            FolderError::Cancelled => ExportError::Cancelled.into(),
            _ => Self::new(Code::FailedPrecondition, Reason::EngineRefused, message),
        }
    }
}

impl From<ExportError> for Refusal {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Graph(error) => error.into(),
            ExportError::Source(error) => error.into(),
            ExportError::Engine(error) => error.into(),
            ExportError::NameDenied { name, allowed } => Self {
                violations: vec![(name.clone(), "no pattern allows it".to_owned())],
                ..Self::new(
                    Code::PermissionDenied,
                    Reason::NameDenied,
                    format!("the name `{name}` is not allowed here; allowed are: {}", allowed.join(", ")),
                )
                .with("allowed", allowed.join(","))
            },
            ExportError::NameTaken { name, current } => Self {
                violations: vec![(name.clone(), format!("it stands for {current}"))],
                ..Self::new(
                    Code::PermissionDenied,
                    Reason::NameTaken,
                    format!("the name `{name}` stands for {current}, and names must not move here; use another name"),
                )
                .with("current", current.to_string())
            },
            ExportError::NameDigest { name, root } => Self::field(&name, other_image(&root)),
            ExportError::Cancelled => Self::new(Code::Aborted, Reason::ExportAborted, "the export was aborted"),
            error => Self::new(Code::Internal, Reason::EngineRefused, error.to_string()),
        }
    }
}
