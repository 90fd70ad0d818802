//! Archives of `docker save` as they were before they were OCI layouts, and as `crane pull` and others write them.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::files::{Files, json};
use super::members::{First, Place};
use super::{ArchiveError, SavedImage};
use crate::compression::Compression;
use crate::image::{Algorithm, Descriptor, Digest, Document, Limits, Reference, View};
use crate::source::{SameLayer, SameLayers};

/// In which words a manifest is written for an image that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestFormat {
    /// In those of containerd's importer (`core/images/archive/importer.go`), byte by byte: the image gets the digest,
    /// and so the id, that `docker load` and `ctr images import` give it.
    Docker,
    /// In those of OCI, for tools that know no others.
    Oci,
}

impl ManifestFormat {
    fn manifest(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.container.image.v1+json",
            Self::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    fn layer(self, compression: Compression) -> Option<&'static str> {
        Some(match (self, compression) {
            (Self::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
            // Of any compression, for the importer.
            (Self::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Self::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::Oci, Compression::Bzip2 | Compression::Xz) => return None,
        })
    }
}

/// How many images one archive may hold.
const MAX_IMAGES: usize = 10_000;
const LIST: &str = "manifest.json";

/// An entry of `manifest.json` (moby `image/spec/spec.md`, "Combined Image JSON + Filesystem Changeset Format").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// A manifest, field by field in the order in which containerd's importer writes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What the archive holds, described as OCI tools do it.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) images: Vec<SavedImage>,
    /// Documents that were made.
    pub(super) made: HashMap<Digest, Bytes>,
    /// Where the blobs are that those name.
    pub(super) places: HashMap<Digest, Place>,
    /// Layers that are there uncompressed.
    pub(super) uncompressed: Vec<Digest>,
}

/// Describes the images; `None` if there is no `manifest.json`. `same` is in the place of the layers that it names. Blocks.
pub(super) fn describe(
    files: &Files,
    format: ManifestFormat,
    same: &SameLayers,
) -> Result<Option<Described>, ArchiveError> {
    let limits = Limits::default();
    let Some(list) = files.read(LIST, limits.config_bytes, First::Files)? else { return Ok(None) };
    let saved: Vec<Saved> = json(&list)
        .map_err(|error| files.wrong(LIST, format!("is no list of images as `docker save` writes it: {error}")))?;
    if saved.len() > MAX_IMAGES {
        return Err(files.wrong(LIST, format!("lists {} images; at most {MAX_IMAGES} can be read", saved.len())));
    }
    let mut described = Described::default();
    for image in saved {
        let (root, manifest) = describe_image(files, &image, format, &limits, same, &mut described)?;
        described.made.insert(root.digest.clone(), manifest);
        let mut names = Vec::new();
        for tag in image.repo_tags.unwrap_or_default() {
            let name: Reference =
                tag.parse().map_err(|error| files.wrong(LIST, format!("names an image as nobody can: {error}")))?;
            names.push(name);
        }
        described.images.push(SavedImage { root, names, unusable: Vec::new() });
    }
    Ok(Some(described))
}

fn describe_image(
    files: &Files,
    image: &Saved,
    format: ManifestFormat,
    limits: &Limits,
    same: &SameLayers,
    described: &mut Described,
) -> Result<(Descriptor, Bytes), ArchiveError> {
    let missing = |what: &str, member: &str| {
        files.wrong(LIST, format!("names the {what} `{}`, which is not in the archive", shown(member)))
    };
    let bytes = files
        .read(&image.config, limits.config_bytes, First::Links)?
        .ok_or_else(|| missing("config", &image.config))?;
    let config = Descriptor::new(format.config(), Digest::sha256(&bytes), bytes.len() as u64);
    let document = Document::parse_within(config.clone(), bytes.into(), limits);
    let document = document.map_err(|error| ArchiveError::Document { archive: files.name().to_owned(), error })?;
    let View::Config(view) = &document.view else {
        return Err(files.wrong(&image.config, "is no image config".to_owned()));
    };
    if let Some(place) = files.find(&image.config, First::Links)? {
        described.places.insert(config.digest.clone(), place);
    }
    let (members, diff_ids) = (image.layers.as_deref().unwrap_or_default(), &view.rootfs.diff_ids);
    if members.len() != diff_ids.len() {
        let reason = format!("lists {} layers for an image whose config has {}", members.len(), diff_ids.len());
        return Err(files.wrong(LIST, reason));
    }
    if members.len() > limits.children {
        return Err(files.wrong(LIST, format!("lists an image of more than {} layers", limits.children)));
    }
    let mut layers = Vec::new();
    for (member, diff_id) in members.iter().zip(diff_ids) {
        let place = files.find(member, First::Links)?.ok_or_else(|| missing("layer", member))?;
        let layer = describe_layer(files, member, &place, diff_id, format)?;
        if layer.digest == *diff_id {
            described.uncompressed.push(diff_id.clone());
        }
        described.places.insert(layer.digest.clone(), place);
        layers.push(layer);
    }
    replace(&mut layers, format, same, &mut described.places);
    let manifest = Manifest { schema_version: 2, media_type: format.manifest(), config, layers };
    let bytes = serde_json::to_vec(&manifest).map_err(|error| files.wrong(LIST, error.to_string()))?;
    Ok((Descriptor::new(format.manifest(), Digest::sha256(&bytes), bytes.len() as u64), bytes.into()))
}

/// Puts the layers that the engine holds in another form in the place of those of the archive, by the rule of containerd's
/// importer: of a layer that is there several times it is the last one.
fn replace(layers: &mut [Descriptor], format: ManifestFormat, same: &SameLayers, places: &mut HashMap<Digest, Place>) {
    let mut seen = HashSet::new();
    for layer in layers.iter_mut().rev() {
        let Some(other) = same.get(&layer.digest) else { continue };
        if !seen.insert(layer.digest.clone()) {
            continue;
        }
        let SameLayer { digest, size, mark } = other.clone();
        let compression = if mark.len() < SameLayer::MARK_BYTES { Compression::None } else { Compression::of(&mark) };
        let Some(media_type) = format.layer(compression) else { continue };
        *layer = Descriptor::new(media_type, digest.clone(), size);
        // What is in the archive as well is read there.
        places.entry(digest.clone()).or_insert(Place::There { size, digest, mark });
    }
}

/// An uncompressed layer is what its diff id says, or the engine refuses it when it has arrived. The digest of a
/// compressed one is nowhere in the archive, so it is read for that.
fn describe_layer(
    files: &Files,
    member: &str,
    place: &Place,
    diff_id: &Digest,
    format: ManifestFormat,
) -> Result<Descriptor, ArchiveError> {
    let mut start = [0; Compression::MARK_BYTES];
    let compression = match place {
        Place::There { mark, .. } => Compression::of(mark),
        Place::Here { .. } => {
            let read = files.read_at(member, place, 0, &mut start)?;
            Compression::of(&start[..read])
        }
    };
    let unfit = || files.wrong(member, "is compressed with bzip2 or xz, which layers of images are not".to_owned());
    let media_type = format.layer(compression).ok_or_else(unfit)?;
    if let Place::There { digest, .. } = place {
        return Ok(Descriptor::new(media_type, digest.clone(), place.size()));
    }
    if compression == Compression::None {
        return Ok(Descriptor::new(media_type, diff_id.clone(), place.size()));
    }
    let digest = files.digest(member, place, Algorithm::Sha256)?;
    Ok(Descriptor::new(media_type, digest, place.size()))
}

/// A name as it may be shown.
fn shown(member: &str) -> String {
    member.chars().take(200).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
