//! Saved images: an OCI layout in a folder or an archive, or an archive of `docker save`.
//!
//! Of an uncompressed archive in a file only the headers are read first; blobs are then read in place. An archive that can
//! be read only once is copied first (`spool`). Blobs are not verified here: the engine does that.

mod docker;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod layout;
mod members;
mod oci;
mod spool;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::io::BufReader;
use tokio::task::spawn_blocking;

use self::files::{Files, read_at};
use self::members::{BlobLocation, First, Members};
use super::{BlobLookup, Chunks, EqualLayers, Source, SourceError};
use crate::compression::{Compression, decompress_archive};
use crate::image::{Descriptor, Digest, Reference};
use crate::tar::BLOCK;

pub use docker::ManifestFormat;
pub use error::ArchiveError;
pub(crate) use error::system_error;
pub(crate) use layout::LayoutFiles;

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// The read-ahead of a stream.
const BUFFER_BYTES: usize = 64 << 10;

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedImage {
    /// Its root.
    pub root: Descriptor,
    /// Its names in the archive.
    pub names: Vec<Reference>,
    /// Names in the archive that are no image names.
    pub unusable: Vec<String>,
}

/// An archive or a layout folder, as a source.
#[derive(Debug)]
pub struct Archive {
    files: Arc<Files>,
    images: Vec<SavedImage>,
    /// Documents that were generated, because the archive has none.
    made: HashMap<Digest, Bytes>,
    /// Blobs whose name in the archive is not their digest.
    locations: HashMap<Digest, BlobLocation>,
    engine: Option<Arc<dyn BlobLookup>>,
    remark: Option<String>,
}

impl Archive {
    /// Opens a layout folder or an archive file. An archive that is compressed as a whole is decompressed into an unnamed
    /// temporary file, without the blobs that `engine` has. `format` is for images without a manifest of their own.
    ///
    /// # Errors
    /// When it cannot be read, or is invalid.
    pub async fn open(
        path: &Path,
        format: ManifestFormat,
        engine: Option<Arc<dyn BlobLookup>>,
    ) -> Result<Self, ArchiveError> {
        let name = path.display().to_string();
        let failed = |error| ArchiveError::Io { archive: name.clone(), what: "cannot be opened".to_owned(), error };
        let file = open_file(&name, path).await?.map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Self::of(Files::folder(name, path.to_owned()), format, None).await;
        }
        Self::of_file(name, file, format, engine).await
    }

    /// The same for an open file or pipe.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub async fn of_file(
        name: String,
        file: File,
        format: ManifestFormat,
        engine: Option<Arc<dyn BlobLookup>>,
    ) -> Result<Self, ArchiveError> {
        let (files, remark) = open_files(&name, file, engine.as_deref()).await?;
        Ok(Self { remark, ..Self::of(files, format, engine).await? })
    }

    async fn of(
        files: Files,
        format: ManifestFormat,
        engine: Option<Arc<dyn BlobLookup>>,
    ) -> Result<Self, ArchiveError> {
        let name = files.name().to_owned();
        let (mut files, mut described) = Self::describe(&name, files, format, EqualLayers::new()).await?;
        if let Some(engine) = engine.as_ref().filter(|_| !described.uncompressed.is_empty()) {
            let same = engine.equal_layers(&described.uncompressed).await;
            if !same.is_empty() {
                (files, described) = Self::describe(&name, files, format, same).await?;
            }
        }
        let docker::Described { images, made, locations, .. } = described;
        if images.is_empty() {
            return Err(ArchiveError::Unrecognised { archive: name, reason: "its list of images is empty" });
        }
        Ok(Self { files: Arc::new(files), images, made, locations, engine, remark: None })
    }

    async fn describe(
        name: &str,
        files: Files,
        format: ManifestFormat,
        same: EqualLayers,
    ) -> Result<(Files, docker::Described), ArchiveError> {
        let described = move || {
            if let Some(images) = oci::images(&files)? {
                return Ok((files, docker::Described { images, ..docker::Described::default() }));
            }
            let archive = || files.name().to_owned();
            if files.is_folder() {
                let reason = "the folder has no file `oci-layout`";
                return Err(ArchiveError::Unrecognised { archive: archive(), reason });
            }
            match docker::describe(&files, format, &same)? {
                Some(described) => Ok((files, described)),
                None if files.find("repositories", First::Files)?.is_some() => {
                    let reason = "it was saved by a docker older than 1.10, without a `manifest.json`";
                    Err(ArchiveError::Unrecognised { archive: archive(), reason })
                }
                None => {
                    let reason = "it has neither an `oci-layout` nor a `manifest.json`";
                    Err(ArchiveError::Unrecognised { archive: archive(), reason })
                }
            }
        };
        blocking(name, described).await?
    }

    /// Finds a blob; `None` if the archive lacks it.
    async fn location(&self, digest: &Digest) -> Result<Option<BlobLocation>, SourceError> {
        if let Some(location) = self.locations.get(digest) {
            return Ok(Some(location.clone()));
        }
        let (files, digest) = (self.files.clone(), digest.clone());
        let requested = digest.clone();
        let found = spawn_blocking(move || files.blob(&requested).map_err(|error| error.reason())).await;
        let found = found.unwrap_or_else(|error| Err(error.to_string()));
        let name = self.files.name().to_owned();
        found.map_err(|reason| SourceError::Read { name, digest, reason })
    }

    /// A defect that does not keep it from being read.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// Its images, in order; at least one.
    pub fn images(&self) -> &[SavedImage] {
        &self.images
    }
}

/// The files of the archive `name`, and a defect that does not keep it from being read. Those of an uncompressed file are read
/// in place; all others go into an unnamed temporary file, but for the blobs that `engine` has.
async fn open_files(
    name: &str,
    file: File,
    engine: Option<&dyn BlobLookup>,
) -> Result<(Files, Option<String>), ArchiveError> {
    let failed = |error| ArchiveError::Io { archive: name.to_owned(), what: "reading it".to_owned(), error };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() {
        let mut begin = [0; BLOCK];
        let file = Arc::new(file.try_clone().map_err(failed)?);
        let location = BlobLocation::File { file: file.clone(), offset: 0, size: metadata.len() };
        let length = read_at(&location, 0, &mut begin).map_err(failed)?;
        let begin = &begin[..length];
        if begin.is_empty() {
            return Err(ArchiveError::tar(name, begin, String::new()));
        }
        if Compression::of(begin) == Compression::None {
            let members = blocking(name, move || Members::of(&file)).await?;
            let members = members.map_err(|reason| ArchiveError::tar(name, begin, reason))?;
            return Ok((Files::tar(name.to_owned(), members), None));
        }
    }
    let reader = BufReader::with_capacity(BUFFER_BYTES, tokio::fs::File::from_std(file));
    let plain = decompress_archive(reader).await.map_err(failed)?;
    let (members, behind) = spool::spool(name, plain, engine).await?;
    Ok((Files::tar(name.to_owned(), members), behind.map(|error| remark(name, &error))))
}

/// What is said of an archive behind whose end something is wrong.
fn remark(archive: &str, error: &std::io::Error) -> String {
    format!("{archive} is complete, but its checksum, or what follows the end of the archive, is wrong: {error}")
}

/// Opens the file of an archive. A pipe is open only when somebody opens its other end.
async fn open_file(archive: &str, path: &Path) -> Result<std::io::Result<File>, ArchiveError> {
    let path = path.to_owned();
    blocking(archive, move || File::open(path)).await
}

/// Runs blocking `work`.
async fn blocking<T: Send + 'static>(
    archive: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ArchiveError> {
    spawn_blocking(work).await.map_err(|error| ArchiveError::Io {
        archive: archive.to_owned(),
        what: "reading it".to_owned(),
        error: error.into(),
    })
}

#[async_trait]
impl Source for Archive {
    fn name(&self) -> &str {
        self.files.name()
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let (name, digest) = (self.name().to_owned(), blob.digest.clone());
        if let Some(bytes) = self.made.get(&digest) {
            let rest = bytes.slice(usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len())..);
            return Ok(stream::iter([Ok(rest)]).boxed());
        }
        let location = self.location(&digest).await?;
        match (location, &self.engine) {
            (Some(location @ BlobLocation::File { .. }), _) => Ok(chunks(name, digest, location, offset)),
            (Some(BlobLocation::Engine { .. }), Some(engine)) => engine.open(blob, offset).await,
            _ => Err(SourceError::NotFound { name, digest }),
        }
    }
}

#[async_trait]
impl BlobLookup for Archive {
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError> {
        Ok(self.location(digest).await?.as_ref().map(BlobLocation::size))
    }
}

/// The bytes at `location`, from `offset` on.
fn chunks(name: String, digest: Digest, location: BlobLocation, offset: u64) -> Chunks {
    stream::try_unfold((location, offset), move |(location, at)| {
        let (name, digest) = (name.clone(), digest.clone());
        async move {
            let read = spawn_blocking(move || {
                let left = usize::try_from(location.size().saturating_sub(at)).unwrap_or(usize::MAX);
                let mut bytes = vec![0; CHUNK_BYTES.min(left)];
                let read = read_at(&location, at, &mut bytes)?;
                bytes.truncate(read);
                Ok::<_, std::io::Error>((location, bytes))
            });
            let read = read.await.unwrap_or_else(|error| Err(error.into()));
            let (location, bytes) =
                read.map_err(|error| SourceError::Read { name, digest, reason: error.to_string() })?;
            let next = at + bytes.len() as u64;
            Ok((!bytes.is_empty()).then(|| (Bytes::from(bytes), (location, next))))
        }
    })
    .boxed()
}
