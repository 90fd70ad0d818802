//! Why images are not published.

use std::io;
use std::path::PathBuf;

use crate::engine::EngineError;
use crate::source::SourceError;

/// Why images are not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A name that no path can hold.
    #[error("`{name}` cannot be published: {reason}")]
    Name {
        /// The name.
        name: String,
        /// The reason.
        reason: &'static str,
    },
    /// A place that is none.
    #[error("`{place}` is no place to publish to: {reason}")]
    Place {
        /// What was given.
        place: String,
        /// The reason.
        reason: &'static str,
    },
    /// A folder that another process publishes to.
    #[error("another process publishes to {path}", path = path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file of a folder.
    #[error("{path} cannot be {what}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was to be done with it.
        what: &'static str,
        /// The reason.
        error: io::Error,
    },
    /// An object of a bucket.
    #[error(transparent)]
    Bucket(EngineError),
    /// A blob that cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A list that cannot be written.
    #[error("a list cannot be written: {0}")]
    Json(serde_json::Error),
}

impl PublishError {
    /// What a user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Name { .. } => "give the image another name with `linkspan tag`, and publish that",
            Self::Place { .. } => "give a folder, or a bucket as s3://BUCKET/PREFIX",
            Self::Busy { .. } => "publish again when it has ended; one command can publish several images",
            Self::File { error, .. } => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on its disk",
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "name a folder that you may write"
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
                    "name a folder that has nothing but what was published"
                }
                _ => return None,
            },
            Self::Bucket(error) => return error.hint(),
            Self::Source(SourceError::NotFound { .. }) => {
                "the engine holds only a part of the image; pull the rest, or choose a part with --platform"
            }
            Self::Source(_) | Self::Json(_) => return None,
        };
        Some(hint.to_owned())
    }
}
