//! The root file system of an image: its layers applied in order, as the files that a container starts with.
//!
//! A [`Rootfs`] is a plan, like an [`Archive`](super::archive::Archive): every name, and where each content comes from,
//! is known before the first file is emitted. So the same image always gives the same bytes, and reading can begin anywhere.
//! Names are kept in memory, within [`Limits`]; contents never are.

mod error;
mod layer;
mod limits;
mod name;
mod overlap;
mod pax;
mod plan;
mod read;
mod sparse;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashSet;
use std::sync::Arc;

use super::Output;
use super::items::{Items, archive};
use super::member::{Body, Member};
use crate::image::{Descriptor, Digest, Graph, Platform};
use crate::source::{Chunks, Source};
use crate::tar;
use plan::Cost;

pub use error::RootfsError;
pub(crate) use layer::Layer;
pub use limits::Limits;

/// Options, named as BuildKit's attributes (`exporter/local/fs.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// `platform-split`: whether each platform has a folder of its own, such as `linux_arm64`. By default if there are several
    /// platforms.
    pub platform_split: Option<bool>,
    /// `source-date-epoch`: the time of every entry, in seconds since 1970, instead of its own.
    pub epoch: Option<u64>,
}

/// The plan of a root file system, or of several.
#[derive(Debug)]
pub struct Rootfs {
    images: Vec<Image>,
    size: u64,
    memory: u64,
}

/// The files of one platform.
#[derive(Debug)]
struct Image {
    /// The members without content.
    head: Vec<Member>,
    head_size: u64,
    layers: Vec<LayerFiles>,
}

/// The files of one layer that no later layer replaces or removes.
#[derive(Debug)]
struct LayerFiles {
    blob: Descriptor,
    /// In the order of the layer.
    files: Vec<StoredFile>,
    size: u64,
}

/// One of them.
#[derive(Debug)]
struct StoredFile {
    /// Which member of its layer it is.
    ordinal: u32,
    member: Member,
    /// Its further names: hard links.
    links: Vec<Box<[u8]>>,
}

impl StoredFile {
    fn links(&self) -> impl Iterator<Item = Member> {
        self.links.iter().map(|path| Member {
            path: path.to_vec(),
            body: Body::Link { target: self.member.path[..].into() },
            meta: self.member.meta.clone(),
        })
    }
}

impl Rootfs {
    /// Reads every layer of the images of `graph` once. `absent` are foreign layers that `source` lacks. Attestations and other
    /// artifacts have no files and are left out.
    ///
    /// # Errors
    /// When a layer cannot be read or is invalid, when there is no image, or beyond `limits`.
    pub async fn new(
        source: &dyn Source,
        graph: &Graph,
        absent: &HashSet<Digest>,
        options: Options,
        limits: Limits,
    ) -> Result<Self, RootfsError> {
        let mut platforms: Vec<(String, _)> = Vec::new();
        for image in graph.images() {
            let platform = named(image.platform());
            match platforms.iter().find(|(earlier, _)| *earlier == platform) {
                None => platforms.push((platform, image)),
                Some((_, earlier)) if earlier.manifest.descriptor.digest == image.manifest.descriptor.digest => {}
                Some(_) => return Err(RootfsError::SamePlatform { platform }),
            }
        }
        if platforms.is_empty() {
            return Err(RootfsError::NoImage);
        }
        let split = options.platform_split.unwrap_or(platforms.len() > 1);
        let (mut images, mut cost) = (Vec::with_capacity(platforms.len()), Cost::new(limits));
        for (platform, image) in &platforms {
            let layers = image.view.layers_with_diff_ids(image.config_view)?;
            if let Some((layer, _)) = layers.iter().find(|(layer, _)| absent.contains(&layer.digest)) {
                return Err(RootfsError::Absent { layer: layer.digest.clone() });
            }
            let folder = split.then(|| folder(platform)).transpose()?;
            let tree = plan::lay(source, &layers, limits, &mut cost).await?;
            images.push(plan::order(tree, &layers, folder.as_deref(), options.epoch, limits, &mut cost)?);
        }
        if !split {
            overlap::merge(&mut images, &platforms.iter().map(|(platform, _)| platform.as_str()).collect::<Vec<_>>())?;
        }
        let images = images.into_iter().map(Image::measured).collect::<Result<Vec<_>, _>>()?;
        let sizes = images.iter().flat_map(|image| image.parts()).chain([tar::END.len() as u64]);
        let size = sizes.fold(0, u64::saturating_add);
        if i64::try_from(size).is_err() {
            return Err(RootfsError::TooLarge);
        }
        if size > limits.bytes {
            let what = "the files including holes, in bytes,";
            return Err(RootfsError::Limit { what, limit: limits.bytes });
        }
        let memory = (cost.text_bytes + cost.names * size_of::<StoredFile>()) as u64;
        Ok(Self { images, size, memory })
    }

    /// The approximate memory of the plan, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// All members with their contents.
    pub(crate) fn items(self: Arc<Self>, source: Arc<dyn Source>) -> Items {
        read::items(self, source, 0)
    }
}

impl Output for Rootfs {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(self: Arc<Self>, source: Arc<dyn Source>, offset: u64) -> Chunks {
        let (mut skip, mut parts) = (offset, 0);
        // Layers before the offset need not be read.
        for size in self.images.iter().flat_map(Image::parts) {
            if skip < size {
                break;
            }
            skip -= size;
            parts += 1;
        }
        archive(read::items(self, source, parts), skip)
    }
}

impl Image {
    /// The sizes of its parts in a tar archive.
    fn parts(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.head_size).chain(self.layers.iter().map(|layer| layer.size))
    }
}

/// A platform as BuildKit formats it in responses (`platforms.FormatAll` of containerd's `platforms`).
fn named(platform: &Platform) -> String {
    let platform = platform.normalised();
    match &platform.os_version {
        Some(version) => platform.to_string().replacen(&platform.os, &format!("{}({version})", platform.os), 1),
        None => platform.to_string(),
    }
}

/// The folder for a platform.
fn folder(platform: &str) -> Result<Vec<u8>, RootfsError> {
    let folder = platform.replace('/', "_");
    match name::clean(folder.as_bytes()) {
        Ok(key) if key == folder.as_bytes() => Ok(key),
        _ => Err(RootfsError::UnrepresentablePath { path: folder, reason: "it is no name of a folder".to_owned() }),
    }
}
