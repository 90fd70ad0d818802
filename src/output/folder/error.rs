//! Why an output cannot be left in a folder.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::source::SourceError;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// No folder is allowed.
    #[error(
        "nothing may be left in folders of this server; its administrator can allow one with --allow-output-dir DIR"
    )]
    NotAllowed,
    /// The path is not below an allowed folder.
    #[error(
        "`{dest}` is not below a folder that outputs may be left in; allowed are: {}",
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
        /// What is wrong with it; continues the sentence.
        reason: &'static str,
    },
    /// Something is there.
    #[error("{} is there already; nothing is replaced, so remove it or choose another path", .path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("there is no room for {}", .path.display())]
    NoSpace {
        /// What was written.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{doing} {}: {error}", .path.display())]
    System {
        /// What was done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The output itself failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The export was given up.
    #[error("it was given up")]
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
