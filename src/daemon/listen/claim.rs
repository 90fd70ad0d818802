//! The exclusive claim to a socket's path: a lock file beside it, and the socket that was bound under the lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, chownat, flock, openat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tracing::warn;

/// The longest content of a lock file: a process id and a line end are shorter.
const OWNER_BYTES: u64 = 16;

/// An exclusive claim to a path; dropping it removes the lock, and the socket if it is still ours.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    lock_path: PathBuf,
    /// The lock is held until this file is closed.
    _lock: File,
    bound: Option<FileId>,
}

/// The identity of a file, independent of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// The identity of the file at `path`; a symbolic link is not followed.
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::symlink_metadata(path)?))
    }
}

/// Why a path cannot be claimed.
#[derive(Debug)]
pub(super) enum Refused {
    /// Another process has the lock; its id, if it wrote one.
    Locked(Option<u32>),
    /// The lock file cannot be created or locked.
    System(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Claim {
    /// Locks `path`. The kernel releases the lock when the process ends: a killed process leaves only the file.
    pub(super) fn take(path: &Path) -> Result<Self, Refused> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        loop {
            // Not truncated: until we hold the lock, the content belongs to its owner.
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let mut lock = options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(&lock_path)?;
            if !is_a_lock(&lock.metadata()?) {
                let what = format!("{} is there, and is no lock of ours; remove it", lock_path.display());
                return Err(Refused::System(io::Error::other(what)));
            }
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Refused::Locked(owner(&mut lock))),
                Err(error) => return Err(Refused::System(error.into())),
            }
            // The last owner may have removed the file between our open and our lock; then another process can hold a
            // lock on a new file of the same name.
            match FileId::at(&lock_path) {
                Ok(id) if id == FileId::of(&lock.metadata()?) => {}
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            }
            lock.set_len(0)?;
            writeln!(lock, "{}", std::process::id())?;
            return Ok(Self { path: path.to_owned(), lock_path, _lock: lock, bound: None });
        }
    }

    /// Records the socket at the path as the one to remove, and sets its group and mode through a descriptor: if
    /// another user who may write in the folder replaces the file, the replacement is not changed. Links are rejected.
    pub(super) fn bound(&mut self, gid: u32, mode: u32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = File::from(openat(CWD, &self.path, flags, Mode::empty())?);
        let found = socket.metadata()?;
        if !found.file_type().is_socket() || found.uid() != geteuid().as_raw() {
            return Err(io::Error::other("somebody has put something else there"));
        }
        self.bound = Some(FileId::of(&found));
        if found.gid() != gid {
            chownat(&socket, "", None, Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        }
        if found.mode() & 0o7777 != mode {
            // fchmod(2) does not work on an O_PATH descriptor (open(2)).
            let itself = format!("/proc/self/fd/{}", socket.as_raw_fd());
            fs::set_permissions(itself, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    fn remove_socket(&self) -> io::Result<()> {
        match FileId::at(&self.path) {
            Ok(id) if Some(id) == self.bound => fs::remove_file(&self.path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.remove_socket() {
            warn!(path = %self.path.display(), %error, "the socket could not be removed");
        }
        // Removed while it is locked: `take` detects that it has locked a removed file, and retries.
        if let Err(error) = fs::remove_file(&self.lock_path) {
            warn!(path = %self.lock_path.display(), %error, "the lock could not be removed");
        }
    }
}

/// Whether a file can be a lock file. In a folder that other users may write in, it could also be a hard link to one of
/// their files, whose contents must not be changed.
fn is_a_lock(metadata: &fs::Metadata) -> bool {
    metadata.is_file() && metadata.nlink() <= 1 && metadata.len() <= OWNER_BYTES
}

/// The process id in a lock file, for a message.
fn owner(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(OWNER_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
