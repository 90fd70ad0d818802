//! Why an output cannot be written into a folder.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::source::SourceError;

/// Why an output cannot be written into a folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// No folder is allowed.
    #[error(
        "outputs may not be written on this server; its administrator can allow a folder with --allow-output-dir DIR"
    )]
    NotAllowed,
    /// The path is not below an allowed folder.
    #[error(
        "`{dest}` is not below an allowed folder; allowed are: {}",
        .allowed.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Outside {
        /// The path.
        dest: String,
        /// The folders.
        allowed: Vec<PathBuf>,
    },
    /// The path cannot be used.
    #[error("`{dest}` {reason}")]
    Path {
        /// The path.
        dest: String,
        /// The reason; continues the sentence.
        reason: &'static str,
    },
    /// The path exists.
    #[error("{} exists, and outputs replace nothing; remove it or choose another path", .path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("the disk has no room for {}", .path.display())]
    NoSpace {
        /// The path of the output.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{doing} {}: {error}", .path.display())]
    System {
        /// The operation.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The output itself failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The export was cancelled.
    #[error("the export was cancelled")]
    Cancelled,
}

impl FolderError {
    pub(super) fn system(doing: &'static str, path: impl Into<PathBuf>, error: impl Into<io::Error>) -> Self {
        let (path, error) = (path.into(), error.into());
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { path },
            _ => Self::System { doing, path, error },
        }
    }
}
