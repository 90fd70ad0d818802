//! Saved images: an OCI layout in a folder or an archive, or an archive of `docker save`.
//!
//! A file that holds an uncompressed archive is looked through once, by the heads of its members, and then read in
//! place. What can be read only once is kept first (`spool`). Blobs are not verified here: the engine does that.

mod docker;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod members;
mod oci;
mod spool;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncBufRead, BufReader};
use tokio::task::spawn_blocking;

use self::files::{Files, read_at};
use self::members::{First, Members, Place};
use super::{BlobLookup, Chunks, SameLayers, Source, SourceError};
use crate::compression::{Compression, decompress_archive};
use crate::image::{Descriptor, Digest, Reference};
use crate::tar::BLOCK;

pub use docker::ManifestFormat;
pub use error::ArchiveError;

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// What is read ahead of a stream, for its first bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// An image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedImage {
    /// Its root.
    pub root: Descriptor,
    /// What the archive calls it.
    pub names: Vec<Reference>,
    /// What the archive calls it, too, and no engine can.
    pub unusable: Vec<String>,
}

/// Saved images, to be exported.
#[derive(Debug)]
pub struct Archive {
    files: Arc<Files>,
    images: Vec<SavedImage>,
    /// Documents that are not in the archive as such.
    made: HashMap<Digest, Bytes>,
    /// Blobs that are not called by their digest in the archive.
    places: HashMap<Digest, Place>,
    engine: Option<Arc<dyn BlobLookup>>,
    remark: Option<String>,
}

impl Archive {
    /// Opens a layout folder or an archive file. An archive that is compressed as a whole is decompressed into an unnamed
    /// temporary file, without the blobs that `engine` has. `format` is for images without a manifest of their own.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it should be.
    pub async fn open(
        path: &Path,
        format: ManifestFormat,
        engine: Option<Arc<dyn BlobLookup>>,
    ) -> Result<Self, ArchiveError> {
        let name = path.display().to_string();
        let failed = |error| ArchiveError::Io { archive: name.clone(), what: "opening it".to_owned(), error };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Self::of(Files::folder(name, path.to_owned()), format, None).await;
        }
        Self::of_file(name, file, format, engine).await
    }

    /// The same for an archive that is open; it may be a pipe.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub async fn of_file(
        name: String,
        file: File,
        format: ManifestFormat,
        engine: Option<Arc<dyn BlobLookup>>,
    ) -> Result<Self, ArchiveError> {
        let failed = |error| ArchiveError::Io { archive: name.clone(), what: "reading it".to_owned(), error };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let reader = BufReader::with_capacity(BUFFER_BYTES, tokio::fs::File::from_std(file));
            return Self::read(&name, reader, format, engine).await;
        }
        let mut begin = [0; BLOCK];
        let file = Arc::new(file);
        let place = Place::Here { file: file.clone(), offset: 0, size: metadata.len() };
        let length = read_at(&place, 0, &mut begin).map_err(failed)?;
        let begin = &begin[..length];
        if begin.is_empty() {
            return Err(ArchiveError::tar(&name, begin, String::new()));
        }
        if Compression::of(begin) != Compression::None {
            let again = file.try_clone().map_err(failed)?;
            let reader = BufReader::with_capacity(BUFFER_BYTES, tokio::fs::File::from_std(again));
            return Self::read(&name, reader, format, engine).await;
        }
        let members = blocking(&name, move || Members::of(&file)).await?;
        let members = members.map_err(|reason| ArchiveError::tar(&name, begin, reason))?;
        Self::of(Files::tar(name, members), format, engine).await
    }

    /// Reads an archive called `name` from a stream, to its end.
    async fn read(
        name: &str,
        reader: impl AsyncBufRead + Send + Unpin + 'static,
        format: ManifestFormat,
        engine: Option<Arc<dyn BlobLookup>>,
    ) -> Result<Self, ArchiveError> {
        let failed = |error| ArchiveError::Io { archive: name.to_owned(), what: "reading it".to_owned(), error };
        let plain = decompress_archive(reader).await.map_err(failed)?;
        let (members, behind) = spool::spool(name, plain, engine.as_deref()).await?;
        let mut archive = Self::of(Files::tar(name.to_owned(), members), format, engine).await?;
        archive.remark = behind.map(|error| {
            format!(
                "{name} is whole, but what follows the end of the archive, or the checksum there, is wrong: {error}"
            )
        });
        Ok(archive)
    }

    async fn of(
        files: Files,
        format: ManifestFormat,
        engine: Option<Arc<dyn BlobLookup>>,
    ) -> Result<Self, ArchiveError> {
        let name = files.name().to_owned();
        let (mut files, mut described) = Self::describe(&name, files, format, SameLayers::new()).await?;
        if let Some(engine) = engine.as_ref().filter(|_| !described.uncompressed.is_empty()) {
            let same = engine.equal_layers(&described.uncompressed).await;
            if !same.is_empty() {
                (files, described) = Self::describe(&name, files, format, same).await?;
            }
        }
        let docker::Described { images, made, places, .. } = described;
        if images.is_empty() {
            return Err(ArchiveError::Unrecognised { archive: name, reason: "its list of images is empty" });
        }
        Ok(Self { files: Arc::new(files), images, made, places, engine, remark: None })
    }

    async fn describe(
        name: &str,
        files: Files,
        format: ManifestFormat,
        same: SameLayers,
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

    /// Where a blob is; `None` if it is not there.
    async fn place(&self, digest: &Digest) -> Result<Option<Place>, SourceError> {
        if let Some(place) = self.places.get(digest) {
            return Ok(Some(place.clone()));
        }
        let (files, digest) = (self.files.clone(), digest.clone());
        let wanted = digest.clone();
        let found = spawn_blocking(move || files.blob(&wanted).map_err(|error| error.to_string())).await;
        let found = found.unwrap_or_else(|error| Err(error.to_string()));
        let name = self.files.name().to_owned();
        found.map_err(|reason| SourceError::Read { name, digest, reason })
    }

    /// Something about it that is not as it should be, and keeps nobody from reading it.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// Its images, in its order; at least one.
    pub fn images(&self) -> &[SavedImage] {
        &self.images
    }
}

/// Runs what blocks.
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

impl Source for Archive {
    fn name(&self) -> &str {
        self.files.name()
    }

    fn open<'a>(&'a self, blob: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<Chunks, SourceError>> {
        Box::pin(async move {
            let (name, digest) = (self.name().to_owned(), blob.digest.clone());
            if let Some(bytes) = self.made.get(&digest) {
                let rest = bytes.slice(usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len())..);
                return Ok(stream::iter([Ok(rest)]).boxed());
            }
            let place = self.place(&digest).await?;
            match (place, &self.engine) {
                (Some(place @ Place::Here { .. }), _) => Ok(chunks(name, digest, place, offset)),
                (Some(Place::There { .. }), Some(engine)) => engine.open(blob, offset).await,
                _ => Err(SourceError::NotFound { name, digest }),
            }
        })
    }
}

impl BlobLookup for Archive {
    fn blob_size<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>, SourceError>> {
        Box::pin(async move { Ok(self.place(digest).await?.as_ref().map(Place::size)) })
    }
}

/// What `place` holds from `offset` on.
fn chunks(name: String, digest: Digest, place: Place, offset: u64) -> Chunks {
    stream::try_unfold((place, offset), move |(place, at)| {
        let (name, digest) = (name.clone(), digest.clone());
        async move {
            let read = spawn_blocking(move || {
                let left = usize::try_from(place.size().saturating_sub(at)).unwrap_or(usize::MAX);
                let mut bytes = vec![0; CHUNK_BYTES.min(left)];
                let read = read_at(&place, at, &mut bytes)?;
                bytes.truncate(read);
                Ok::<_, std::io::Error>((place, bytes))
            });
            let read = read.await.unwrap_or_else(|error| Err(error.into()));
            let (place, bytes) = read.map_err(|error| SourceError::Read { name, digest, reason: error.to_string() })?;
            let next = at + bytes.len() as u64;
            Ok((!bytes.is_empty()).then(|| (Bytes::from(bytes), (place, next))))
        }
    })
    .boxed()
}
