//! An OCI image layout in a folder or an archive whose entries need not be images, such as build caches.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::spawn_blocking;

use super::files::Files;
use super::members::{BlobLocation, First};
use super::{ArchiveError, blocking, chunks, open_file, open_files};
use crate::compression::Compression;
use crate::image::layout::{INDEX_FILE, MARKER_FILE, MAX_INDEX, MAX_MARKER, check_marker};
use crate::image::{Descriptor, Digest};
use crate::source::{BlobLookup, Chunks, Source, SourceError};
use crate::tar::BLOCK;

/// The files of a layout, read in place where that is possible. Nothing is written into a folder.
#[derive(Debug)]
pub(crate) struct LayoutFiles {
    files: Arc<Files>,
    index: Vec<u8>,
    remark: Option<String>,
}

impl LayoutFiles {
    /// Opens the folder or the archive at `path`, which may be compressed. `None` if it is no layout.
    ///
    /// # Errors
    /// When it cannot be read or is cut off.
    pub(crate) async fn open(path: &Path) -> Result<Option<Self>, ArchiveError> {
        let name = path.display().to_string();
        let failed = |error| ArchiveError::Io { archive: name.clone(), what: "cannot be opened".to_owned(), error };
        let file = open_file(&name, path).await?.map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let (files, remark) = if metadata.is_dir() {
            (Files::folder(name.clone(), path.to_owned()), None)
        } else {
            if metadata.is_file() {
                check_end(&name, &file, metadata.len())?;
            }
            open_files(&name, file, None).await?
        };
        let read = move || {
            let Some(marker) = files.read(MARKER_FILE, MAX_MARKER, First::Files)? else { return Ok(None) };
            check_marker(&marker).map_err(|error| files.wrong(MARKER_FILE, error.to_string()))?;
            let index = files.read(INDEX_FILE, MAX_INDEX, First::Files)?;
            let index = index.ok_or_else(|| files.wrong(INDEX_FILE, "is missing".to_owned()))?;
            Ok(Some(Self { files: Arc::new(files), index, remark }))
        };
        blocking(&name, read).await?
    }

    /// The content of its index.
    pub(crate) fn index(&self) -> &[u8] {
        &self.index
    }

    /// A defect that does not keep it from being read.
    pub(crate) fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// The error that its index is invalid.
    pub(crate) fn invalid_index(&self, reason: &str) -> ArchiveError {
        self.files.wrong(INDEX_FILE, format!("is invalid: {reason}"))
    }

    async fn location(&self, digest: &Digest) -> Result<Option<BlobLocation>, SourceError> {
        let (files, requested) = (self.files.clone(), digest.clone());
        let found = spawn_blocking(move || files.blob(&requested).map_err(|error| error.reason())).await;
        let found = found.unwrap_or_else(|error| Err(error.to_string()));
        let name = self.files.name().to_owned();
        found.map_err(|reason| SourceError::Read { name, digest: digest.clone(), reason })
    }
}

#[async_trait]
impl Source for LayoutFiles {
    fn name(&self) -> &str {
        self.files.name()
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let (name, digest) = (self.name().to_owned(), blob.digest.clone());
        match self.location(&digest).await? {
            Some(location) => Ok(chunks(name, digest, location, offset)),
            None => Err(SourceError::NotFound { name, digest }),
        }
    }
}

#[async_trait]
impl BlobLookup for LayoutFiles {
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError> {
        Ok(self.location(digest).await?.as_ref().map(BlobLocation::size))
    }
}

/// Fails unless an uncompressed archive ends as one: of one that was cut off between two files the rest would not be missed.
fn check_end(archive: &str, file: &File, size: u64) -> Result<(), ArchiveError> {
    let failed = |error| ArchiveError::Io { archive: archive.to_owned(), what: "reading it".to_owned(), error };
    let block = |at: u64| {
        let mut block = vec![0; usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK)];
        file.read_exact_at(&mut block, at).map(|()| block)
    };
    let begin = block(0).map_err(failed)?;
    if Compression::of(&begin) != Compression::None {
        return Ok(());
    }
    let end = block(size.saturating_sub(BLOCK as u64)).map_err(failed)?;
    if end.iter().any(|byte| *byte != 0) {
        return Err(ArchiveError::tar(archive, &begin, "its end is missing".to_owned()));
    }
    Ok(())
}
