//! Archives with a `manifest.json` and without an OCI layout: those of `docker save` before Docker 25, and of `crane pull`.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::files::{Files, json};
use super::members::{BlobLocation, First};
use super::{ArchiveError, SavedImage};
use crate::compression::Compression;
use crate::image::{Algorithm, Descriptor, Digest, Document, Limits, Reference, View};
use crate::source::{EqualLayer, EqualLayers};

/// How the manifest is written for an image that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestFormat {
    /// Byte for byte as containerd's importer (`core/images/archive/importer.go`) writes it, so that the image has the digest,
    /// and so the id, that `docker load` and `ctr images import` give it.
    Docker,
    /// With OCI media types, for tools that know no others.
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
            // The importer uses this type for any compression.
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

/// The images of the archive, with a manifest for each.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) images: Vec<SavedImage>,
    /// The manifests that were generated.
    pub(super) made: HashMap<Digest, Bytes>,
    /// Where the blobs of these manifests are.
    pub(super) locations: HashMap<Digest, BlobLocation>,
    /// Uncompressed layers in the archive.
    pub(super) uncompressed: Vec<Digest>,
}

/// Reads the images; `None` if there is no `manifest.json`. Layers in `same` are replaced by the engine's blobs. Blocks.
pub(super) fn describe(
    files: &Files,
    format: ManifestFormat,
    same: &EqualLayers,
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
                tag.parse().map_err(|error| files.wrong(LIST, format!("has an invalid image name: {error}")))?;
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
    same: &EqualLayers,
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
    if let Some(location) = files.find(&image.config, First::Links)? {
        described.locations.insert(config.digest.clone(), location);
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
        let location = files.find(member, First::Links)?.ok_or_else(|| missing("layer", member))?;
        let layer = describe_layer(files, member, &location, diff_id, format)?;
        if layer.digest == *diff_id {
            described.uncompressed.push(diff_id.clone());
        }
        described.locations.insert(layer.digest.clone(), location);
        layers.push(layer);
    }
    replace(&mut layers, format, same, &mut described.locations);
    let manifest = Manifest { schema_version: 2, media_type: format.manifest(), config, layers };
    let bytes = serde_json::to_vec(&manifest).map_err(|error| files.wrong(LIST, error.to_string()))?;
    Ok((Descriptor::new(format.manifest(), Digest::sha256(&bytes), bytes.len() as u64), bytes.into()))
}

/// Replaces layers by the blobs that the engine has for them, as containerd's importer does: of a layer that occurs several
/// times, the last one.
fn replace(
    layers: &mut [Descriptor],
    format: ManifestFormat,
    same: &EqualLayers,
    locations: &mut HashMap<Digest, BlobLocation>,
) {
    let mut seen = HashSet::new();
    for layer in layers.iter_mut().rev() {
        let Some(other) = same.get(&layer.digest) else { continue };
        if !seen.insert(layer.digest.clone()) {
            continue;
        }
        let EqualLayer { digest, size, mark } = other.clone();
        let compression = if mark.len() < EqualLayer::MARK_BYTES { Compression::None } else { Compression::of(&mark) };
        let Some(media_type) = format.layer(compression) else { continue };
        *layer = Descriptor::new(media_type, digest.clone(), size);
        // If the archive has this blob as well, it is read there.
        locations.entry(digest.clone()).or_insert(BlobLocation::Engine { size, digest, mark });
    }
}

/// The digest of an uncompressed layer is its diff id, which the engine verifies on arrival. The digest of a compressed layer
/// is nowhere in the archive, so the layer is read and hashed.
fn describe_layer(
    files: &Files,
    member: &str,
    location: &BlobLocation,
    diff_id: &Digest,
    format: ManifestFormat,
) -> Result<Descriptor, ArchiveError> {
    let mut start = [0; Compression::MARK_BYTES];
    let compression = match location {
        BlobLocation::Engine { mark, .. } => Compression::of(mark),
        BlobLocation::File { .. } => {
            let read = files.read_at(member, location, 0, &mut start)?;
            Compression::of(&start[..read])
        }
    };
    let unfit = || files.wrong(member, "is compressed with bzip2 or xz, which no engine unpacks".to_owned());
    let media_type = format.layer(compression).ok_or_else(unfit)?;
    if let BlobLocation::Engine { digest, .. } = location {
        return Ok(Descriptor::new(media_type, digest.clone(), location.size()));
    }
    if compression == Compression::None {
        return Ok(Descriptor::new(media_type, diff_id.clone(), location.size()));
    }
    let digest = files.digest(member, location, Algorithm::Sha256)?;
    Ok(Descriptor::new(media_type, digest, location.size()))
}

/// A name, shortened for a message.
fn shown(member: &str) -> String {
    member.chars().take(200).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
