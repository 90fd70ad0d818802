//! Puts the files of several platforms into one tree, which is possible only if they have no file in common.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{Image, RootfsError};
use crate::output::member::Body;

/// Merges `images`. They may have folders in common, of which the last image's count; any other entry in two images is an
/// error, as in BuildKit (`exporter/local/export.go`).
pub(super) fn merge(images: &mut [Image], platforms: &[&str]) -> Result<(), RootfsError> {
    if images.len() < 2 {
        return Ok(());
    }
    let mut met: HashMap<Vec<u8>, (bool, usize)> = HashMap::new();
    for (at, image) in images.iter().enumerate() {
        let head = image.head.iter().map(|member| (member.path.clone(), member.body == Body::Folder));
        let files = image.layers.iter().flat_map(|layer| &layer.files);
        let names = files.flat_map(|file| {
            std::iter::once(file.member.path.clone()).chain(file.links.iter().map(|link| link.to_vec()))
        });
        for (path, is_folder) in head.chain(names.map(|path| (path, false))) {
            match met.entry(path) {
                Entry::Vacant(entry) => {
                    entry.insert((is_folder, at));
                }
                Entry::Occupied(mut entry) if is_folder && entry.get().0 => {
                    entry.insert((true, at));
                }
                Entry::Occupied(entry) => {
                    return Err(RootfsError::Overlap {
                        path: String::from_utf8_lossy(entry.key()).into_owned(),
                        first: platforms[entry.get().1].to_owned(),
                        second: platforms[at].to_owned(),
                    });
                }
            }
        }
    }
    // A folder keeps its first position, because its entries must follow it, and gets the last metadata.
    let mut last = HashMap::new();
    for member in images.iter().flat_map(|image| &image.head).filter(|member| member.body == Body::Folder) {
        last.insert(member.path.clone(), member.meta.clone());
    }
    for image in images {
        image.head.retain_mut(|member| {
            if member.body != Body::Folder {
                return true;
            }
            match last.remove(&member.path) {
                Some(meta) => {
                    member.meta = meta;
                    true
                }
                None => false,
            }
        });
    }
    Ok(())
}
