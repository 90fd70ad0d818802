//! Checking whether a folder is a layout, and making it one.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::disk::Disk;
use super::files::read_at_most;
use super::lock;
use super::paths::LayoutPaths;
use crate::engine::EngineError;
use crate::image::Algorithm;
use crate::image::layout::{EMPTY_INDEX, MARKER, MAX_MARKER, check_marker};

/// The state of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FolderState {
    /// Nothing, or an empty folder, or a layout that was never completed.
    Nothing,
    /// A layout.
    Layout,
}

impl LayoutPaths {
    /// Checks the folder without changing it.
    pub(crate) fn inspect(&self) -> Result<FolderState, EngineError> {
        match fs::metadata(self.root()) {
            Ok(found) if !found.is_dir() => return Err(self.invalid("it is not a folder")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FolderState::Nothing),
            Err(error) => return Err(self.failed("looking at the layout", &error)),
        }
        let marker = match read_at_most(&self.marker(), MAX_MARKER) {
            Ok(marker) => marker,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.inspect_unmarked(),
            Err(error) => return Err(self.failed("reading oci-layout", &error)),
        };
        check_marker(&marker).map_err(|error| self.invalid(format!("its file oci-layout {error}")))?;
        Ok(FolderState::Layout)
    }

    /// Fails if this process may not write the layout, or make it. `access` says whether it may write in a folder.
    pub(crate) fn check_writable(&self, access: impl Fn(&Path) -> io::Result<()>) -> Result<(), EngineError> {
        let own = self.own();
        let there = own.ancestors().find(|folder| folder.is_dir());
        there.map_or(Ok(()), access).map_err(|error| self.failed("writing it", &error))
    }

    /// A folder without `oci-layout`: not ours, unless it is empty or contains our own folder.
    fn inspect_unmarked(&self) -> Result<FolderState, EngineError> {
        let mut entries = fs::read_dir(self.root()).map_err(|error| self.failed("looking at the layout", &error))?;
        // In this order: a process that creates a layout at this moment creates our own folder first.
        if entries.next().is_none() || self.own().is_dir() {
            return Ok(FolderState::Nothing);
        }
        Err(self.invalid(
            "it is no OCI image layout (it has no file oci-layout) and not empty; name a layout or a new folder",
        ))
    }

    /// Takes other users' permissions from a layout that is for this user alone.
    ///
    /// # Errors
    /// When it belongs to another user, and more than that one may change it.
    fn close_to_others(&self) -> Result<(), EngineError> {
        if !self.is_private() {
            return Ok(());
        }
        let found = fs::metadata(self.root()).map_err(|error| self.failed("looking at it", &error))?;
        if found.uid() == rustix::process::geteuid().as_raw() {
            if found.mode() & 0o077 == 0 {
                return Ok(());
            }
            let closed = fs::set_permissions(self.root(), fs::Permissions::from_mode(0o700));
            return closed.map_err(|error| self.failed("taking other users' permissions from it", &error));
        }
        if found.mode() & 0o022 == 0 {
            return Ok(());
        }
        Err(self.invalid(format!(
            "it belongs to the user {}, and others may change what is in it (mode {:03o}): expected a folder of this user's, or one \
             that only its owner may write; name another one, or `chmod go-w` it",
            found.uid(),
            found.mode() & 0o777
        )))
    }

    /// [`close_to_others`](Self::close_to_others), where we have used it before.
    pub(crate) fn close_if_used(&self) -> Result<(), EngineError> {
        if self.own().is_dir() { self.close_to_others() } else { Ok(()) }
    }

    /// Makes the folder a layout. Our own folder is created first: it marks a layout that is not complete yet.
    pub(crate) fn create(&self, disk: &dyn Disk) -> Result<(), EngineError> {
        let found = self.inspect()?;
        let making = |error: io::Error| self.failed("making the layout", &error);
        if found == FolderState::Nothing {
            let mut missing: Vec<_> = self
                .root()
                .ancestors()
                .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
                .collect();
            while let Some(folder) = missing.pop() {
                disk.create_folder(folder).map_err(making)?;
            }
        }
        // Nothing is in a new one yet.
        self.close_to_others()?;
        let sha256 = self.blobs_of(Algorithm::Sha256);
        let own = [self.own(), self.leases(), self.uploads(), self.processes(), self.ingest(), self.blobs(), sha256];
        for folder in own {
            if !folder.is_dir() {
                disk.create_folder(&folder).map_err(making)?;
            }
        }
        if found == FolderState::Nothing { self.complete(disk) } else { Ok(()) }
    }

    /// Writes the files that make a folder a layout. Another process may have done so meanwhile, and added an image.
    fn complete(&self, disk: &dyn Disk) -> Result<(), EngineError> {
        let _lock = lock::exclusive(self)?;
        if self.inspect()? == FolderState::Layout {
            return Ok(());
        }
        let making = |error: io::Error| self.failed("making the layout", &error);
        disk.sync_folder(&self.blobs()).map_err(making)?;
        if !self.index().exists() {
            self.put(disk, &self.index(), EMPTY_INDEX).map_err(making)?;
        }
        self.put(disk, &self.marker(), MARKER).map_err(making)?;
        if let Some(parent) = self.root().parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_folder(parent).map_err(making)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_may_not_be_written_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let denied = |_: &Path| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let layout = LayoutPaths::new(&folder.path().join("a/b"));
        let error = layout.check_writable(denied).unwrap_err();
        let expected = format!("layout {}: writing it: permission denied", layout.root().display());
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().unwrap().starts_with("name a folder of yours with --layout"));

        // What is asked is where the first new folder would be made.
        let asked = std::cell::RefCell::new(Vec::new());
        let allowed = |folder: &Path| {
            asked.borrow_mut().push(folder.to_owned());
            Ok(())
        };
        layout.check_writable(allowed).unwrap();
        std::fs::create_dir_all(layout.own()).unwrap();
        layout.check_writable(allowed).unwrap();
        assert_eq!(*asked.borrow(), [folder.path().to_owned(), layout.own()]);
    }
}
