//! Writes the entries of a layer into the folder of its snapshot, as containerd does (`pkg/archive/tar.go`, `applyNaive`).
//!
//! The folder is empty at first and nobody else writes into it, so [`Described`] says which folders and symbolic links there
//! are, and no call asks for them. Whatever would depend on more than that is [`Fault::Unsupported`].

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, write};

use super::super::described::{Described, OPAQUE, WHITEOUT, join, parent};
use super::entry::{Entry, PATH_BYTES, padding};
use super::fault::{Fault, shown};
use super::folders::{Folder, Folders};
use super::pieces::Pieces;
use crate::output::member::Body;

/// overlayfs's mark of a folder that hides what is below it.
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What becomes of whiteouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whiteouts {
    /// overlayfs's own form of them (`pkg/archive/tar_opts_linux.go`, `OverlayConvertWhiteout`).
    Overlay,
    /// They remove files of the same layer: there is no layer below.
    Remove,
}

/// The folder that an entry belongs into, found by the name of that folder in the archive.
struct Parent {
    name: Vec<Vec<u8>>,
    path: Rc<[u8]>,
    folder: Rc<Folder>,
}

/// A layer that is being written.
pub(super) struct Writer<'a> {
    folders: Folders<'a>,
    whiteouts: Whiteouts,
    described: Described,
    /// The times of folders, which are set when nothing changes them any more. The last of each counts.
    times: BTreeMap<Vec<u8>, Timestamps>,
    parent: Option<Parent>,
    umask: u32,
}

impl<'a> Writer<'a> {
    /// Writes into `root`, which is empty. `umask` is that of this process.
    pub(super) fn new(root: &'a OwnedFd, whiteouts: Whiteouts, umask: u32) -> Self {
        let (described, times) = (Described::default(), BTreeMap::new());
        Self { folders: Folders::new(root), whiteouts, described, times, parent: None, umask }
    }

    /// Writes an entry, of which the content is next in `pieces`.
    pub(super) fn write(&mut self, entry: &Entry, pieces: &mut Pieces<'_>) -> Result<(), Fault> {
        let size = if let Body::File { size } = entry.body { size } else { 0 };
        let is_read = self.place(entry, pieces)?;
        if !is_read {
            let mut left = size;
            while left > 0 {
                left -= pieces.take(left)?.len() as u64;
            }
        }
        pieces.skip(padding(size))
    }

    /// Sets the times of the folders. Returns which of them the layer described.
    pub(super) fn finish(mut self) -> Result<Described, Fault> {
        for (path, times) in std::mem::take(&mut self.times) {
            let folder = self.folders.open(parent(&path)).map_err(|error| Fault::from(error).at(&path))?;
            let set = utimensat(&folder.fd, base(&path), &times, AtFlags::SYMLINK_NOFOLLOW);
            set.map_err(|error| Fault::from(error).at(&path))?;
        }
        Ok(self.described)
    }

    /// Makes what an entry describes. Returns whether its content has been read.
    fn place(&mut self, entry: &Entry, pieces: &mut Pieces<'_>) -> Result<bool, Fault> {
        let mut parts = parts(&entry.name)?;
        // The root's own entry does not count.
        let Some(base) = parts.pop() else { return Ok(false) };
        let (around, folder) = self.parent(&parts)?;
        let unsupported = |reason: &str| Fault::unsupported(format!("`{}` {reason}", shown(&entry.name)));
        let mut is_read = false;
        if base.starts_with(WHITEOUT) {
            self.whiteout(entry, &folder, base).map_err(|fault| fault.at(&entry.name))?;
        } else {
            let path = join(&around, base);
            if path.len() > PATH_BYTES {
                return Err(unsupported("lies too deep"));
            }
            is_read = self.make(entry, &folder, &path, base, pieces).map_err(|fault| fault.at(&entry.name))?;
            if matches!(entry.body, Body::Folder) {
                let (atime, mtime) = (timespec(entry.atime), timespec(entry.mtime));
                if !self.times.contains_key(&path) {
                    self.described.charge(path.len()).map_err(unsupported)?;
                }
                self.times.insert(path, Timestamps { last_access: atime, last_modification: mtime });
            }
        }
        self.described.record(&around, base, &entry.body).map_err(unsupported)?;
        Ok(is_read)
    }

    /// The folder of this name, made where it is missing.
    fn parent(&mut self, parts: &[&[u8]]) -> Result<(Rc<[u8]>, Rc<Folder>), Fault> {
        if let Some(last) = &self.parent
            && last.name == parts
        {
            return Ok((last.path.clone(), last.folder.clone()));
        }
        let shown = || shown(&parts.join(&b'/'));
        let unsupported = |reason| Fault::unsupported(format!("the folder `{}`: {reason}", shown()));
        // By more links it is not sure that containerd goes the same way (continuity `fs/path.go`, `RootPath`).
        let path = self.described.resolve(parts.to_vec(), 1).map_err(unsupported)?;
        for missing in self.described.missing(&path) {
            self.implied(missing).map_err(|error| Fault::from(error).at(missing))?;
        }
        self.described.imply(&path).map_err(unsupported)?;
        let folder = self.folders.open(&path).map_err(|error| Fault::from(error).at(&path))?;
        let path: Rc<[u8]> = path.into();
        let name = parts.iter().map(|part| part.to_vec()).collect();
        self.parent = Some(Parent { name, path: path.clone(), folder: folder.clone() });
        Ok((path, folder))
    }

    /// Makes a folder that no entry has described (`mkparent`). What it takes from the layers below comes later.
    fn implied(&mut self, path: &[u8]) -> Result<(), Errno> {
        let around = self.folders.open(parent(path))?;
        mkdirat(&around.fd, base(path), Mode::from_raw_mode(0o755))?;
        chmodat(&around.fd, base(path), Mode::from_raw_mode(0o755), AtFlags::empty())
    }

    fn whiteout(&self, entry: &Entry, folder: &Folder, base: &[u8]) -> Result<(), Fault> {
        if base == OPAQUE {
            return match self.whiteouts {
                Whiteouts::Overlay => Ok(fsetxattr(&folder.fd, OPAQUE_XATTR, b"y", XattrFlags::empty())?),
                Whiteouts::Remove => Err(Fault::unsupported("it empties a folder of its own layer")),
            };
        }
        let name = &base[WHITEOUT.len()..];
        if matches!(name, b"" | b"." | b"..") {
            return Err(Fault::unsupported("it removes no file"));
        }
        if self.whiteouts == Whiteouts::Remove {
            return match statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(()),
                Ok(_) => Err(Fault::unsupported("it removes a file of its own layer")),
                Err(error) => Err(error.into()),
            };
        }
        mknodat(&folder.fd, name, FileType::CharacterDevice, Mode::empty(), 0)?;
        own(entry, folder, name)
    }

    /// Makes anything but a whiteout. Returns whether its content has been read.
    fn make(
        &mut self,
        entry: &Entry,
        folder: &Rc<Folder>,
        path: &[u8],
        base: &[u8],
        pieces: &mut Pieces<'_>,
    ) -> Result<bool, Fault> {
        match &entry.body {
            Body::File { size } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let create = || openat(&folder.fd, base, flags, Mode::from_raw_mode(entry.mode));
                let file = self.instead(folder, path, base, create)?;
                content(&file, *size, pieces)?;
                self.finish_file(entry, folder, &file)?;
                return Ok(true);
            }
            Body::Folder => self.make_folder(entry, folder, path, base)?,
            body => {
                if !entry.xattrs.is_empty() {
                    return Err(Fault::unsupported("it has extended attributes and is neither a file nor a folder"));
                }
                let is_link = self.make_special(body, entry, folder, path, base)?;
                if !is_link {
                    chmodat(&folder.fd, base, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
                }
                utimensat(&folder.fd, base, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(false)
    }

    /// Everything but the content.
    fn finish_file(&self, entry: &Entry, folder: &Folder, file: &OwnedFd) -> Result<(), Fault> {
        let is_other = is_other_owner(entry, folder);
        if is_other {
            fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        }
        set_xattrs(entry, file)?;
        // After the owner, because a change of owner may clear bits of the mode (chown(2)).
        if is_other || entry.mode & (self.umask | 0o7000) != 0 {
            fchmod(file, Mode::from_raw_mode(entry.mode))?;
        }
        Ok(futimens(file, &times(entry))?)
    }

    fn make_folder(&mut self, entry: &Entry, folder: &Folder, path: &[u8], base: &[u8]) -> Result<(), Fault> {
        let mode = Mode::from_raw_mode(entry.mode);
        if self.described.folder(path).is_some() {
            self.folders.forget(path);
            self.parent = None;
            change_owner(entry, folder, base)?;
        } else {
            self.instead(folder, path, base, || mkdirat(&folder.fd, base, mode))?;
            own(entry, folder, base)?;
        }
        if !entry.xattrs.is_empty() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            set_xattrs(entry, &openat(&folder.fd, base, flags, Mode::empty())?)?;
        }
        Ok(chmodat(&folder.fd, base, mode, AtFlags::empty())?)
    }

    /// Makes what is neither file nor folder. Returns whether it is a symbolic link.
    fn make_special(
        &mut self,
        body: &Body,
        entry: &Entry,
        folder: &Folder,
        path: &[u8],
        base: &[u8],
    ) -> Result<bool, Fault> {
        let node = |kind, device| move || mknodat(&folder.fd, base, kind, Mode::from_raw_mode(entry.mode), device);
        match body {
            Body::Symlink { target } => {
                self.instead(folder, path, base, || symlinkat(&target[..], &folder.fd, base))?;
                own(entry, folder, base)?;
                return Ok(true);
            }
            Body::Link { target } => {
                let (around, name) = self.link_target(target)?;
                self.instead(folder, path, base, || linkat(&around.fd, name, &folder.fd, base, AtFlags::empty()))?;
                // A change of owner takes away capabilities, whatever it is changed to (chown(2)).
                change_owner(entry, folder, base)?;
                let stat = statat(&folder.fd, base, AtFlags::SYMLINK_NOFOLLOW)?;
                return Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
            }
            Body::Char { major, minor } => {
                self.instead(folder, path, base, node(FileType::CharacterDevice, makedev(*major, *minor)))?;
            }
            Body::Block { major, minor } => {
                self.instead(folder, path, base, node(FileType::BlockDevice, makedev(*major, *minor)))?;
            }
            Body::Fifo => self.instead(folder, path, base, node(FileType::Fifo, 0))?,
            Body::File { .. } | Body::Folder => return Err(Fault::unsupported("it is made elsewhere")),
        }
        own(entry, folder, base)?;
        Ok(false)
    }

    /// The folder of a hard link's target, and the target's name in it (`hardlinkRootPath`).
    fn link_target<'t>(&mut self, target: &'t [u8]) -> Result<(Rc<Folder>, &'t [u8]), Fault> {
        let name = base(target);
        if matches!(name, b"" | b"." | b"..") {
            return Err(Fault::unsupported("it is a link to no file"));
        }
        let around = self.described.resolve(parts(parent(target))?, 1).map_err(Fault::unsupported)?;
        if around.len() + name.len() >= PATH_BYTES {
            return Err(Fault::unsupported("it is a link to a file that lies too deep"));
        }
        Ok((self.folders.open(&around)?, name))
    }

    /// Makes something, in the place of what is there if need be.
    fn instead<T>(
        &self,
        folder: &Folder,
        path: &[u8],
        base: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Fault> {
        match make() {
            Err(Errno::EXIST) => {}
            made => return Ok(made?),
        }
        // containerd sets the times of folders by their names, and those may lead elsewhere by now.
        if self.described.folder(path).is_some() || self.described.is_link(path) {
            return Err(Fault::unsupported("it replaces a folder or a symbolic link of its own layer"));
        }
        unlinkat(&folder.fd, base, AtFlags::empty())?;
        Ok(make()?)
    }
}

fn content(file: &OwnedFd, size: u64, pieces: &mut Pieces<'_>) -> Result<(), Fault> {
    let mut left = size;
    while left > 0 {
        let mut bytes = pieces.take(left)?;
        left -= bytes.len() as u64;
        while !bytes.is_empty() {
            match write(file, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn set_xattrs(entry: &Entry, of: &OwnedFd) -> Result<(), Fault> {
    for (key, value) in entry.xattrs.iter().filter(|(key, _)| !key.starts_with(b"trusted.")) {
        match fsetxattr(of, &key[..], value, XattrFlags::empty()) {
            // The file system has none; containerd goes on as well.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether what was just made in `folder` may belong to somebody else than it should. Only the group can be inherited.
fn is_other_owner(entry: &Entry, folder: &Folder) -> bool {
    (entry.uid, entry.gid, folder.gid) != (0, 0, 0)
}

/// Gives something that was just made its owner.
fn own(entry: &Entry, folder: &Folder, base: &[u8]) -> Result<(), Fault> {
    if is_other_owner(entry, folder) { change_owner(entry, folder, base) } else { Ok(()) }
}

fn change_owner(entry: &Entry, folder: &Folder, base: &[u8]) -> Result<(), Fault> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    Ok(chownat(&folder.fd, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps { last_access: timespec(entry.atime), last_modification: timespec(entry.mtime) }
}

fn timespec(nanos: u64) -> Timespec {
    let second = 1_000_000_000;
    // Both fit: there are at most 2^63 nanoseconds.
    Timespec { tv_sec: (nanos / second).cast_signed(), tv_nsec: (nanos % second).cast_signed() }
}

/// The parts of a name. What leads upwards is not followed.
fn parts(name: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    let parts: Vec<_> = name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(Fault::unsupported(format!("`{}` leads upwards", shown(name))));
    }
    Ok(parts)
}

fn base(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(path, |at| &path[at + 1..])
}
