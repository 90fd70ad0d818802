//! The files of an archive that are not blobs: `oci-layout`, `index.json` and `manifest.json`.

use std::collections::HashSet;

use serde::Serialize;

use super::{ArchiveError, ArchiveFormat, Saved};
use crate::image::layout::{self, INDEX_FILE, MARKER, MARKER_FILE, blob_path};
use crate::image::{Digest, Platform, PlatformImage, Reference};

/// An entry of `manifest.json` (moby `image/tarexport/tarexport.go`, `manifestItem`).
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The files with their names, in order. They come first, so that a reader of a stream knows the images before the blobs.
pub(super) fn files(
    images: &[Saved<'_>],
    format: ArchiveFormat,
    absent: &HashSet<Digest>,
) -> Result<Vec<(&'static str, Vec<u8>)>, ArchiveError> {
    let failed = |name| move |error: serde_json::Error| ArchiveError::Frame { name, reason: error.to_string() };
    let entries = |image: &Saved<'_>| layout::entries(&image.graph.root().clone().without_names(), image.names);
    let entries: Vec<_> = images.iter().flat_map(entries).collect();
    let index = layout::index(&entries).map_err(failed(INDEX_FILE))?;
    let mut files = vec![(MARKER_FILE, MARKER.to_vec()), (INDEX_FILE, index)];
    let items: Option<Vec<_>> = match format {
        ArchiveFormat::Oci => None,
        ArchiveFormat::Docker => Some(images.iter().map(|image| only(image, absent)).collect::<Result<_, _>>()?),
        ArchiveFormat::Save => Some(images.iter().filter_map(|image| best(image, absent)).collect()),
    };
    // docker stops at an empty list, and reads the layout if there is no list.
    if let Some(items) = items.filter(|items| !items.is_empty()) {
        files.push(("manifest.json", serde_json::to_vec(&items).map_err(failed("manifest.json"))?));
    }
    Ok(files)
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
    // Of several that fit equally well, the first one is taken.
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
        config: blob_path(&image.config.descriptor.digest),
        repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
        layers: image.view.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
    }
}

/// The name as `docker save` writes it, without digests, which dockerd refuses here.
fn tag(name: &Reference) -> Option<String> {
    if name.digest().is_some() {
        return None;
    }
    let familiar = name.familiar();
    let same = familiar.parse().is_ok_and(|parsed: Reference| parsed == *name);
    Some(if same { familiar } else { name.to_string() })
}
