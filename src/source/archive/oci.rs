//! OCI image layouts, in a folder or an archive (image-spec `image-layout.md`).

use super::files::Files;
use super::members::First;
use super::{ArchiveError, SavedImage};
use crate::image::layout::{INDEX_FILE, MARKER_FILE, MAX_INDEX, MAX_MARKER, MarkerError, check_marker};
use crate::image::{IMAGE_NAME, Kind, REF_NAME, Reference, SUBJECT, index_of};

/// The images of a layout; `None` if the files are no layout. Blocks.
pub(super) fn images(files: &Files) -> Result<Option<Vec<SavedImage>>, ArchiveError> {
    let Some(marker) = files.read(MARKER_FILE, MAX_MARKER, First::Files)? else { return Ok(None) };
    match check_marker(&marker) {
        Ok(()) => {}
        // The importer then reads `manifest.json`.
        Err(MarkerError::NoVersion) if !files.is_folder() => return Ok(None),
        Err(error) => return Err(files.wrong(MARKER_FILE, error.to_string())),
    }
    let index = files
        .read(INDEX_FILE, MAX_INDEX, First::Files)?
        .ok_or_else(|| files.wrong(INDEX_FILE, "is missing".to_owned()))?;
    let index = index_of(&index).map_err(|error| files.wrong(INDEX_FILE, format!("is no index: {error}")))?;
    let mut images: Vec<SavedImage> = Vec::new();
    for target in index.manifests {
        // Signatures and other artifacts may be listed beside images; dockerd ignores them as well.
        if !matches!(target.kind(), Kind::Index | Kind::Manifest) || target.annotations.contains_key(SUBJECT) {
            continue;
        }
        let annotation = |key: &str| target.annotations.get(key).filter(|name| !name.is_empty());
        let name = annotation(IMAGE_NAME).or_else(|| annotation(REF_NAME)).cloned();
        let at = images.iter().position(|image| image.root.digest == target.digest).unwrap_or_else(|| {
            images.push(SavedImage { root: target.without_names(), names: Vec::new(), unusable: Vec::new() });
            images.len() - 1
        });
        let image = &mut images[at];
        // As dockerd does: a bare tag counts as a name, and a name that does not parse is ignored.
        match name.map(|name| name.parse::<Reference>().map_err(|_| name)) {
            Some(Ok(name)) if !image.names.contains(&name) => image.names.push(name),
            Some(Err(name)) => image.unusable.push(name.chars().take(200).collect()),
            Some(Ok(_)) | None => {}
        }
    }
    Ok(Some(images))
}
