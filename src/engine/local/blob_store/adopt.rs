//! Blobs that earlier processes of this boot wrote, found by their digests.

use std::collections::HashMap;
use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::hashed_file::HashedFile;
use super::BlobStore;
use crate::engine::{EngineError, Pin};
use crate::image::Digest;

/// How many parts are recorded.
const MAX_PARTS: usize = 10_000;

/// Incomplete parts of blobs that were read, with their lengths at that time: they need not be read again.
#[derive(Debug, Default)]
pub(crate) struct KnownParts(Mutex<HashMap<Digest, u64>>);

impl BlobStore {
    /// Whether [`Self::find`] may find a blob. Blocks.
    pub(crate) fn may_find(&self, Pin { digest, size }: &Pin) -> bool {
        let part = self.paths.partial(&self.boot, digest);
        self.present(digest, *size).is_some() || part.exists() || self.is_unsynced(digest)
    }

    /// The size of a blob that `lease` has pinned, if it is present. Blocks.
    pub(crate) fn find(&self, blob: &Pin, lease: &str, parts: &KnownParts) -> Result<Option<u64>, EngineError> {
        if let Some(size) = self.pin(&blob.digest, blob.size, lease) {
            return Ok(Some(size));
        }
        let failed = |error: io::Error| self.refused(lease, "reading a blob of an earlier process", &error);
        let hashed = match self.open_part(blob, parts).map_err(failed)? {
            Some(part) => part,
            None => match self.take_unsynced(&blob.digest).map_err(failed)? {
                Some(path) => {
                    let own = self.unsynced_path(&blob.digest)?;
                    let Some(hashed) = self.open_unsynced(&path, own, &blob.digest).map_err(failed)? else {
                        return Ok(None);
                    };
                    hashed
                }
                None => return Ok(None),
            },
        };
        let size = hashed.length;
        self.complete(&blob.digest, hashed, &[], lease)?;
        Ok(Some(size))
    }

    /// Opens an unsynced blob of a killed process, renamed to a path of this process.
    fn open_unsynced(&self, path: &Path, own: PathBuf, digest: &Digest) -> io::Result<Option<HashedFile>> {
        match self.disk.rename(path, &own) {
            // Another process took it, or a collector found that no lease pins it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            renamed => renamed?,
        }
        let file = self.disk.append(&own)?;
        let hashed = HashedFile::resume(self.disk.clone(), digest.algorithm(), own, file)?;
        if hashed.digest(digest.algorithm(), &[])? == *digest {
            return Ok(Some(hashed));
        }
        // The process was killed while it wrote the file: it is incomplete.
        self.disk.remove(&hashed.path)?;
        Ok(None)
    }

    /// Opens a complete blob whose file still has the name of a part. Most parts are incomplete: a part is skipped
    /// if its length is not the blob's, or if it has not grown since it was read.
    fn open_part(&self, Pin { digest, size }: &Pin, parts: &KnownParts) -> io::Result<Option<HashedFile>> {
        let path = self.paths.partial(&self.boot, digest);
        if self.boot.is_empty() {
            return Ok(None);
        }
        let Ok(length) = fs::metadata(&path).map(|found| found.len()) else { return Ok(None) };
        let parts = || parts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = parts().get(digest) == Some(&length);
        if length == 0 || size.is_some_and(|size| size != length) || is_known {
            return Ok(None);
        }
        let file = self.disk.append(&path)?;
        match file.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let hashed = HashedFile::resume(self.disk.clone(), digest.algorithm(), path, file)?;
        if hashed.length > 0 && hashed.digest(digest.algorithm(), &[])? == *digest {
            return Ok(Some(hashed));
        }
        let mut parts = parts();
        if parts.len() < MAX_PARTS {
            parts.insert(digest.clone(), hashed.length);
        }
        Ok(None)
    }
}
