//! The operations that change a disk, behind one trait, so that a test can make each of them fail and compute what a
//! power loss after it would leave.

mod direct;

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use bytes::Bytes;

/// The changes to a layout. Reads bypass this trait.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Creates one folder; succeeds if it exists.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Opens a file for reading, and for writing at its end; creates it if needed.
    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file, replacing a file that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; succeeds if it does not exist.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder; succeeds if it does not exist.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;

    /// Returns when a file's content is on the disk.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Returns when the names in a folder are on the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Returns when everything on the file system of `folder` is on the disk.
    fn sync_all(&self, folder: &Path) -> io::Result<()>;
}

/// An open file.
pub(crate) trait DiskFile: Debug + Send + Sync {
    /// Writes all of `bytes` at the end.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Writes many bytes at the end, which is at offset `at`, and returns how many. They bypass the page cache if
    /// possible and are written to the disk at once, best in pieces that end at multiples of 4 KiB.
    fn extend(&mut self, at: u64, chunks: &mut dyn Iterator<Item = Bytes>) -> io::Result<u64>;

    /// Truncates the file to nothing.
    fn clear(&mut self) -> io::Result<()>;

    /// Returns when the content is on the disk.
    fn sync(&self) -> io::Result<()>;

    /// The file itself, to be read and locked.
    fn file(&self) -> &File;
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct System;

impl Disk for System {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            outcome => outcome,
        }
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        Ok(Box::new(SystemFile { file, is_direct: true }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        absent_is_fine(fs::remove_file(path))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        absent_is_fine(fs::remove_dir(path))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_data()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_all(&self, folder: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(folder)?)?)
    }
}

/// An open file of this machine.
#[derive(Debug)]
struct SystemFile {
    file: File,
    /// Whether its file system supports writes past the page cache, as far as is known.
    is_direct: bool,
}

impl DiskFile for SystemFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn extend(&mut self, at: u64, chunks: &mut dyn Iterator<Item = Bytes>) -> io::Result<u64> {
        direct::append(&mut self.file, at, chunks, &mut self.is_direct)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn file(&self) -> &File {
        &self.file
    }
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
