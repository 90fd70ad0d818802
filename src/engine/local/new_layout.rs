//! Removing a layout that was made for nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::LayoutIndex;
use super::files::{entries, read_at_most};
use super::init::FolderState;
use super::lock;
use super::paths::LayoutPaths;
use super::process_file::lives;
use crate::engine::EngineError;
use crate::image::layout::MAX_INDEX;

/// A folder that was empty, or did not exist, before a layout was made there.
#[derive(Debug, Clone)]
pub(crate) struct NewLayout {
    paths: LayoutPaths,
    /// The folders that did not exist, the innermost first.
    missing: Vec<PathBuf>,
}

impl NewLayout {
    /// `None` if there is something in the folder at `root`.
    pub(crate) fn at(root: &Path) -> Option<Self> {
        let paths = LayoutPaths::new(root);
        if paths.own().exists() || !matches!(paths.inspect(), Ok(FolderState::Nothing)) {
            return None;
        }
        let folders = root.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let missing = folders.map(Path::to_owned).collect();
        Some(Self { paths, missing })
    }

    /// Removes what was made since, unless something is stored there by now or a process works in it. Returns whether the folder
    /// is as it was. Blocks.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(crate) fn remove(&self) -> Result<bool, EngineError> {
        if self.paths.own().exists() {
            // While this lock is held nobody changes the index.
            let _lock = lock::exclusive(&self.paths)?;
            if self.is_used()? {
                return Ok(false);
            }
            self.remove_files().map_err(|error| self.paths.failed("removing it", &error))?;
        }
        for folder in &self.missing {
            match fs::remove_dir(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Somebody else has put something there.
                Err(_) => break,
            }
        }
        Ok(!self.paths.own().exists())
    }

    /// Whether something is stored, or a process works here.
    fn is_used(&self) -> Result<bool, EngineError> {
        let failed = |error: io::Error| self.paths.failed("looking at the layout", &error);
        let is_empty = match read_at_most(&self.paths.index(), MAX_INDEX) {
            Ok(bytes) => {
                LayoutIndex::parse(&bytes).is_ok_and(|it| it.entries().is_empty() && it.doubts().next().is_none())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(failed(error)),
        };
        let processes = entries(&self.paths.processes()).map_err(failed)?;
        Ok(!is_empty || processes.iter().any(|file| lives(&self.paths, &file.file_name().to_string_lossy())))
    }

    /// Removes the files of the layout: first those that make it one.
    fn remove_files(&self) -> io::Result<()> {
        for file in [self.paths.marker(), self.paths.index()] {
            if let Err(error) = fs::remove_file(file)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        for folder in [self.paths.blobs(), self.paths.own()] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::disk::System;
    use super::super::process_file::ProcessFile;
    use super::*;

    #[test]
    fn only_a_layout_in_which_nothing_is_stored_is_removed_with_the_folders_that_were_made_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/b");
        let make = || LayoutPaths::new(&root).create(&System).unwrap();
        let new = NewLayout::at(&root).unwrap();
        make();
        fs::write(root.join("blobs/sha256/part"), "x").unwrap();
        assert!(NewLayout::at(&root).is_none(), "it is there");
        let process = Arc::new(ProcessFile::new(LayoutPaths::new(&root)));
        process.name().unwrap();
        assert!(!new.remove().unwrap(), "a process works in it");
        drop(process);
        assert!(new.remove().unwrap());
        assert!(!folder.path().join("a").exists());

        fs::create_dir_all(&root).unwrap();
        let new = NewLayout::at(&root).unwrap();
        make();
        assert!(new.remove().unwrap());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "the folder was there before");

        make();
        let digest = crate::image::Digest::sha256(b"x");
        let index =
            format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"a/b","digest":"{digest}","size":1}}]}}"#);
        fs::write(root.join("index.json"), index).unwrap();
        assert!(!new.remove().unwrap(), "something is stored");
        assert!(root.join("oci-layout").exists());
    }
}
