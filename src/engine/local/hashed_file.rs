//! A blob's file, hashed as it grows.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::files::is_full;
use crate::image::{Algorithm, Digest, Hasher};

/// The size of a batch, in bytes. A blocking thread writes one while the next one fills, so at most two and the last chunk
/// are in memory.
pub(crate) const BATCH: usize = if cfg!(test) { 64 << 10 } else { 1 << 20 };

/// A growing file, and the hash of its content.
pub(crate) struct HashedFile {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) hasher: Hasher,
    /// `None` while one batch holds all bytes.
    pub(super) file: Option<Box<dyn DiskFile>>,
    /// The path of the file, even before it is created.
    pub(super) path: PathBuf,
    /// Bytes written and hashed.
    pub(crate) length: u64,
}

impl fmt::Debug for HashedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashedFile").field("path", &self.path).field("length", &self.length).finish_non_exhaustive()
    }
}

impl HashedFile {
    /// Empty; the file at `path` is created when it is needed.
    pub(super) fn new(disk: Arc<dyn Disk>, algorithm: Algorithm, path: PathBuf) -> Self {
        Self { disk, hasher: Hasher::new(algorithm), file: None, path, length: 0 }
    }

    /// Resumes an open file by hashing its content. Blocks.
    pub(super) fn resume(
        disk: Arc<dyn Disk>,
        algorithm: Algorithm,
        path: PathBuf,
        file: Box<dyn DiskFile>,
    ) -> io::Result<Self> {
        let (hasher, length) = hash(file.file(), algorithm)?;
        Ok(Self { disk, hasher, file: Some(file), path, length })
    }

    /// Whether the file has been created.
    pub(crate) fn is_created(&self) -> bool {
        self.file.is_some()
    }

    /// Creates the file.
    pub(super) fn create(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(self.disk.append(&self.path)?);
        }
        Ok(())
    }

    /// The digest of the content and `batch`. Blocks if the content was hashed with another algorithm.
    pub(crate) fn digest(&self, algorithm: Algorithm, batch: &[Bytes]) -> io::Result<Digest> {
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

    /// Appends a batch. Blocks.
    pub(super) fn take(&mut self, batch: Vec<Bytes>) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.create()?;
        let Some(file) = &mut self.file else { return Ok(()) };
        let hasher = &mut self.hasher;
        // Hashed just before the copy, so that the bytes are in the processor's caches.
        let mut hashed = batch.into_iter().inspect(|chunk| hasher.update(chunk));
        self.length += file.extend(self.length, &mut hashed)?;
        Ok(())
    }

    /// Removes the file if the disk is full: no export could resume it, and it would keep others from writing. Blocks.
    pub(super) fn make_room(&self, error: &io::Error) {
        if is_full(error)
            && self.file.is_some()
            && let Err(error) = self.disk.remove(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "it keeps the disk full");
        }
    }

    /// Removes all content. Blocks.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.clear()?;
        }
        self.hasher = Hasher::new(self.hasher.algorithm());
        self.length = 0;
        Ok(())
    }
}

/// The hash of a file, read from its start, and its length.
pub(super) fn hash(file: &std::fs::File, algorithm: Algorithm) -> io::Result<(Hasher, u64)> {
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
