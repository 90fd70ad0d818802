//! Finds the folder in which a builder on this host keeps its blobs.
//!
//! ```text
//! <root>/buildkitd.lock                                      locked by the process (BuildKit `cmd/buildkitd/main.go`)
//! <root>/runc-overlayfs/content/blobs/sha256/<hex>           a blob (`worker/runc/runc.go`)
//! ```
//!
//! The open files of the process show which root is its own, in its own mount namespace. Only a builder that is root in this
//! process's user namespace is taken: it can read every file anyway, so that it cannot use us to read one for it. All the same no
//! link is followed below the root of its file system, and a blob is no mount of something else.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat, stat, statat,
};
use rustix::process::Pid;

use super::super::process::BuilderProcess;
use crate::image::Descriptor;

/// The file that a builder keeps locked in its root.
const LOCK: &str = "buildkitd.lock";

/// How the folder of a worker begins, before its snapshotter.
const WORKER: &[u8] = b"runc-";

/// Where a worker's folder has the blobs of a digest's algorithm.
const BLOBS: &str = "content/blobs";

/// How many open files of the builder, and how many entries of its root, are looked at.
const MAX_ENTRIES: usize = 16_384;

/// The most bytes of `/proc/PID/status`.
const MAX_STATUS: u64 = 64 << 10;

/// Below a folder: no link is followed, no `..` leaves it.
const BELOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A worker's folder `content/blobs`.
#[derive(Debug)]
pub(super) struct BlobFolder(OwnedFd);

impl BlobFolder {
    /// That of the builder which `process` is, or has started.
    ///
    /// # Errors
    /// When it is not certain, or not accessible.
    pub(super) fn of_builder(process: Pid) -> io::Result<Self> {
        let process = BuilderProcess::find(process)?;
        check_is_root(&process)?;
        let root = root(&process)?;
        let mut found = None;
        for entry in Dir::read_from(&root)?.take(MAX_ENTRIES) {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_bytes().starts_with(WORKER) {
                continue;
            }
            let Ok(worker) = openat2(&root, name, FOLDER, Mode::empty(), BELOW) else { continue };
            let Ok(blobs) = openat2(&worker, BLOBS, FOLDER, Mode::empty(), BELOW) else { continue };
            if found.replace(blobs).is_some() {
                return Err(io::Error::other("it has more than one worker"));
            }
        }
        found.map(Self).ok_or_else(|| io::Error::other("it has no worker with files of its own"))
    }

    /// Opens the file of a blob.
    ///
    /// # Errors
    /// When it is not there, or is not a regular file of the blob's size.
    pub(super) fn file(&self, blob: &Descriptor) -> io::Result<File> {
        let path = format!("{}/{}", blob.digest.algorithm().name(), blob.digest.hex());
        // A pipe in its place does not block.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat2(&self.0, path, flags, Mode::empty(), BELOW | ResolveFlags::NO_XDEV)?;
        let Stat { st_mode, st_size, .. } = fstat(&file)?;
        if FileType::from_raw_mode(st_mode) != FileType::RegularFile {
            return Err(io::Error::other("a blob is not a regular file"));
        }
        if u64::try_from(st_size) != Ok(blob.size) {
            return Err(io::Error::other("a blob has another size"));
        }
        Ok(file.into())
    }
}

/// Fails unless the process is root, in the same user namespace as this one.
fn check_is_root(process: &BuilderProcess) -> io::Result<()> {
    let ours = stat("/proc/self/ns/user")?;
    let theirs = statat(process, "ns/user", AtFlags::empty())?;
    if identity(&ours) != identity(&theirs) {
        return Err(io::Error::other("it runs in another user namespace"));
    }
    let mut status = String::new();
    process.open("status")?.take(MAX_STATUS).read_to_string(&mut status)?;
    if is_root(&status) { Ok(()) } else { Err(io::Error::other("it does not run as root")) }
}

/// Whether all user ids of a process are root's, by its `/proc/PID/status`.
fn is_root(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| {
        let mut ids = ids.split_whitespace().peekable();
        ids.peek().is_some() && ids.all(|id| id == "0")
    })
}

/// The root folder of the builder.
fn root(process: &BuilderProcess) -> io::Result<OwnedFd> {
    let files = openat(process, "fd", FOLDER, Mode::empty())?;
    // The root of the process's file system, with its mounts: following this link is what it is for.
    let system = openat(process, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&files)?.take(MAX_ENTRIES) {
        let entry = entry?;
        // A file may be closed meanwhile.
        let Ok(link) = readlinkat(&files, entry.file_name(), Vec::new()) else { continue };
        let Some(folder) = link.to_bytes().strip_suffix(LOCK.as_bytes()) else { continue };
        let Some(folder) = folder.strip_prefix(b"/").and_then(|folder| folder.strip_suffix(b"/")) else { continue };
        let Ok(folder) = openat2(&system, folder, FOLDER, Mode::empty(), BELOW) else { continue };
        let open = statat(&files, entry.file_name(), AtFlags::empty())?;
        if statat(&folder, LOCK, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|lock| identity(&lock) == identity(&open)) {
            return Ok(folder);
        }
    }
    Err(io::Error::other("its root folder is not accessible"))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{CWD, mknodat};
    use tempfile::TempDir;

    use super::*;
    use crate::image::Digest;

    const CONTENT: &[u8] = b"the bytes of a blob";

    fn blob() -> Descriptor {
        Descriptor::new("text/plain", Digest::sha256(CONTENT), CONTENT.len() as u64)
    }

    /// A folder of blobs, and the path of the blob in it.
    fn folder() -> (TempDir, BlobFolder, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sha256");
        fs::create_dir(&path).unwrap();
        let folder = BlobFolder(openat(CWD, dir.path(), FOLDER, Mode::empty()).unwrap());
        let blob = path.join(blob().digest.hex());
        (dir, folder, blob)
    }

    fn refusal(make: impl FnOnce(&Path)) -> String {
        let (_dir, folder, path) = folder();
        make(&path);
        folder.file(&blob()).unwrap_err().to_string()
    }

    #[test]
    fn only_a_file_of_the_blobs_size_is_read() {
        let (_dir, folder, path) = folder();
        fs::write(&path, CONTENT).unwrap();
        let mut read = Vec::new();
        folder.file(&blob()).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, CONTENT);

        assert!(refusal(|_| {}).contains("No such file"));
        assert!(refusal(|path| fs::write(path, b"other").unwrap()).contains("another size"));
        assert!(refusal(|path| fs::create_dir(path).unwrap()).contains("not a regular file"));
        let fifo = |path: &Path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(refusal(fifo).contains("not a regular file"));
    }

    #[test]
    fn no_link_is_followed_to_a_blob() {
        let elsewhere = tempfile::tempdir().unwrap();
        let file = elsewhere.path().join(blob().digest.hex());
        fs::write(&file, CONTENT).unwrap();
        assert!(refusal(|path| symlink(&file, path).unwrap()).contains("symbolic links"));
        let of_folder = |path: &Path| {
            let parent = path.parent().unwrap();
            fs::remove_dir(parent).unwrap();
            symlink(elsewhere.path(), parent).unwrap();
        };
        assert!(refusal(of_folder).contains("symbolic links"));
    }

    #[test]
    fn root_is_all_of_a_processs_ids() {
        assert!(is_root("Name:\tbuildkitd\nUid:\t0\t0\t0\t0\nGid:\t5\t5\t5\t5\n"));
        for status in ["Uid:\t0\t1000\t0\t0\n", "Uid:\t1000\t1000\t1000\t1000\n", "Uid:\n", "Gid:\t0\t0\t0\t0\n", ""] {
            assert!(!is_root(status), "{status}");
        }
    }

    #[test]
    fn a_process_that_is_no_builder_has_no_folder() {
        let error = BlobFolder::of_builder(rustix::process::getpid()).unwrap_err().to_string();
        assert!(error.contains("not buildkitd"), "{error}");
    }
}
