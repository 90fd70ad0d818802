//! The errors of the API when an export, an output or a source fails.

use tonic::Code;

use crate::export::ExportError;
use crate::export_v1::ApiError;
use crate::export_v1::proto::Reason;
use crate::image::{Digest, GraphError};
use crate::output::folder::FolderError;
use crate::output::rootfs::RootfsError;
use crate::source::tree::TreeError;
use crate::source::{ReadGraphError, SourceError};

/// What is wrong with a name whose digest is not that of the image, `root`.
pub(super) fn other_image(root: &Digest) -> String {
    format!("it is the name of another image: this one is {root}; leave the digest out of the name")
}

impl From<GraphError> for ApiError {
    fn from(error: GraphError) -> Self {
        Self::new(Code::InvalidArgument, Reason::DocumentInvalid, format!("the image is invalid: {error}"))
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        match &error {
            SourceError::NotFound { digest, .. } => Self::missing([digest], "the image"),
            _ => Self::new(Code::Unavailable, Reason::EngineUnavailable, error.to_string()),
        }
    }
}

impl From<ReadGraphError> for ApiError {
    fn from(error: ReadGraphError) -> Self {
        error.into_source().map_or_else(Self::from, Self::from)
    }
}

impl From<TreeError> for ApiError {
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

impl From<RootfsError> for ApiError {
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

impl From<FolderError> for ApiError {
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

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Graph(error) => error.into(),
            ExportError::Source(error) => error.into(),
            ExportError::Engine(error) => error.into(),
            ExportError::NameDenied { ref name, ref allowed } => Self {
                violations: vec![(name.clone(), "no pattern allows it".to_owned())],
                ..Self::new(Code::PermissionDenied, Reason::NameDenied, error.to_string())
                    .with("allowed", allowed.join(","))
            },
            ExportError::NameTaken { name, current } => Self {
                violations: vec![(name.clone(), format!("it points to {current}"))],
                ..Self::new(
                    Code::PermissionDenied,
                    Reason::NameTaken,
                    format!("the name `{name}` points to {current}, and names must not move here; use another name"),
                )
                .with("current", current.to_string())
            },
            ExportError::NameBusy { .. } => Self::new(Code::Unavailable, Reason::EngineUnavailable, error.to_string()),
            ExportError::NameDigest { name, root } => Self::field(&name, other_image(&root)),
            ExportError::Cancelled => Self::new(Code::Aborted, Reason::ExportAborted, "the export was aborted"),
            error => Self::new(Code::Internal, Reason::EngineRefused, error.to_string()),
        }
    }
}
