//! Files in a folder of another user: `sudo linkspan setup` changes files of the user who called it.
//!
//! The owner of a folder can put links, pipes and other users' files into it at any moment. So names are looked up relative to
//! an open folder; a new file gets a random, unused name, is given to the folder's owner, and is then renamed over the old
//! one; a link is followed once, and only to a folder of the same owner; and only regular files are opened.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fchmod, fchown, fstat, fsync, mkdirat, openat,
    openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::plain_file;

/// Does not block on a pipe, and does not follow links.
const PLAIN: OFlags = OFlags::NONBLOCK.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// The mode of private files.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// The mode of folders.
const OPEN: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);
/// How many random names are tried.
const TRIES: usize = 64;

/// A folder and its owner.
#[derive(Debug)]
pub(crate) struct OwnedFolder {
    folder: OwnedFd,
    path: PathBuf,
    uid: Uid,
    gid: Gid,
}

impl OwnedFolder {
    /// Opens the folder at `path`, following links.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::of(openat(CWD, path, FOLDER, Mode::empty())?, path.to_owned())
    }

    fn of(folder: OwnedFd, path: PathBuf) -> io::Result<Self> {
        let stat = fstat(&folder)?;
        Ok(Self { folder, path, uid: uid(&stat), gid: gid(&stat) })
    }

    /// Opens its folder `name`.
    pub(crate) fn subfolder(&self, name: &str) -> io::Result<Self> {
        let path = self.path.join(name);
        let found = match openat(&self.folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::LOOP | Errno::NOTDIR) if self.is_link(name.as_ref())? => {
                let (folder, name) = self.behind_link(name.as_ref())?;
                openat(&folder.folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?
            }
            found => found?,
        };
        Self::of(found, path)
    }

    /// Opens its folder `name`, and creates it if it is absent.
    pub(crate) fn make_subfolder(&self, name: &str) -> io::Result<Self> {
        match mkdirat(&self.folder, name, OPEN) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let mut made = self.subfolder(name)?;
        // New, or left by a Linkspan before it changed the owner; a non-empty one is neither.
        let is_open = Mode::from_raw_mode(fstat(&made.folder)?.st_mode).contains(OPEN);
        if made.uid != self.uid && made.uid == geteuid() && is_open {
            fchown(&made.folder, Some(self.uid), Some(self.gid))?;
            (made.uid, made.gid) = (self.uid, self.gid);
        }
        Ok(made)
    }

    /// Reads the regular file `name`, up to `limit` bytes.
    pub(crate) fn read(&self, name: &OsStr, limit: u64) -> io::Result<Vec<u8>> {
        let file = match openat(&self.folder, name, PLAIN | OFlags::RDONLY, Mode::empty()) {
            Err(Errno::LOOP) => {
                let (folder, name) = self.behind_link(name)?;
                openat(&folder.folder, name, PLAIN | OFlags::RDONLY, Mode::empty())?
            }
            file => file?,
        };
        plain_file::read_opened(file, limit)
    }

    /// Opens the empty file `name`, and creates it if it is absent.
    pub(crate) fn lock_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = PLAIN | OFlags::RDWR;
        for _ in 0..TRIES {
            match openat(&self.folder, name, flags | OFlags::CREATE | OFlags::EXCL, PRIVATE) {
                Ok(file) => {
                    change_owner(&file, self.uid, self.gid)?;
                    return Ok(file.into());
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            match openat(&self.folder, name, flags, Mode::empty()) {
                Ok(file) => {
                    let stat = plain(fstat(&file)?)?;
                    // Left by a Linkspan before it changed the owner, so that the folder's owner cannot open it.
                    if uid(&stat) == geteuid() && uid(&stat) != self.uid && stat.st_nlink == 1 && stat.st_size == 0 {
                        fchown(&file, Some(self.uid), Some(self.gid))?;
                    }
                    return Ok(file.into());
                }
                Err(Errno::LOOP) => {
                    let (folder, name) = self.behind_link(name)?;
                    let file = openat(&folder.folder, name, flags, Mode::empty())?;
                    plain(fstat(&file)?)?;
                    return Ok(file.into());
                }
                // It was removed in between.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("it is created and removed again and again"))
    }

    /// Atomically replaces the contents of `name` by `text`. The new file is made in `scratch`, and belongs to the owner of the
    /// old one; without an old one, to the folder's owner.
    pub(crate) fn replace(&self, name: &OsStr, text: &[u8], scratch: &Self) -> io::Result<()> {
        if self.is_link(name)? {
            let (folder, name) = self.behind_link(name)?;
            return folder.replace_plain(&name, text, &folder);
        }
        self.replace_plain(name, text, scratch)
    }

    fn replace_plain(&self, name: &OsStr, text: &[u8], scratch: &Self) -> io::Result<()> {
        let (mode, uid, gid) = match statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let stat = plain(stat)?;
                (Mode::from_raw_mode(stat.st_mode & 0o777), uid(&stat), gid(&stat))
            }
            Err(Errno::NOENT) => (PRIVATE, self.uid, self.gid),
            Err(error) => return Err(error.into()),
        };
        let (mut file, temporary) = scratch.new_file()?;
        let written = (|| {
            change_owner(&file, uid, gid)?;
            fchmod(&file, mode)?;
            file.write_all(text)?;
            file.sync_all()
        })();
        let moved = written.and_then(|()| Ok(renameat(&scratch.folder, &temporary, &self.folder, name)?));
        if let Err(error) = moved {
            // At worst it does not exist.
            let _ = unlinkat(&scratch.folder, &temporary, AtFlags::empty());
            // The folder is on another file system.
            if Errno::from_io_error(&error) == Some(Errno::XDEV) && scratch.path != self.path {
                return self.replace_plain(name, text, self);
            }
            return Err(error);
        }
        Ok(fsync(&self.folder)?)
    }

    /// Removes `name`, which may be absent.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a new file, and returns it with its name.
    fn new_file(&self) -> io::Result<(File, OsString)> {
        let flags = PLAIN | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        for _ in 0..TRIES {
            // Each `RandomState` has other keys.
            let name = OsString::from(format!(".linkspan-{:016x}", RandomState::new().hash_one(())));
            match openat(&self.folder, &name, flags, PRIVATE) {
                Ok(file) => return Ok((file.into(), name)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("every name for a new file is taken"))
    }

    fn is_link(&self, name: &OsStr) -> io::Result<bool> {
        match statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Resolves the link `name` to a name in a folder, which is opened without following further links.
    fn behind_link(&self, name: &OsStr) -> io::Result<(Self, OsString)> {
        let path = fs::canonicalize(self.path.join(name))?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other("it is a link to the root folder"));
        };
        let folder = Self::of(openat2(CWD, parent, FOLDER, Mode::empty(), ResolveFlags::NO_SYMLINKS)?, parent.into())?;
        // A user's link must not make root change files that the user could not change.
        if self.uid != geteuid() && folder.uid != self.uid {
            let (path, owner) = (path.display(), folder.uid);
            return Err(io::Error::other(format!(
                "it is a link to {path}, in a folder of user {owner} and not of user {}, whose link it is",
                self.uid
            )));
        }
        Ok((folder, name.to_owned()))
    }
}

fn plain(stat: Stat) -> io::Result<Stat> {
    plain_file::check(&stat)?;
    Ok(stat)
}

/// Changes the owner of `file`, which is ours.
fn change_owner(file: &impl std::os::fd::AsFd, to: Uid, group: Gid) -> io::Result<()> {
    let made = fstat(file)?;
    if (uid(&made), gid(&made)) == (to, group) {
        return Ok(());
    }
    match fchown(file, Some(to), Some(group)) {
        // Its owner may not set this group.
        Err(Errno::PERM) if uid(&made) == to => Ok(()),
        outcome => Ok(outcome?),
    }
}

fn uid(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn gid(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}
