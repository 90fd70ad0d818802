//! Why an archive cannot be read.

use crate::image::DocumentError;
use crate::tar::BLOCK;

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
    /// It is no archive at all.
    #[error("{archive} is no archive: {reason}")]
    NotArchive {
        /// The file.
        archive: String,
        /// What it is, or what it is not.
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
    /// `archive`, of which `begin` are the first bytes, cannot be read as a tar archive for this reason. What does not
    /// even begin as one is none.
    pub(super) fn tar(archive: &str, begin: &[u8], reason: String) -> Self {
        let archive = archive.to_owned();
        if is_head(begin) {
            return Self::Tar { archive, reason };
        }
        let reason = match begin {
            [] => "it is empty".to_owned(),
            [b'P', b'K', 3 | 5, ..] => "it is a ZIP file; expected a tar archive, compressed or not".to_owned(),
            _ => "it does not begin as a tar archive does, nor as one that is compressed (gzip, zstd, xz, bzip2)"
                .to_owned(),
        };
        Self::NotArchive { archive, reason }
    }

    /// What a person can do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => {
                Some("name a folder with more room by TMPDIR, or give an uncompressed file instead of a stream".to_owned())
            }
            Self::Unrecognised { .. } | Self::NotArchive { .. } => {
                Some("`docker save`, `docker buildx build -o type=oci`, `skopeo copy` and `crane pull` make archives that can be read".to_owned())
            }
            Self::Tar { .. } => Some("save the image again; the file may have been cut off on its way".to_owned()),
            _ => None,
        }
    }
}

/// Whether `bytes` begin with the head of a member: its sum is right (POSIX.1-1988, `ustar`), or all of it is zeros.
fn is_head(bytes: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(head) = bytes.get(..BLOCK) else { return false };
    let text = String::from_utf8_lossy(&head[SUM]);
    let said = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok();
    let byte = |(at, byte): (usize, &u8)| if SUM.contains(&at) { b' ' } else { *byte };
    let sum = head.iter().enumerate().map(|all| u32::from(byte(all))).sum::<u32>();
    // Old programs took bytes for signed numbers.
    let signed = head.iter().enumerate().map(|all| i32::from(byte(all).cast_signed())).sum::<i32>();
    head.iter().all(|byte| *byte == 0) || said.is_some() && (said == Some(sum) || said == u32::try_from(signed).ok())
}
