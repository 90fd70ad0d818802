//! The files of an archive that are not blobs: `oci-layout`, `index.json` and `manifest.json`.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::{ArchiveError, Flavour, Saved};
use crate::image::{Descriptor, Digest, IMAGE_NAME, Platform, PlatformImage, REF_NAME, Reference};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// An entry of `manifest.json` (moby `image/tarexport/tarexport.go`, `manifestItem`).
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Where a blob lies in a layout.
pub(super) fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The files by their names, in their order: a reader that reads once knows first what it reads.
pub(super) fn files(
    images: &[Saved<'_>],
    flavour: Flavour,
    absent: &HashSet<Digest>,
) -> Result<Vec<(&'static str, Vec<u8>)>, ArchiveError> {
    let failed = |name| move |error: serde_json::Error| ArchiveError::Frame { name, reason: error.to_string() };
    let entries = images.iter().flat_map(|image| entries(image.graph.root(), image.names)).collect();
    let mut files =
        vec![("oci-layout", LAYOUT.to_vec()), ("index.json", write(entries).map_err(failed("index.json"))?)];
    let items: Option<Vec<_>> = match flavour {
        Flavour::Oci => None,
        Flavour::Docker => Some(images.iter().map(|image| only(image, absent)).collect::<Result<_, _>>()?),
        Flavour::Save => Some(images.iter().filter_map(|image| best(image, absent)).collect()),
    };
    // A reader that finds an empty list looks no further, and one without it takes the layout.
    if let Some(items) = items.filter(|items| !items.is_empty()) {
        files.push(("manifest.json", serde_json::to_vec(&items).map_err(failed("manifest.json"))?));
    }
    Ok(files)
}

/// The `index.json` of a layout with the image `root`: one entry for each name, or one without. Each holds the name in
/// full, as containerd and dockerd read it, and the tag, as skopeo does.
///
/// # Errors
/// When it cannot be written, which strings and numbers never cause.
pub fn index(root: &Descriptor, names: &[Reference]) -> Result<Vec<u8>, serde_json::Error> {
    write(entries(root, names))
}

fn entries(root: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    let entry = |annotations: BTreeMap<String, String>| {
        let mut entry = root.clone().without_names();
        entry.annotations.extend(annotations);
        entry
    };
    let named = |name: &Reference| {
        let mut annotations = BTreeMap::from([(IMAGE_NAME.to_owned(), name.to_string())]);
        annotations.extend(name.tag().map(|tag| (REF_NAME.to_owned(), tag.to_owned())));
        entry(annotations)
    };
    if names.is_empty() { vec![entry(BTreeMap::new())] } else { names.iter().map(named).collect() }
}

fn write(manifests: Vec<Descriptor>) -> Result<Vec<u8>, serde_json::Error> {
    let media_type = "application/vnd.oci.image.index.v1+json";
    serde_json::to_vec(&Index { schema_version: 2, media_type, manifests })
}

/// The only image of `saved`.
fn only(saved: &Saved<'_>, absent: &HashSet<Digest>) -> Result<Item, ArchiveError> {
    let mut seen = HashSet::new();
    let images: Vec<_> = saved.graph.images().filter(|image| seen.insert(&image.manifest.descriptor.digest)).collect();
    let [image] = &images[..] else {
        let platforms = images.iter().map(|image| image.platform().to_string()).collect();
        return Err(ArchiveError::Platforms { platforms });
    };
    if let Some(layer) = image.view.layers.iter().find(|layer| absent.contains(&layer.digest)) {
        return Err(ArchiveError::Absent { digest: layer.digest.clone() });
    }
    Ok(item(image, saved.names))
}

/// The image of `saved` for this machine, or the only one; none if it lacks a layer here.
fn best(saved: &Saved<'_>, absent: &HashSet<Digest>) -> Option<Item> {
    let host = Platform::host();
    let images: Vec<_> = saved.graph.images().collect();
    let fits = images.iter().filter_map(|image| Some((image.platform().fit(&host)?, image)));
    // Of several that fit alike the first one named is taken.
    let fitting = fits.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, image)| image);
    let image = match (fitting, &images[..]) {
        (Some(image), _) | (None, [image]) => image,
        _ => return None,
    };
    let is_whole = image.view.layers.iter().all(|layer| !absent.contains(&layer.digest));
    is_whole.then(|| item(image, saved.names))
}

fn item(image: &PlatformImage<'_>, names: &[Reference]) -> Item {
    let tags: Vec<_> = names.iter().filter_map(tag).collect();
    Item {
        config: path(&image.config.descriptor.digest),
        repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
        layers: image.view.layers.iter().map(|layer| path(&layer.digest)).collect(),
    }
}

/// The name as `docker save` writes it. dockerd refuses a name with a digest here.
fn tag(name: &Reference) -> Option<String> {
    if name.digest().is_some() {
        return None;
    }
    let familiar = name.familiar();
    let same = familiar.parse().is_ok_and(|parsed: Reference| parsed == *name);
    Some(if same { familiar } else { name.to_string() })
}
