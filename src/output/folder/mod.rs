//! Outputs in folders of this machine, where an administrator allows them.
//!
//! An output is first made in a stage, a private folder `.linkspan-…` in the allowed folder, and renamed to its path when it
//! is complete. A stage is locked while it is in use; unlocked ones, left by a crash, are removed at the next start.

mod error;
mod left_out;
mod stage;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

pub use error::FolderError;
pub(crate) use left_out::LeftOut;
pub(crate) use stage::Stage;

/// The prefix of the names of stages.
const STAGE: &str = ".linkspan-";
/// The longest path, in bytes (`PATH_MAX` without the final NUL).
const PATH_BYTES: usize = 4095;

/// The folders below which outputs may be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Folders(Vec<PathBuf>);

/// A path below one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dest {
    root: PathBuf,
    /// The parts of the path below the folder; at least one.
    parts: Vec<String>,
}

impl Folders {
    /// Allows `folders`, which must be absolute paths and need not exist yet.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self(folders)
    }

    /// The allowed folders.
    pub fn allowed(&self) -> &[PathBuf] {
        &self.0
    }

    /// Parses `dest`: an absolute path below one of the folders, or a path relative to the first of them.
    ///
    /// # Errors
    /// When no folder is allowed, or the path is not below one.
    pub(crate) fn dest(&self, dest: &str) -> Result<Dest, FolderError> {
        let Some(first) = self.0.first() else { return Err(FolderError::NotAllowed) };
        if dest.is_empty() || dest.len() > PATH_BYTES || dest.contains('\0') {
            return Err(FolderError::Path { dest: dest.chars().take(80).collect(), reason: "is no path" });
        }
        let wrong = |reason| FolderError::Path { dest: dest.to_owned(), reason };
        let path = Path::new(dest);
        let outside = || FolderError::Outside { dest: dest.to_owned(), allowed: self.0.clone() };
        let (root, rest) = if path.is_absolute() {
            let below = self.0.iter().filter_map(|root| Some((root, path.strip_prefix(root).ok()?)));
            below.max_by_key(|(root, _)| root.as_os_str().len()).ok_or_else(outside)?
        } else {
            (first, path)
        };
        let parts: Vec<_> =
            rest.to_str().unwrap_or_default().split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(wrong("has `..` in it"));
        }
        if parts.iter().any(|part| part.starts_with(STAGE)) {
            return Err(wrong("has a part that begins with `.linkspan-`, the prefix of unfinished outputs"));
        }
        if parts.is_empty() {
            return Err(wrong("is the allowed folder itself; expected a name in it"));
        }
        Ok(Dest { root: root.clone(), parts: parts.into_iter().map(str::to_owned).collect() })
    }

    /// Removes unfinished outputs that a crash left. Blocks.
    pub fn sweep(&self) {
        for root in &self.0 {
            stage::sweep(root);
        }
    }
}

impl Dest {
    fn path(&self) -> PathBuf {
        self.parts.iter().fold(self.root.clone(), |path, part| path.join(part))
    }
}
