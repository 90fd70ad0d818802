//! Writes an output into its stage: a stream of bytes as a file, members as a tree of files.
//!
//! Members are not trusted: each is created under a new name in a folder that was opened without following symbolic links,
//! and gets its owner and mode afterwards.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, linkat, lsetxattr,
    makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::stage::open_folders;
use super::{FolderError, LeftOut, Stage};
use crate::output::items::{Item, Items};
use crate::output::member::{Body, Member, Meta};
use crate::source::{Chunks, SourceError};

/// How many chunks are buffered for the disk: a few MiB at most.
const BACKLOG: usize = 8;

impl Stage {
    /// Writes `chunks` into a file.
    ///
    /// # Errors
    /// When the stream or the disk fails, or when `cancel` is cancelled.
    pub(crate) async fn write_file(self, chunks: Chunks, cancel: &CancellationToken) -> Result<Self, FolderError> {
        let written = self.write(chunks, cancel, |stage, mut chunks| {
            let mut file = stage.file()?;
            while let Some(chunk) = chunks.blocking_recv() {
                file.write_all(&chunk).map_err(|error| FolderError::system("writing", stage.dest(), error))?;
            }
            Ok(())
        });
        Ok(written.await?.0)
    }

    /// Creates `items` in a folder. Extended attributes that the system refuses are left out, and returned.
    ///
    /// # Errors
    /// As [`Stage::write_file`].
    pub(crate) async fn write_folder(
        self,
        items: Items,
        cancel: &CancellationToken,
    ) -> Result<(Self, LeftOut), FolderError> {
        self.write(items, cancel, |stage, mut items| {
            let mut tree = Tree::new(stage.folder()?, stage.dest());
            while let Some(item) = items.blocking_recv() {
                match item {
                    Item::Member(member) => tree.make(member)?,
                    Item::Data(data) => tree.data(&data)?,
                }
            }
            tree.finish()
        })
        .await
    }

    /// Feeds a blocking `writer` from a stream.
    async fn write<T: Send + 'static, W: Send + 'static>(
        self,
        mut stream: impl Stream<Item = Result<T, SourceError>> + Unpin,
        cancel: &CancellationToken,
        writer: impl FnOnce(&Self, mpsc::Receiver<T>) -> Result<W, FolderError> + Send + 'static,
    ) -> Result<(Self, W), FolderError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let writing = tokio::task::spawn_blocking(move || writer(&self, receiver).map(|result| (self, result)));
        let feeding = async {
            while let Some(next) = stream.next().await {
                // The writer has failed, and returns why.
                if sender.send(next?).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let fed = cancel.run_until_cancelled(feeding).await.unwrap_or(Err(FolderError::Cancelled));
        drop(sender);
        // Always awaited, because the stage is removed with it.
        let written =
            writing.await.map_err(|error| FolderError::system("writing", "", std::io::Error::other(error)))?;
        match (fed, written) {
            (Err(error), Ok(stage)) => {
                // Removed on this thread and not on one of the runtime's: it may have many files.
                let _ = tokio::task::spawn_blocking(move || drop(stage)).await;
                Err(error)
            }
            (_, written) => written,
        }
    }
}

/// A tree of files that is being created.
struct Tree {
    root: OwnedFd,
    dest: PathBuf,
    /// The folder of the last member; most members share it with the one before.
    parent: Option<(PathBuf, OwnedFd)>,
    file: Option<(File, Member)>,
    /// Metadata of folders, set at the end: it may deny access, and every new entry changes a folder's time.
    folders: Vec<Member>,
    /// Only root can change owners. Otherwise files belong to this user, as with BuildKit's client.
    is_root: bool,
    left_out: LeftOut,
}

impl Tree {
    fn new(root: OwnedFd, dest: PathBuf) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self { root, dest, parent: None, file: None, folders: Vec::new(), is_root, left_out: LeftOut::default() }
    }

    fn make(&mut self, member: Member) -> Result<(), FolderError> {
        self.close()?;
        let path = Path::new(OsStr::from_bytes(&member.path)).to_owned();
        self.try_make(&path, member).map_err(|error| self.failed(&path, error))
    }

    fn try_make(&mut self, path: &Path, member: Member) -> Result<(), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        self.enter(path.parent().unwrap_or(Path::new("")))?;
        let Some((_, parent)) = &self.parent else { return Err(Errno::BADF) };
        let private = Mode::from_raw_mode(0o600);
        match &member.body {
            Body::Folder => {
                mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
                self.folders.push(member);
                return Ok(());
            }
            Body::File { .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.file = Some((openat(parent, name, flags, private)?.into(), member));
                return Ok(());
            }
            Body::Link { target } => {
                let target = Path::new(OsStr::from_bytes(target));
                let to = target.file_name().ok_or(Errno::INVAL)?;
                let folder = open_folders(&self.root, &[target.parent().unwrap_or(Path::new(""))])?;
                // The linked file has its metadata already.
                return linkat(folder, to, parent, name, AtFlags::empty());
            }
            Body::Symlink { target } => symlinkat(OsStr::from_bytes(target), parent, name)?,
            Body::Fifo => mknodat(parent, name, FileType::Fifo, private, 0)?,
            Body::Char { major, minor } => {
                mknodat(parent, name, FileType::CharacterDevice, private, makedev(*major, *minor))?;
            }
            Body::Block { major, minor } => {
                mknodat(parent, name, FileType::BlockDevice, private, makedev(*major, *minor))?;
            }
        }
        let is_link = matches!(member.body, Body::Symlink { .. });
        describe(parent, name, &member.meta, is_link, self.is_root)?
            .into_iter()
            .for_each(|key| self.left_out.add(key, path));
        Ok(())
    }

    fn data(&mut self, data: &Bytes) -> Result<(), FolderError> {
        match &mut self.file {
            Some((file, member)) => {
                let path = self.dest.join(OsStr::from_bytes(&member.path));
                file.write_all(data).map_err(|error| FolderError::system("writing", path, error))
            }
            None => Err(self.failed(Path::new(""), Errno::INVAL)),
        }
    }

    /// Closes the current file.
    fn close(&mut self) -> Result<(), FolderError> {
        let Some((file, member)) = self.file.take() else { return Ok(()) };
        drop(file);
        let path = Path::new(OsStr::from_bytes(&member.path));
        self.describe(path, &member.meta).map_err(|error| self.failed(path, error))
    }

    fn finish(mut self) -> Result<LeftOut, FolderError> {
        self.close()?;
        // Entries of a folder before the folder itself.
        for member in std::mem::take(&mut self.folders).into_iter().rev() {
            let path = Path::new(OsStr::from_bytes(&member.path));
            self.describe(path, &member.meta).map_err(|error| self.failed(path, error))?;
        }
        Ok(self.left_out)
    }

    fn describe(&mut self, path: &Path, meta: &Meta) -> Result<(), Errno> {
        self.enter(path.parent().unwrap_or(Path::new("")))?;
        let Some((_, parent)) = &self.parent else { return Err(Errno::BADF) };
        let left_out = describe(parent, path.file_name().ok_or(Errno::INVAL)?, meta, false, self.is_root)?;
        left_out.into_iter().for_each(|key| self.left_out.add(key, path));
        Ok(())
    }

    /// Opens the folder of a new member.
    fn enter(&mut self, folder: &Path) -> Result<(), Errno> {
        if self.parent.as_ref().is_none_or(|(open, _)| open != folder) {
            self.parent = Some((folder.to_owned(), open_folders(&self.root, &[folder])?));
        }
        Ok(())
    }

    fn failed(&self, path: &Path, error: Errno) -> FolderError {
        FolderError::system("making", self.dest.join(path), error)
    }
}

/// Sets owner, attributes, mode and time of `name`, in this order: a change of the owner clears set-user-ID bits and
/// capabilities. Returns the attributes that were left out.
fn describe<'a>(
    parent: impl AsFd,
    name: &OsStr,
    meta: &'a Meta,
    is_link: bool,
    is_root: bool,
) -> Result<Vec<&'a str>, Errno> {
    let (parent, mut left_out) = (parent.as_fd(), Vec::new());
    if is_root {
        let (owner, group) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        chownat(parent, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for (key, value) in meta.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        // There is no `setxattrat` to use here: /proc leads to the file.
        let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
        match lsetxattr(&path, &**key, value, XattrFlags::empty()) {
            Ok(()) => {}
            // The file system does not support it, or this user may not set it (capabilities need root). BuildKit's client
            // leaves out every attribute that cannot be set (fsutil `diskwriter_unix.go`).
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::TOOBIG | Errno::RANGE)
            // ENOSPC of setxattr(2) means no room beside the inode: ext4 returns it for more than a block although the disk
            // has room. A full disk fails the files themselves.
            | Err(Errno::NOSPC | Errno::DQUOT) => left_out.push(&**key),
            Err(error) => return Err(error),
        }
    }
    if !is_link {
        // Only we create names here, so this is the new member.
        chmodat(parent, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
    }
    let time =
        Timespec { tv_sec: i64::try_from(meta.mtime.seconds).unwrap_or(i64::MAX), tv_nsec: meta.mtime.nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(left_out)
}
