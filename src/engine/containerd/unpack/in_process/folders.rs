//! The folders of a layer that are open, so that most entries need no look-up of their path.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Result;

/// How many folders are open at once; an archive goes through them one after the other, mostly.
const OPEN: usize = 64;

/// A folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    /// The group, which folders may hand on to what is made in them.
    pub(super) gid: u32,
}

/// The folders below `root`.
#[derive(Debug)]
pub(super) struct Folders<'a> {
    root: &'a OwnedFd,
    open: HashMap<Vec<u8>, Rc<Folder>>,
}

impl<'a> Folders<'a> {
    pub(super) fn new(root: &'a OwnedFd) -> Self {
        Self { root, open: HashMap::new() }
    }

    /// Opens a folder by its path without a slash at either end. No link is followed.
    pub(super) fn open(&mut self, path: &[u8]) -> Result<Rc<Folder>> {
        if let Some(folder) = self.open.get(path) {
            return Ok(folder.clone());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let name = if path.is_empty() { b".".as_slice() } else { path };
        let fd = openat2(self.root, name, flags, Mode::empty(), resolve)?;
        let folder = Rc::new(Folder { gid: fstat(&fd)?.st_gid, fd });
        if self.open.len() >= OPEN {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), folder.clone());
        Ok(folder)
    }

    /// Forgets what is known of a folder, because its attributes change.
    pub(super) fn forget(&mut self, path: &[u8]) {
        self.open.remove(path);
    }
}
