//! What can go wrong with the folders and archives that caches are copied into and from.

use std::io;

use crate::source::archive::ArchiveError;

/// Why a folder or an archive of caches cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum CacheFolderError {
    #[error("the build caches in {path} cannot be read or written: {error}")]
    File { path: String, error: io::Error },
    #[error("the disk of {path} is full: {message}")]
    Full { path: String, message: String },
    #[error("the folder {path} cannot be written: {reason}")]
    Denied { path: String, reason: String },
    #[error("{path}: no such folder or file")]
    Absent { path: String },
    #[error("{path}: {reason}")]
    Name { path: String, reason: &'static str },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("`{folder}` is no OCI image layout: it has no file `oci-layout`")]
    NotLayout { folder: String },
    #[error("the build cache `{reference}` cannot be used: {reason}")]
    Unusable { reference: String, reason: String },
    #[error("`{folder}` {}", unnamed(tags))]
    Unnamed { folder: String, tags: Vec<String> },
    #[error("`{folder}` has no build cache `{tag}`")]
    Tag { folder: String, tag: String, tags: Vec<String> },
}

/// Tags as messages have them: they are whatever somebody wrote into an index.
fn listed(tags: &[String]) -> String {
    const SHOWN: usize = 20;
    const LENGTH: usize = 128;
    let shown = |tag: &String| tag.chars().take(LENGTH).flat_map(char::escape_debug).collect::<String>();
    let mut listed = tags.iter().take(SHOWN).map(shown).collect::<Vec<_>>().join(", ");
    if tags.len() > SHOWN {
        listed.push_str(&format!(", and {} more", tags.len() - SHOWN));
    }
    listed
}

fn unnamed(tags: &[String]) -> String {
    match tags.len() {
        0 => "has no build cache that can be read".to_owned(),
        count => format!("has {count} build caches, and none was named"),
    }
}

impl CacheFolderError {
    /// Whether the command line is wrong.
    pub(in crate::cli) fn is_wrong_value(&self) -> bool {
        matches!(self, Self::Name { .. })
    }

    /// What a user can do about it.
    pub(in crate::cli) fn hint(&self) -> Option<String> {
        let expected =
            "expected what `linkspan cache export` writes, or a folder that `--cache-to type=local,dest=DIR` wrote";
        match self {
            Self::Name { .. } => Some("name a folder, or a file that ends in `.tar`".to_owned()),
            Self::Archive(ArchiveError::Tar { .. }) => {
                Some("the file may be truncated: export the cache again".to_owned())
            }
            Self::Archive(ArchiveError::NotArchive { .. } | ArchiveError::Unrecognised { .. }) => {
                Some(expected.to_owned())
            }
            Self::Archive(error) => error.hint(),
            Self::NotLayout { .. } => {
                Some(format!("{expected}; in an archive, files are at its top: `tar -C DIR -cf FILE .`"))
            }
            Self::Unnamed { tags, .. } | Self::Tag { tags, .. } if tags.is_empty() => Some(expected.to_owned()),
            Self::Unnamed { tags, .. } => Some(format!("name one with --tag: {}", listed(tags))),
            Self::Tag { tags, .. } => Some(format!("it has {}", listed(tags))),
            Self::Full { .. } => Some("free space there, or name a folder or a file on another disk".to_owned()),
            Self::Unusable { .. } => Some("export it again".to_owned()),
            Self::Denied { .. } => Some("name a folder that you may write".to_owned()),
            Self::File { .. } | Self::Absent { .. } => None,
        }
    }
}
