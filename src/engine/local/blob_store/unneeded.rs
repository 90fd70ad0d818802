//! Removing the files of blobs that are no longer needed.

use std::collections::HashMap;
use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::disk::DiskFile;
use super::super::files::open_file;
use super::{BlobStore, PendingBlob};
use crate::image::Digest;

/// The time for the last writes of an export that was cancelled because the disk was full.
const LAST_WRITE: Duration = Duration::from_secs(10);

impl BlobStore {
    /// Removes the parts of these blobs, except for those that another process writes. Our own writers were dropped, but
    /// may have a last write under way.
    pub(super) fn clear_parts(&self, digests: &[&Digest]) {
        let end = Instant::now() + LAST_WRITE;
        for path in digests.iter().map(|digest| self.paths.partial(&self.boot, digest)) {
            let Ok(file) = open_file(&path) else { continue };
            // Locked until it is removed, so that no other process resumes it.
            let is_ours = loop {
                match file.try_lock() {
                    Ok(()) => break true,
                    Err(TryLockError::WouldBlock) if Instant::now() < end => sleep(LAST_WRITE / 500),
                    Err(_) => break false,
                }
            };
            if is_ours {
                self.clear(&path);
            }
        }
    }

    pub(super) fn clear(&self, path: &Path) {
        if let Err(error) = self.disk.remove(path) {
            tracing::debug!(%error, path = %path.display(), "left to the collector");
        }
    }
}

/// A file to remove, with its lock if it has one: it stays locked until it is removed.
pub(super) type Unneeded = (PathBuf, Option<Box<dyn DiskFile>>);

/// Removes the entries of blobs that no lease pins and that are not being published. Returns the files to remove: parts
/// only if the disk `is_full`.
pub(super) fn take(pending: &mut HashMap<Digest, PendingBlob>, is_full: bool) -> Vec<Unneeded> {
    let mut unneeded = Vec::new();
    pending.retain(|_, blob| {
        let stays = blob.is_publishing || !blob.leases.is_empty();
        if !stays && (is_full || blob.file.is_none()) {
            unneeded.push((std::mem::take(&mut blob.path), blob.file.take()));
        }
        stays
    });
    unneeded
}
