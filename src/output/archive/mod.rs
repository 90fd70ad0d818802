//! An image as one tar archive: an OCI image layout, and beside it what `docker load` has always read.
//!
//! An [`Archive`] is a plan: its size and every byte of its frame are known before the first blob is read, the same
//! image and names always make the same bytes, and reading can begin anywhere in it. No blob is kept in memory.

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
use crate::image::layout::blob_path;
use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::source::{Chunks, Source, SourceError, read_range};
use crate::tar;

pub use error::ArchiveError;

/// Which readers an archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout (image-spec `image-layout.md`), of any number of platforms.
    Oci,
    /// The same with a `manifest.json` (moby `image/spec`), for which it must be an image of one platform. Attestations
    /// may come with it.
    Docker,
    /// What `docker save` makes: a layout of any number of platforms, and a `manifest.json` with the image of the
    /// platform that fits this machine best, or the only one. What has none, or lacks a layer, is in the layout alone.
    Save,
}

/// An image that goes into an archive.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// The image.
    pub graph: &'a Graph,
    /// Its names; none is fine.
    pub names: &'a [Reference],
}

/// The plan of an archive.
#[derive(Debug)]
pub struct Archive {
    /// The files whose content is ours.
    files: Vec<(&'static str, Bytes)>,
    /// The folders that blobs are in, which BuildKit and containerd list, too.
    folders: Vec<String>,
    /// The blobs that follow, each once: documents, then leaves, in the order of their graph.
    blobs: Vec<Descriptor>,
    size: u64,
}

/// A piece of an archive.
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
    /// The archive of the image of `graph` under `names`, without the blobs `absent`: foreign layers that nobody has
    /// here. The annotations of the graph's root stand at each name.
    ///
    /// # Errors
    /// When the image cannot be had in this format, or an archive would be larger than 8 EiB.
    pub fn new(
        graph: &Graph,
        names: &[Reference],
        format: ArchiveFormat,
        absent: &HashSet<Digest>,
    ) -> Result<Self, ArchiveError> {
        Self::of(&[Saved { graph, names }], format, absent)
    }

    /// The same of several images. A blob that more than one of them names is there once.
    ///
    /// # Errors
    /// As [`Archive::new`].
    pub fn of(images: &[Saved<'_>], format: ArchiveFormat, absent: &HashSet<Digest>) -> Result<Self, ArchiveError> {
        let mut seen = HashSet::new();
        let files = frame::files(images, format, absent)?;
        let files: Vec<_> = files.into_iter().map(|(name, content)| (name, Bytes::from(content))).collect();
        let head: usize = files.iter().map(|(name, content)| head(name, content).len()).sum();
        let blobs: Vec<_> = images
            .iter()
            .flat_map(|image| image.graph.descriptors())
            .filter(|blob| !absent.contains(&blob.digest) && seen.insert(&blob.digest))
            // What a reader needs of it is in its document; this is held as long as the archive is read.
            .map(|blob| Descriptor::new("", blob.digest.clone(), blob.size))
            .collect();
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
    // A layout of nothing has none.
    if algorithms.is_empty() { Vec::new() } else { std::iter::once("blobs/".to_owned()).chain(below).collect() }
}

/// A file whose content is ours, as a member.
fn head(name: &str, content: &Bytes) -> Bytes {
    let size = content.len() as u64;
    [&tar::member(name, size)[..], content, &tar::END[..tar::padding(size)]].concat().into()
}

impl Output for Archive {
    fn size(&self) -> u64 {
        self.size
    }

    /// The blobs are read one after the other. Their bytes are passed on as they come: whoever reads the archive
    /// verifies them.
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
                    // Less than the length, which is one of memory.
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
