//! The right to a path: a lock beside it, and the socket that was bound under it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, chownat, flock, openat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tracing::warn;

/// More than any process id, and the end of its line.
const OWNER_BYTES: u64 = 16;

/// A path that is ours while this lives; dropping it removes what is still ours.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    lock_path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
    bound: Option<FileId>,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Of what is at `path` itself: a symbolic link is not followed.
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::symlink_metadata(path)?))
    }
}

/// Why a path cannot be claimed.
#[derive(Debug)]
pub(super) enum Refused {
    /// Another process has the lock; its id, if it wrote one.
    Locked(Option<u32>),
    /// The system does not let us make the lock.
    System(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Claim {
    /// Locks `path`. The lock goes with the process: one that is killed leaves a file, but no lock.
    pub(super) fn take(path: &Path) -> Result<Self, Refused> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        loop {
            // Not truncated: what it says is its owner's until it is locked.
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
            // Its last owner may have removed the file between our open and our lock; then somebody else can hold a
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

    /// Remembers the socket at the path as the one to remove, and gives it its group and its mode: whatever somebody who
    /// may write in the folder puts at the path meanwhile, it is this file that gets them, and a link is none.
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
            // A file that is open for nothing but to be named has no other way to a mode (open(2), O_PATH).
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
        // Removed while it is locked: `take` knows what to do with a file that it locked too late.
        if let Err(error) = fs::remove_file(&self.lock_path) {
            warn!(path = %self.lock_path.display(), %error, "the lock could not be removed");
        }
    }
}

/// Whether a file can be a lock that a process left. In a folder that others may write in, it could as well be another
/// name of somebody's file, which must keep its contents.
fn is_a_lock(metadata: &fs::Metadata) -> bool {
    metadata.is_file() && metadata.nlink() <= 1 && metadata.len() <= OWNER_BYTES
}

/// The process id in a lock file, for a message.
fn owner(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(OWNER_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
