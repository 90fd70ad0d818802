//! Publishing pending blobs: content synced, then named, then their folder synced.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use super::super::files::is_full;
use super::{BlobStore, PendingBlob, unneeded};
use crate::engine::EngineError;
use crate::image::{Algorithm, Digest};

/// At least this many files are synced by syncing the whole file system instead of each file.
const MANY: usize = 32;

impl BlobStore {
    /// Syncs and names all pending blobs. Blocks; one at a time.
    pub(super) fn publish(&self) -> Result<(), EngineError> {
        let begin = |(digest, pending): (&Digest, &mut PendingBlob)| {
            pending.is_publishing = true;
            (digest.clone(), pending.path.clone())
        };
        let batch: Vec<(Digest, PathBuf)> = self.pending().iter_mut().map(begin).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let named = self.name(&batch);
        if let Err(error) = &named {
            self.keep_pending(&batch, error);
            return Err(self.paths.failed("syncing blobs", error));
        }
        self.verified.named(&self.paths, batch.iter().map(|(digest, _)| digest));
        let mut pending = self.pending();
        for (digest, _) in &batch {
            pending.remove(digest);
        }
        Ok(())
    }

    /// Syncs the blobs of `batch` and gives them their names.
    fn name(&self, batch: &[(Digest, PathBuf)]) -> io::Result<()> {
        // An earlier attempt that failed may have named some of them.
        let unnamed: Vec<_> = batch.iter().filter(|(_, path)| path.exists()).collect();
        if unnamed.len() > MANY {
            self.disk.sync_all(&self.paths.ingest())?;
        } else {
            unnamed.iter().try_for_each(|(_, path)| self.disk.sync_file(path))?;
        }
        let algorithms: HashSet<Algorithm> = batch.iter().map(|(digest, _)| digest.algorithm()).collect();
        for algorithm in &algorithms {
            if !self.paths.blobs_of(*algorithm).is_dir() {
                self.disk.create_folder(&self.paths.blobs_of(*algorithm))?;
                self.disk.sync_folder(&self.paths.blobs())?;
            }
        }
        for (digest, path) in unnamed {
            let blob = self.paths.blob(digest);
            match self.disk.rename(path, &blob) {
                // Only an empty folder is removed: files in it may be needed.
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                    fs::remove_dir(&blob).map_err(|_| {
                        let what = format!("{} is a folder with something in it; remove it", blob.display());
                        io::Error::new(io::ErrorKind::IsADirectory, what)
                    })?;
                    self.disk.rename(path, &blob)?;
                }
                outcome => outcome?,
            }
        }
        algorithms.iter().try_for_each(|algorithm| self.disk.sync_folder(&self.paths.blobs_of(*algorithm)))
    }

    /// After a failure: blobs stay pending, except for those that no lease pins any more.
    fn keep_pending(&self, batch: &[(Digest, PathBuf)], error: &io::Error) {
        let mut starved = BTreeSet::new();
        let mut pending = self.pending();
        for (digest, _) in batch {
            if let Some(blob) = pending.get_mut(digest) {
                blob.is_publishing = false;
                starved.extend(blob.leases.iter().cloned());
            }
        }
        let unneeded = unneeded::take(&mut pending, is_full(error));
        drop(pending);
        if is_full(error) {
            starved.iter().for_each(|lease| self.starve(lease));
        }
        unneeded.iter().for_each(|(path, _)| self.clear(path));
    }
}
