//! The pins of a lease, and the blobs of earlier processes that are found again by them.

use std::collections::HashMap;
use std::fs::{self, TryLockError};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blob_store::BlobStore;
use super::hashed_file::HashedFile;
use super::lease_file::LeaseFile;
use crate::engine::{EngineError, Pin};
use crate::image::Digest;

/// How many parts are remembered that need not be read again.
const MAX_PARTS: usize = 10_000;

/// The pins of one lease.
#[derive(Debug)]
pub(super) struct Pins {
    blobs: Arc<BlobStore>,
    file: LeaseFile,
    export: String,
    /// Parts of blobs that were read and found to be no more than that, with their length then.
    parts: Mutex<HashMap<Digest, u64>>,
}

impl Pins {
    pub(super) fn new(blobs: Arc<BlobStore>, file: LeaseFile, export: String) -> Self {
        Self { blobs, file, export, parts: Mutex::default() }
    }

    /// Pins blobs, whether they are there or not. From then on what is found stays. Blocks.
    pub(super) fn add<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), EngineError> {
        self.file.pin(&self.blobs.paths, digests)
    }

    /// Removes one pin. Blocks.
    pub(super) fn remove(&self, digest: &Digest) -> Result<(), EngineError> {
        self.file.unpin(&self.blobs.paths, digest)
    }

    /// What is pinned, whether it is there or not.
    pub(super) fn all(&self) -> Vec<Digest> {
        self.file.pinned()
    }

    fn failed(&self, error: &io::Error) -> EngineError {
        self.blobs.refused(&self.export, "reading a blob of an earlier process", error)
    }

    fn parts(&self) -> MutexGuard<'_, HashMap<Digest, u64>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins the blobs that are there. What is not gets no line in the lease: clients may ask for anything. Blocks.
    pub(super) fn pin(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        let may_be_there: Vec<bool> = blobs.iter().map(|blob| self.may_be_there(blob)).collect();
        let there = || blobs.iter().zip(&may_be_there);
        self.add(there().filter(|(_, may)| **may).map(|(blob, _)| &blob.digest))?;
        // Once more: from now on what is there stays.
        there().map(|(blob, may)| if *may { self.find(blob) } else { Ok(None) }).collect()
    }

    fn may_be_there(&self, Pin { digest, size }: &Pin) -> bool {
        let part = self.blobs.paths.partial(&self.blobs.boot, digest);
        self.blobs.present(digest, *size).is_some() || part.exists() || self.blobs.is_unsynced(digest)
    }

    /// The size of a blob that is pinned, if it is there. Blocks.
    pub(super) fn find(&self, Pin { digest, size }: &Pin) -> Result<Option<u64>, EngineError> {
        match self.blobs.pin(digest, *size, &self.export) {
            Some(size) => Ok(Some(size)),
            None => match self.adopt_part(digest, *size)? {
                Some(size) => Ok(Some(size)),
                None => self.adopt_unsynced(digest),
            },
        }
    }

    /// A blob that an earlier process of this boot had completed, and not synced when it was killed.
    fn adopt_unsynced(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let Some(path) = self.blobs.take_unsynced(digest).map_err(|error| self.failed(&error))? else {
            return Ok(None);
        };
        let own = self.blobs.unsynced_path(digest)?;
        match self.blobs.disk.rename(&path, &own) {
            // Another process took it, or nobody held it any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            renamed => renamed.map_err(|error| self.failed(&error))?,
        }
        let file = self.blobs.disk.append(&own).map_err(|error| self.failed(&error))?;
        let hashed = HashedFile::resume(digest.algorithm(), own, file).map_err(|error| self.failed(&error))?;
        if hashed.digest(digest.algorithm(), &[]).map_err(|error| self.failed(&error))? != *digest {
            // The process was killed while it wrote the file.
            self.blobs.disk.remove(&hashed.path).map_err(|error| self.failed(&error))?;
            return Ok(None);
        }
        let size = hashed.length;
        self.blobs.complete(digest, hashed, &[], &self.export)?;
        Ok(Some(size))
    }

    /// A large one, which has the name of a part. Most parts are none: one of another length than the blob is not read,
    /// and no part twice as long as it does not grow.
    fn adopt_part(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, EngineError> {
        let path = self.blobs.paths.partial(&self.blobs.boot, digest);
        if self.blobs.boot.is_empty() {
            return Ok(None);
        }
        let Ok(length) = fs::metadata(&path).map(|found| found.len()) else { return Ok(None) };
        let is_known = self.parts().get(digest) == Some(&length);
        if length == 0 || size.is_some_and(|size| size != length) || is_known {
            return Ok(None);
        }
        let file = self.blobs.disk.append(&path).map_err(|error| self.failed(&error))?;
        match file.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(self.failed(&error)),
        }
        let hashed = HashedFile::resume(digest.algorithm(), path, file).map_err(|error| self.failed(&error))?;
        if hashed.length == 0 || hashed.digest(digest.algorithm(), &[]).map_err(|error| self.failed(&error))? != *digest
        {
            let mut parts = self.parts();
            if parts.len() < MAX_PARTS {
                parts.insert(digest.clone(), hashed.length);
            }
            return Ok(None);
        }
        let size = hashed.length;
        self.blobs.complete(digest, hashed, &[], &self.export)?;
        Ok(Some(size))
    }
}
