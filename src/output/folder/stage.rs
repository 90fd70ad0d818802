//! The temporary folder in which an output is made before it gets its name.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, XattrFlags, fgetxattr, flock, fsetxattr, fstat,
    fstatvfs, fsync, mkdirat, openat, openat2, renameat, renameat_with, syncfs,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{Dest, FolderError, STAGE};
use crate::source::archive::system_error;

/// The name of the output in its stage.
const OUTPUT: &str = "output";
/// The extended attribute that names the owner of an output, by which a repeated Commit finds it.
const OWNER: &str = "user.linkspan.output";
/// Longer than any owner.
const OWNER_BYTES: usize = 1024;
/// Folders are opened only as the base of other calls.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A folder of its own for one output; removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    dest: Dest,
    root: OwnedFd,
    /// Locked, so that no other process takes it for a leftover of a crash.
    stage: OwnedFd,
    path: PathBuf,
}

impl Stage {
    /// A stage for `dest`; `None` if `owner` has left its output there already. Blocks, as everything here.
    ///
    /// # Errors
    /// When `dest` exists, or the allowed folder cannot be used.
    pub(crate) fn new(dest: Dest, owner: &str) -> Result<Option<Self>, FolderError> {
        let root = openat(CWD, &dest.root, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())
            .map_err(|error| FolderError::system("opening the allowed folder", &dest.root, error))?;
        if is_taken(&root, &dest, owner)? {
            return Ok(None);
        }
        // The name is random, and an existing folder is not reused.
        let temporary = tempfile::Builder::new().prefix(STAGE).tempdir_in(&dest.root);
        let failed = |error| FolderError::system("writing in", &dest.root, system_error(error));
        let path = temporary.map_err(failed)?.keep();
        let stage = openat(CWD, &path, FOLDER, Mode::empty());
        let stage = stage.map_err(|error| FolderError::system("opening", &path, error))?;
        if !is_ours(&stage) {
            return Err(FolderError::system("opening", &path, Errno::PERM));
        }
        let lock = flock(&stage, FlockOperation::NonBlockingLockExclusive);
        lock.map_err(|error| FolderError::system("locking", &path, error))?;
        Ok(Some(Self { dest, root, stage, path }))
    }

    /// Refuses an output of `bytes` that does not fit on the disk, before it fills it.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), FolderError> {
        // Not every file system reports its free blocks.
        let room = fstatvfs(&self.stage).ok().filter(|found| found.f_blocks > 0);
        match room.map(|found| found.f_bavail.saturating_mul(found.f_frsize)) {
            Some(room) if room < bytes => Err(FolderError::NoSpace { path: self.dest.path() }),
            _ => Ok(()),
        }
    }

    /// Creates the output as a file.
    pub(super) fn file(&self) -> Result<File, FolderError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.stage, OUTPUT, flags, Mode::from_raw_mode(0o644));
        Ok(file.map_err(|error| FolderError::system("writing", self.dest.path(), error))?.into())
    }

    /// Creates the output as a folder.
    pub(super) fn folder(&self) -> Result<OwnedFd, FolderError> {
        let failed = |error| FolderError::system("writing", self.dest.path(), error);
        mkdirat(&self.stage, OUTPUT, Mode::from_raw_mode(0o755)).map_err(failed)?;
        openat(&self.stage, OUTPUT, FOLDER, Mode::empty()).map_err(failed)
    }

    /// The path of the output, for messages.
    pub(super) fn dest(&self) -> PathBuf {
        self.dest.path()
    }

    /// Syncs the output and renames it to its path. Missing parent folders are created.
    ///
    /// # Errors
    /// When the path exists by now, or the system refuses.
    pub(crate) fn commit(self, owner: &str) -> Result<(), FolderError> {
        let path = self.dest.path();
        let failed = |error| FolderError::system("completing", &path, error);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let output = openat(&self.stage, OUTPUT, flags, Mode::empty()).map_err(failed)?;
        match fsetxattr(&output, OWNER, owner.as_bytes(), XattrFlags::empty()) {
            // Without the attribute a repeated Commit is refused, which is safe as well.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(failed(error)),
        }
        // One syncfs for all files of a folder: no name may appear before its content is on disk.
        syncfs(&output).map_err(failed)?;
        let (folders, name) = self.dest.parts.split_at(self.dest.parts.len() - 1);
        let parent = make_folders(&self.root, folders).map_err(failed)?;
        let moved = match renameat_with(&self.stage, OUTPUT, &parent, &name[0], RenameFlags::NOREPLACE) {
            // A plain rename replaces an empty folder by a folder, and nothing else.
            Err(Errno::EXIST) if is_empty_folder(&parent, &name[0]) => renameat(&self.stage, OUTPUT, &parent, &name[0]),
            moved => moved,
        };
        match moved {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => Err(FolderError::Taken { path }),
            Err(error) => Err(failed(error)),
            Ok(()) => fsync(&parent).map_err(failed),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished output is removed at the next start");
        }
    }
}

/// Whether the output of `owner` is at `dest` already; an error if `dest` is anything else.
fn is_taken(root: impl AsFd, dest: &Dest, owner: &str) -> Result<bool, FolderError> {
    let (folders, name) = dest.parts.split_at(dest.parts.len() - 1);
    let failed = |error| FolderError::system("looking at", dest.path(), error);
    let parent = match open_folders(root, folders) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => {
            let (dest, reason) = (dest.path().display().to_string(), "has a parent that is no folder");
            return Err(FolderError::Path { dest, reason });
        }
        Err(error) => return Err(failed(error)),
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let found = match openat(&parent, &name[0], flags, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(false),
        Err(_) => return Err(FolderError::Taken { path: dest.path() }),
    };
    let mut buffer = [0; OWNER_BYTES];
    if let Ok(length) = fgetxattr(&found, OWNER, &mut buffer)
        && buffer.get(..length) == Some(owner.as_bytes())
    {
        return Ok(true);
    }
    if is_empty_folder(&parent, &name[0]) {
        return Ok(false);
    }
    Err(FolderError::Taken { path: dest.path() })
}

fn is_empty_folder(parent: impl AsFd, name: &str) -> bool {
    let Ok(folder) = openat(parent, name, FOLDER, Mode::empty()) else { return false };
    let Ok(mut entries) = rustix::fs::Dir::new(folder) else { return false };
    entries.all(|entry| entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")))
}

/// Opens a folder below `root` without following symbolic links.
pub(super) fn open_folders(root: impl AsFd, parts: &[impl AsRef<Path>]) -> Result<OwnedFd, Errno> {
    let path: PathBuf = std::iter::once(Path::new(".")).chain(parts.iter().map(AsRef::as_ref)).collect();
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path.as_os_str().as_bytes(), FOLDER, Mode::empty(), resolve)
}

fn make_folders(root: impl AsFd, parts: &[String]) -> Result<OwnedFd, Errno> {
    for length in 1..=parts.len() {
        let (above, name) = (open_folders(&root, &parts[..length - 1])?, &parts[length - 1]);
        match mkdirat(above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    open_folders(root, parts)
}

/// Removes the stages in `root` that no process has locked.
pub(super) fn sweep(root: &Path) {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(folder = %root.display(), %error, "outputs cannot be written here");
            return;
        }
    };
    for entry in
        entries.filter_map(Result::ok).filter(|entry| entry.file_name().as_bytes().starts_with(STAGE.as_bytes()))
    {
        let Ok(stage) = openat(CWD, entry.path(), FOLDER, Mode::empty()) else { continue };
        // A folder of another user may have the name by chance, or to make root remove what is mounted in it.
        if !is_ours(&stage) {
            continue;
        }
        if flock(&stage, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match remove(&entry.path()) {
                Ok(()) => tracing::info!(path = %entry.path().display(), "removed an unfinished output"),
                Err(error) => tracing::warn!(path = %entry.path().display(), %error, "an unfinished output stays"),
            }
        }
    }
}

/// Removes a stage. Folders in it may deny access even to their owner.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        outcome => outcome,
    }
}

fn is_ours(folder: impl AsFd) -> bool {
    fstat(folder).is_ok_and(|stat| stat.st_uid == geteuid().as_raw())
}

/// Gives the owner access to every folder.
fn open_up(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // By O_PATH, which a folder without permissions allows, and without following links.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty())?;
    fs::set_permissions(format!("/proc/self/fd/{}", folder.as_raw_fd()), fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
