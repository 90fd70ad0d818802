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

use super::super::described::{Described, join, parent};
use super::super::implicit_dirs::OPAQUE_XATTR;
use super::entry::{Entry, PATH_BYTES};
use super::fault::{Fault, shown};
use super::folders::{Folder, Folders};
use super::reader::LayerReader;
use crate::output::member::Body;
use crate::tar::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX, padding};

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

    /// Writes an entry, of which the content is next in `reader`.
    pub(super) fn write(&mut self, entry: &Entry, reader: &mut LayerReader<'_>) -> Result<(), Fault> {
        let size = if let Body::File { size } = entry.body { size } else { 0 };
        let is_read = self.apply_entry(entry, reader)?;
        if !is_read {
            let mut left = size;
            while left > 0 {
                left -= reader.take(left)?.len() as u64;
            }
        }
        reader.skip(padding(size) as u64)
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

    /// Creates what an entry describes, or removes what a whiteout names. Returns whether its content has been read.
    fn apply_entry(&mut self, entry: &Entry, reader: &mut LayerReader<'_>) -> Result<bool, Fault> {
        let mut parts = parts(&entry.name)?;
        // The root's own entry does not count.
        let Some(base) = parts.pop() else { return Ok(false) };
        let (parent_path, folder) = self.parent(&parts)?;
        let unsupported = |reason: &str| Fault::unsupported(format!("`{}` {reason}", shown(&entry.name)));
        let mut is_read = false;
        if base.starts_with(WHITEOUT_PREFIX) {
            self.whiteout(entry, &folder, base).map_err(|fault| fault.at(&entry.name))?;
        } else {
            let path = join(&parent_path, base);
            if path.len() > PATH_BYTES {
                return Err(unsupported("lies too deep"));
            }
            is_read = self.create_entry(entry, &folder, &path, base, reader).map_err(|fault| fault.at(&entry.name))?;
            if matches!(entry.body, Body::Folder) {
                let (atime, mtime) = (timespec(entry.atime), timespec(entry.mtime));
                if !self.times.contains_key(&path) {
                    self.described.charge(path.len()).map_err(unsupported)?;
                }
                self.times.insert(path, Timestamps { last_access: atime, last_modification: mtime });
            }
        }
        self.described.record(&parent_path, base, &entry.body).map_err(unsupported)?;
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
            self.create_implicit(missing).map_err(|error| Fault::from(error).at(missing))?;
        }
        self.described.imply(&path).map_err(unsupported)?;
        let folder = self.folders.open(&path).map_err(|error| Fault::from(error).at(&path))?;
        let path: Rc<[u8]> = path.into();
        let name = parts.iter().map(|part| part.to_vec()).collect();
        self.parent = Some(Parent { name, path: path.clone(), folder: folder.clone() });
        Ok((path, folder))
    }

    /// Creates a folder that no entry has described (`mkparent`). Its attributes are copied from the layers below later.
    fn create_implicit(&mut self, path: &[u8]) -> Result<(), Errno> {
        let parent_folder = self.folders.open(parent(path))?;
        mkdirat(&parent_folder.fd, base(path), Mode::from_raw_mode(0o755))?;
        chmodat(&parent_folder.fd, base(path), Mode::from_raw_mode(0o755), AtFlags::empty())
    }

    fn whiteout(&self, entry: &Entry, folder: &Folder, base: &[u8]) -> Result<(), Fault> {
        if base == OPAQUE_WHITEOUT {
            return match self.whiteouts {
                Whiteouts::Overlay => Ok(fsetxattr(&folder.fd, OPAQUE_XATTR, b"y", XattrFlags::empty())?),
                Whiteouts::Remove => Err(Fault::unsupported("it empties a folder of its own layer")),
            };
        }
        let name = &base[WHITEOUT_PREFIX.len()..];
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
        set_owner(entry, folder, name)
    }

    /// Creates anything but a whiteout. Returns whether its content has been read.
    fn create_entry(
        &mut self,
        entry: &Entry,
        folder: &Rc<Folder>,
        path: &[u8],
        base: &[u8],
        reader: &mut LayerReader<'_>,
    ) -> Result<bool, Fault> {
        match &entry.body {
            Body::File { size } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let create = || openat(&folder.fd, base, flags, Mode::from_raw_mode(entry.mode));
                let file = self.create_or_replace(folder, path, base, create)?;
                content(&file, *size, reader)?;
                self.finish_file(entry, folder, &file)?;
                return Ok(true);
            }
            Body::Folder => self.create_folder(entry, folder, path, base)?,
            body => {
                if !entry.xattrs.is_empty() {
                    return Err(Fault::unsupported("it has extended attributes and is neither a file nor a folder"));
                }
                let is_link = self.create_special(body, entry, folder, path, base)?;
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

    fn create_folder(&mut self, entry: &Entry, folder: &Folder, path: &[u8], base: &[u8]) -> Result<(), Fault> {
        let mode = Mode::from_raw_mode(entry.mode);
        if self.described.folder(path).is_some() {
            self.folders.forget(path);
            self.parent = None;
            chown(entry, folder, base)?;
        } else {
            self.create_or_replace(folder, path, base, || mkdirat(&folder.fd, base, mode))?;
            set_owner(entry, folder, base)?;
        }
        if !entry.xattrs.is_empty() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            set_xattrs(entry, &openat(&folder.fd, base, flags, Mode::empty())?)?;
        }
        Ok(chmodat(&folder.fd, base, mode, AtFlags::empty())?)
    }

    /// Creates what is neither file nor folder. Returns whether it is a symbolic link.
    fn create_special(
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
                self.create_or_replace(folder, path, base, || symlinkat(&target[..], &folder.fd, base))?;
                set_owner(entry, folder, base)?;
                return Ok(true);
            }
            Body::Link { target } => {
                let (target_folder, name) = self.link_target(target)?;
                self.create_or_replace(folder, path, base, || {
                    linkat(&target_folder.fd, name, &folder.fd, base, AtFlags::empty())
                })?;
                // A change of owner takes away capabilities, whatever it is changed to (chown(2)).
                chown(entry, folder, base)?;
                let stat = statat(&folder.fd, base, AtFlags::SYMLINK_NOFOLLOW)?;
                return Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
            }
            Body::Char { major, minor } => {
                self.create_or_replace(folder, path, base, node(FileType::CharacterDevice, makedev(*major, *minor)))?;
            }
            Body::Block { major, minor } => {
                self.create_or_replace(folder, path, base, node(FileType::BlockDevice, makedev(*major, *minor)))?;
            }
            Body::Fifo => self.create_or_replace(folder, path, base, node(FileType::Fifo, 0))?,
            Body::File { .. } | Body::Folder => return Err(Fault::unsupported("it is made elsewhere")),
        }
        set_owner(entry, folder, base)?;
        Ok(false)
    }

    /// The folder of a hard link's target, and the target's name in it (`hardlinkRootPath`).
    fn link_target<'t>(&mut self, target: &'t [u8]) -> Result<(Rc<Folder>, &'t [u8]), Fault> {
        let name = base(target);
        if matches!(name, b"" | b"." | b"..") {
            return Err(Fault::unsupported("it is a link to no file"));
        }
        let parent_path = self.described.resolve(parts(parent(target))?, 1).map_err(Fault::unsupported)?;
        if parent_path.len() + name.len() >= PATH_BYTES {
            return Err(Fault::unsupported("it is a link to a file that lies too deep"));
        }
        Ok((self.folders.open(&parent_path)?, name))
    }

    /// Calls `create`, and once more when what it found in its way is removed.
    fn create_or_replace<T>(
        &self,
        folder: &Folder,
        path: &[u8],
        base: &[u8],
        create: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Fault> {
        match create() {
            Err(Errno::EXIST) => {}
            created => return Ok(created?),
        }
        // containerd sets the times of folders by their names, and those may lead elsewhere by now.
        if self.described.folder(path).is_some() || self.described.is_link(path) {
            return Err(Fault::unsupported("it replaces a folder or a symbolic link of its own layer"));
        }
        unlinkat(&folder.fd, base, AtFlags::empty())?;
        Ok(create()?)
    }
}

fn content(file: &OwnedFd, size: u64, reader: &mut LayerReader<'_>) -> Result<(), Fault> {
    let mut left = size;
    while left > 0 {
        let mut bytes = reader.take(left)?;
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
fn set_owner(entry: &Entry, folder: &Folder, base: &[u8]) -> Result<(), Fault> {
    if is_other_owner(entry, folder) { chown(entry, folder, base) } else { Ok(()) }
}

fn chown(entry: &Entry, folder: &Folder, base: &[u8]) -> Result<(), Fault> {
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
