//! An image as one tar archive: an OCI image layout, with a `manifest.json` for `docker load`.
//!
//! An [`Archive`] is a plan: its size, headers and documents are known before the first blob is read. So the same image and
//! names always give the same bytes, and reading can begin anywhere. No blob is kept in memory.

mod error;
mod frame;
mod layout;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Output;
use crate::image::layout::{INDEX_FILE, MARKER, MARKER_FILE, blob_path};
use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::source::{Chunks, Source, SourceError, read_range};
use crate::tar;

pub use error::ArchiveError;

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout (image-spec `image-layout.md`), of any number of platforms.
    Oci,
    /// An OCI image layout of one platform, and attestations, with a `manifest.json` (moby `image/spec`).
    Docker,
    /// The format of `docker save`: a layout of any number of platforms, with a `manifest.json` that lists the image that fits
    /// this machine best, or the only one. An image without such a platform, or without all layers, is in the layout alone.
    Save,
}

/// An image for an archive.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// The image.
    pub graph: &'a Graph,
    /// Its names; may be empty.
    pub names: &'a [Reference],
}

/// The plan of an archive.
#[derive(Debug)]
pub struct Archive {
    /// The files that are no blobs.
    files: Vec<(&'static str, Bytes)>,
    /// The folders of the blobs, which BuildKit and containerd list as well.
    folders: Vec<String>,
    /// The blobs, each once: documents, then leaves, in the order of their graph.
    blobs: Vec<Descriptor>,
    size: u64,
}

/// A part of an archive.
enum Part {
    Bytes(Bytes),
    Blob(Descriptor),
}

impl Part {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob(blob) => blob.size,
        }
    }
}

impl Archive {
    /// The archive of the image `graph` under `names`, without the blobs `absent`: foreign layers that the source lacks. Each
    /// entry of the index has the annotations of the graph's root.
    ///
    /// # Errors
    /// When the image cannot be written in this format, or the archive would be larger than 8 EiB.
    pub fn new(
        graph: &Graph,
        names: &[Reference],
        format: ArchiveFormat,
        absent: &HashSet<Digest>,
    ) -> Result<Self, ArchiveError> {
        Self::of(&[Saved { graph, names }], format, absent)
    }

    /// The same with several images; a blob that they share is written once.
    ///
    /// # Errors
    /// As [`Archive::new`].
    pub fn of(images: &[Saved<'_>], format: ArchiveFormat, absent: &HashSet<Digest>) -> Result<Self, ArchiveError> {
        let mut seen = HashSet::new();
        let files = frame::files(images, format, absent)?;
        let blobs: Vec<_> = images
            .iter()
            .flat_map(|image| image.graph.descriptors())
            .filter(|blob| !absent.contains(&blob.digest) && seen.insert(&blob.digest))
            // Only digest and size are needed; this is kept in memory while the archive is read.
            .map(|blob| Descriptor::new("", blob.digest.clone(), blob.size))
            .collect();
        Self::made_of(files, blobs)
    }

    /// The archive of a layout that has this index and these blobs, each of which is given once.
    ///
    /// # Errors
    /// When it would be larger than 8 EiB.
    pub(crate) fn layout(index: Vec<u8>, blobs: Vec<Descriptor>) -> Result<Self, ArchiveError> {
        Self::made_of(vec![(MARKER_FILE, MARKER.to_vec()), (INDEX_FILE, index)], blobs)
    }

    fn made_of(files: Vec<(&'static str, Vec<u8>)>, blobs: Vec<Descriptor>) -> Result<Self, ArchiveError> {
        let files: Vec<_> = files.into_iter().map(|(name, content)| (name, Bytes::from(content))).collect();
        let head: usize = files.iter().map(|(name, content)| head(name, content).len()).sum();
        let folders = folders(&blobs);
        let head = head + folders.len() * tar::BLOCK;
        let size = blobs.iter().try_fold((head + tar::END.len()) as u64, |size, blob| {
            let around = tar::member(&blob_path(&blob.digest), blob.size).len() + tar::padding(blob.size);
            size.checked_add(blob.size)?.checked_add(around as u64).filter(|size| i64::try_from(*size).is_ok())
        });
        Ok(Self { files, folders, blobs, size: size.ok_or(ArchiveError::TooLarge)? })
    }

    fn parts(self: Arc<Self>) -> impl Iterator<Item = Part> + Send {
        let mut files: Vec<_> = self.files.iter().map(|(name, content)| Part::Bytes(head(name, content))).collect();
        files.extend(self.folders.iter().map(|name| Part::Bytes(tar::folder(name))));
        let count = self.blobs.len();
        let member = move |at: usize| {
            let blob = self.blobs[at].clone();
            let header = tar::member(&blob_path(&blob.digest), blob.size);
            let padding = Bytes::from_static(&tar::END).slice(..tar::padding(blob.size));
            [Part::Bytes(header), Part::Blob(blob), Part::Bytes(padding)]
        };
        files
            .into_iter()
            .chain((0..count).flat_map(member))
            .chain(std::iter::once(Part::Bytes(Bytes::from_static(&tar::END))))
    }
}

/// The folders of `blobs` with their slashes, outer ones first.
fn folders(blobs: &[Descriptor]) -> Vec<String> {
    let algorithms: BTreeSet<_> = blobs.iter().map(|blob| blob.digest.algorithm().name()).collect();
    let below = algorithms.iter().map(|algorithm| format!("blobs/{algorithm}/"));
    // A layout without blobs has no folders.
    if algorithms.is_empty() { Vec::new() } else { std::iter::once("blobs/".to_owned()).chain(below).collect() }
}

/// A file that is no blob, as a member.
fn head(name: &str, content: &Bytes) -> Bytes {
    let size = content.len() as u64;
    [&tar::member(name, size)[..], content, &tar::END[..tar::padding(size)]].concat().into()
}

impl Output for Archive {
    fn size(&self) -> u64 {
        self.size
    }

    /// Reads the blobs one after the other and does not verify them: the reader of the archive does.
    fn read(self: Arc<Self>, source: Arc<dyn Source>, offset: u64) -> Chunks {
        let mut skip = offset;
        let parts = self.parts().filter_map(move |part| {
            let size = part.size();
            if skip >= size {
                skip -= size;
                return None;
            }
            Some((part, std::mem::take(&mut skip)))
        });
        let open = move |(part, from): (Part, u64)| {
            let source = source.clone();
            async move {
                match part {
                    // Less than the length, which fits into memory.
                    Part::Bytes(bytes) => Ok(stream::iter([Ok(bytes.slice(from as usize..))]).boxed()),
                    Part::Blob(blob) => read_range(&*source, &blob, from..blob.size).await,
                }
            }
        };
        let until_error = |failed: &mut bool, chunk: Result<Bytes, SourceError>| {
            let next = (!*failed).then_some(chunk);
            *failed = next.as_ref().is_none_or(Result::is_err);
            std::future::ready(next)
        };
        stream::iter(parts).then(open).try_flatten().scan(false, until_error).boxed()
    }
}
