//! Why an archive cannot be read.

use crate::image::DocumentError;

/// What is wrong with an archive or a layout directory. Nothing of it was exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It cannot be read, or what is read of it cannot be kept.
    #[error("{archive}: {what}: {error}")]
    Io {
        /// The archive.
        archive: String,
        /// What was being done.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is no tar archive, or breaks off.
    #[error("{archive} is not a whole tar archive: {reason}")]
    Tar {
        /// The archive.
        archive: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// It holds no image that we know how to read.
    #[error("{archive} holds no image: {reason}")]
    Unrecognised {
        /// The archive.
        archive: String,
        /// What was expected.
        reason: &'static str,
    },
    /// One of its files is not what it should be.
    #[error("{archive}: `{member}` {reason}")]
    Member {
        /// The archive.
        archive: String,
        /// The file in it.
        member: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// A document of an image is not what it should be.
    #[error("{archive}: {error}")]
    Document {
        /// The archive.
        archive: String,
        /// What is wrong.
        error: DocumentError,
    },
}

impl ArchiveError {
    /// What a person can do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => {
                Some("name a folder with more room by TMPDIR, or give an uncompressed file instead of a stream".to_owned())
            }
            Self::Unrecognised { .. } => {
                Some("`docker save`, `docker buildx build -o type=oci`, `skopeo copy` and `crane pull` make archives that can be read".to_owned())
            }
            Self::Tar { .. } => Some("save the image again; the file may have been cut off on its way".to_owned()),
            _ => None,
        }
    }
}
