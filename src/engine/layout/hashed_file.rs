//! A blob's file, hashed as it grows.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;

use super::blob_sink::BATCH;
use super::disk::{Disk, DiskFile};
use super::files::is_full;
use crate::image::{Algorithm, Digest, Hasher};

/// A file that grows, and the hash of its content.
pub(super) struct HashedFile {
    pub(super) hasher: Hasher,
    /// `None` as long as everything came in one batch.
    pub(super) file: Option<Box<dyn DiskFile>>,
    /// Where the file is, or will be once it is needed.
    pub(super) path: PathBuf,
    /// Bytes written and hashed.
    pub(super) length: u64,
}

impl fmt::Debug for HashedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashedFile").field("path", &self.path).field("length", &self.length).finish_non_exhaustive()
    }
}

impl HashedFile {
    /// Nothing yet; a file at `path` is made when it is needed.
    pub(super) fn new(algorithm: Algorithm, path: PathBuf) -> Self {
        Self { hasher: Hasher::new(algorithm), file: None, path, length: 0 }
    }

    /// Goes on with an open file: hashes what it holds. Blocks.
    pub(super) fn resume(algorithm: Algorithm, path: PathBuf, file: Box<dyn DiskFile>) -> std::io::Result<Self> {
        let (hasher, length) = hash(file.file(), algorithm)?;
        Ok(Self { hasher, file: Some(file), path, length })
    }

    /// The digest of what there is. Blocks where the content was hashed by another algorithm.
    pub(super) fn digest(&self, algorithm: Algorithm, batch: &[Bytes]) -> std::io::Result<Digest> {
        let mut hasher = self.hasher.clone();
        if hasher.algorithm() != algorithm {
            hasher = match &self.file {
                Some(file) => hash(file.file(), algorithm)?.0,
                None => Hasher::new(algorithm),
            };
        }
        batch.iter().for_each(|chunk| hasher.update(chunk));
        Ok(hasher.finish())
    }

    /// Takes in a batch. Blocks.
    pub(super) fn take(&mut self, disk: &dyn Disk, batch: Vec<Bytes>) -> std::io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(disk.append(&self.path)?),
        };
        let hasher = &mut self.hasher;
        // Hashed just before it is copied: then it is in the processor's caches.
        let mut hashed = batch.into_iter().inspect(|chunk| hasher.update(chunk));
        self.length += file.extend(self.length, &mut hashed)?;
        Ok(())
    }

    /// Removes the file if what failed is that there is no room: then nobody can go on with it, and it would keep others
    /// from writing anything. Blocks.
    pub(super) fn make_room(&self, disk: &dyn Disk, error: &std::io::Error) {
        if is_full(error)
            && self.file.is_some()
            && let Err(error) = disk.remove(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "it keeps the disk full");
        }
    }

    /// Forgets everything. Blocks.
    pub(super) fn clear(&mut self) -> std::io::Result<()> {
        if let Some(file) = &mut self.file {
            file.clear()?;
        }
        self.hasher = Hasher::new(self.hasher.algorithm());
        self.length = 0;
        Ok(())
    }
}

/// The hash of a file, read from its start, and its length.
pub(super) fn hash(file: &std::fs::File, algorithm: Algorithm) -> std::io::Result<(Hasher, u64)> {
    use std::os::unix::fs::FileExt as _;
    let (mut hasher, mut length, mut buffer) = (Hasher::new(algorithm), 0, vec![0; BATCH]);
    loop {
        match file.read_at(&mut buffer, length)? {
            0 => return Ok((hasher, length)),
            read => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}
