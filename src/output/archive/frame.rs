//! The files of an archive that are not blobs: `oci-layout`, `index.json` and `manifest.json`.

use std::collections::{BTreeMap, HashSet};

use oci_spec::image::ANNOTATION_REF_NAME;
use serde::Serialize;

use super::{ArchiveError, Flavour};
use crate::image::{Descriptor, Digest, Graph, Reference};

/// The annotation with an image's whole name (containerd `core/images/annotations.go`). dockerd takes it verbatim.
const IMAGE_NAME: &str = "io.containerd.image.name";
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
    graph: &Graph,
    names: &[Reference],
    flavour: Flavour,
    absent: &HashSet<Digest>,
) -> Result<Vec<(&'static str, Vec<u8>)>, ArchiveError> {
    let failed = |name| move |error: serde_json::Error| ArchiveError::Frame { name, reason: error.to_string() };
    let index = index(graph.root(), names).map_err(failed("index.json"))?;
    let mut files = vec![("oci-layout", LAYOUT.to_vec()), ("index.json", index)];
    if flavour == Flavour::Docker {
        let item = item(graph, names, absent)?;
        files.push(("manifest.json", serde_json::to_vec(&[item]).map_err(failed("manifest.json"))?));
    }
    Ok(files)
}

/// The `index.json` of a layout with the image `root`: one entry for each name, or one without. Each holds the name in
/// full, as containerd and dockerd read it, and the tag, as skopeo does.
///
/// # Errors
/// When it cannot be written, which strings and numbers never cause.
pub fn index(root: &Descriptor, names: &[Reference]) -> Result<Vec<u8>, serde_json::Error> {
    let entry = |annotations: BTreeMap<String, String>| {
        let mut entry = root.clone();
        entry.annotations.extend(annotations);
        entry
    };
    let named = |name: &Reference| {
        let mut annotations = BTreeMap::from([(IMAGE_NAME.to_owned(), name.to_string())]);
        annotations.extend(name.tag().map(|tag| (ANNOTATION_REF_NAME.to_owned(), tag.to_owned())));
        entry(annotations)
    };
    let manifests = if names.is_empty() { vec![entry(BTreeMap::new())] } else { names.iter().map(named).collect() };
    let media_type = "application/vnd.oci.image.index.v1+json";
    serde_json::to_vec(&Index { schema_version: 2, media_type, manifests })
}

fn item(graph: &Graph, names: &[Reference], absent: &HashSet<Digest>) -> Result<Item, ArchiveError> {
    let mut seen = HashSet::new();
    let images: Vec<_> = graph.images().filter(|image| seen.insert(&image.manifest.descriptor.digest)).collect();
    let [image] = &images[..] else {
        let platforms = images.iter().map(|image| image.platform().to_string()).collect();
        return Err(ArchiveError::Platforms { platforms });
    };
    if let Some(layer) = image.view.layers.iter().find(|layer| absent.contains(&layer.digest)) {
        return Err(ArchiveError::Absent { digest: layer.digest.clone() });
    }
    let tags: Vec<_> = names.iter().filter_map(tag).collect();
    Ok(Item {
        config: path(&image.config.descriptor.digest),
        repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
        layers: image.view.layers.iter().map(|layer| path(&layer.digest)).collect(),
    })
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
