//! Why an archive cannot be read.

use std::io::{self, ErrorKind};

use rustix::io::Errno;

use crate::image::DocumentError;
use crate::tar::BLOCK;

/// Why an archive or a layout folder cannot be read. Nothing of it was exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Reading it, or keeping a copy of it, failed.
    #[error("{archive}: {what}: {error}")]
    Io {
        /// The archive.
        archive: String,
        /// The operation.
        what: String,
        /// The system's error.
        error: io::Error,
    },
    /// It is compressed, and no copy of it can be kept.
    #[error("{archive}: keeping it in an unnamed file in {folder}: {error}")]
    Keeping {
        /// The archive.
        archive: String,
        /// The folder of temporary files.
        folder: String,
        /// The system's error.
        error: io::Error,
    },
    /// It is an invalid tar archive, or ends too early.
    #[error("{archive} is not a whole tar archive: {reason}")]
    Tar {
        /// The archive.
        archive: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// It is no tar archive.
    #[error("{archive} is no archive: {reason}")]
    NotArchive {
        /// The file.
        archive: String,
        /// What it is instead.
        reason: String,
    },
    /// It holds no image in a known form.
    #[error("{archive} holds no image: {reason}")]
    Unrecognised {
        /// The archive.
        archive: String,
        /// What was expected.
        reason: &'static str,
    },
    /// One of its files is invalid.
    #[error("{archive}: `{member}` {reason}")]
    Member {
        /// The archive.
        archive: String,
        /// The file in it.
        member: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// A document of an image is invalid.
    #[error("{archive}: {error}")]
    Document {
        /// The archive.
        archive: String,
        /// What is wrong.
        error: DocumentError,
    },
}

impl ArchiveError {
    /// The error for `archive`, whose first bytes are `begin`, when `reason` keeps it from being read as a tar archive.
    pub(super) fn tar(archive: &str, begin: &[u8], reason: String) -> Self {
        let archive = archive.to_owned();
        if is_head(begin) {
            return Self::Tar { archive, reason };
        }
        let reason = match begin {
            [] => "it is empty".to_owned(),
            [b'P', b'K', 3 | 5, ..] => "it is a ZIP file; expected a tar archive, compressed or not".to_owned(),
            _ => "it does not begin like a tar archive, compressed (gzip, zstd, xz, bzip2) or not".to_owned(),
        };
        Self::NotArchive { archive, reason }
    }

    /// What is wrong, for messages that name the archive already.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Io { what, error, .. } => format!("{what}: {error}"),
            Self::Keeping { folder, error, .. } => format!("keeping it in an unnamed file in {folder}: {error}"),
            Self::Member { member, reason, .. } => format!("`{member}` {reason}"),
            error => error.to_string(),
        }
    }

    /// What a user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Keeping { error, .. } => {
                let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
                let folder = if is_full { "with more room" } else { "that can be written" };
                Some(format!("set TMPDIR to a folder {folder}, or name an uncompressed file, which is read in place"))
            }
            Self::Io { error, .. } if error.kind() == ErrorKind::NotFound => {
                Some("name an archive of `docker save`, an OCI archive, or a layout folder that exists".to_owned())
            }
            Self::Unrecognised { .. } | Self::NotArchive { .. } => {
                Some("`docker save`, `docker buildx build -o type=oci`, `skopeo copy` and `crane pull` make archives that can be read".to_owned())
            }
            Self::Tar { .. } => Some("save the image again; the file may be truncated".to_owned()),
            _ => None,
        }
    }
}

/// What the system said, without the path that `tempfile` adds: a name of ours, which nobody knows. (It keeps the kind alone.)
pub(crate) fn system_error(error: io::Error) -> io::Error {
    let number = match error.kind() {
        ErrorKind::NotFound => Errno::NOENT,
        ErrorKind::NotADirectory => Errno::NOTDIR,
        ErrorKind::PermissionDenied => Errno::ACCESS,
        ErrorKind::ReadOnlyFilesystem => Errno::ROFS,
        ErrorKind::StorageFull => Errno::NOSPC,
        ErrorKind::QuotaExceeded => Errno::DQUOT,
        _ => return error,
    };
    if error.raw_os_error().is_some() { error } else { number.into() }
}

/// Whether `bytes` begin with a tar header: its checksum is right (POSIX.1-1988, `ustar`), or all of it is zeros.
fn is_head(bytes: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(head) = bytes.get(..BLOCK) else { return false };
    let text = String::from_utf8_lossy(&head[SUM]);
    let stored = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok();
    let byte = |(at, byte): (usize, &u8)| if SUM.contains(&at) { b' ' } else { *byte };
    let sum = head.iter().enumerate().map(|all| u32::from(byte(all))).sum::<u32>();
    // Old programs summed signed bytes.
    let signed = head.iter().enumerate().map(|all| i32::from(byte(all).cast_signed())).sum::<i32>();
    head.iter().all(|byte| *byte == 0)
        || stored.is_some() && (stored == Some(sum) || stored == u32::try_from(signed).ok())
}
