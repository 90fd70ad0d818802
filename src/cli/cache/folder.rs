//! Folders and archives that caches are imported from. They are read in place, and nothing is written into them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::{CommandError, output};
use super::CacheFolderError;
use super::access::Readable;
use super::target::refuse_stream;
use crate::caches::{CacheError, CopySource};
use crate::engine::cache_versions;
use crate::engine::caches::CacheVersion;
use crate::source::archive::LayoutFiles;

/// A folder, or an archive of one.
#[derive(Debug)]
pub(super) struct CacheFolder(Arc<LayoutFiles>);

impl CacheFolder {
    /// Opens the folder or the archive at `path`.
    pub(super) async fn open(path: &Path) -> Result<Self, CommandError> {
        refuse_stream(path)?;
        let shown = || path.display().to_string();
        fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CacheFolderError::Absent { path: shown() },
            _ => CacheFolderError::File { path: shown(), error },
        })?;
        let files = LayoutFiles::open(path).await.map_err(CacheFolderError::from)?;
        let files = files.ok_or_else(|| CacheFolderError::NotLayout { folder: shown() })?;
        if let Some(remark) = files.remark() {
            output::note(remark);
        }
        Ok(Self(Arc::new(files)))
    }

    /// The versions that it lists, the newest first.
    pub(super) async fn versions(&self) -> Result<Vec<CacheVersion>, CommandError> {
        let found = cache_versions(self.0.index(), &*self.0).await;
        Ok(found.map_err(|reason| CacheFolderError::from(self.0.invalid_index(&reason)))?)
    }

    /// Versions that are to be copied, in the order that is given, and those that cannot be read.
    pub(super) async fn readable(&self, versions: Vec<CacheVersion>) -> Result<Readable, CacheError> {
        let mut readable = Readable::default();
        for version in versions {
            let opened = CopySource::listed_in(self.0.clone(), version.clone()).await;
            readable.add(version, opened)?;
        }
        Ok(readable)
    }
}
