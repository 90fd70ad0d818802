//! Names by themselves: given and taken away without an export.

use std::sync::Arc;

use super::blob_store::BlobStore;
use super::gc::collect;
use super::index::LayoutIndex;
use super::init::Found;
use super::lock;
use super::read::read_sealed_index;
use super::seal::Seal;
use super::unreached::index_written;
use crate::engine::EngineError;
use crate::image::Descriptor;
use crate::image::layout::MAX_INDEX;

/// Changes the index, and then collects what lost its name by `change`, which returns these roots. Blocks.
pub(super) fn change(
    blobs: &Arc<BlobStore>,
    change: impl FnOnce(&mut LayoutIndex) -> Result<Vec<Descriptor>, serde_json::Error>,
) -> Result<(), EngineError> {
    let paths = &blobs.paths;
    if paths.look()? == Found::Nothing {
        return Ok(());
    }
    // It may be another tool's, without our folder in it.
    paths.create(&*blobs.disk)?;
    let has_replaced = {
        let _lock = lock::exclusive(paths)?;
        let Some((mut index, seal)) = read_sealed_index(paths)? else { return Ok(()) };
        let unwritable = |error: serde_json::Error| paths.refuse(format!("index.json cannot be written: {error}"));
        let before = index.to_bytes().map_err(unwritable)?;
        let replaced = change(&mut index).map_err(unwritable)?;
        let bytes = index.to_bytes().map_err(unwritable)?;
        if bytes != before {
            write_index(blobs, &bytes, Some(&seal), &replaced)?;
        }
        !replaced.is_empty()
    };
    // The names are what was asked for, whatever comes of this.
    if has_replaced && let Err(error) = collect(blobs) {
        tracing::warn!(%error, "nothing was collected");
    }
    Ok(())
}

/// Puts an index in the place of the one that was as `before` says when it was read. `replaced` are the roots that lose a
/// name by that. The lock must be held. Blocks.
pub(super) fn write_index(
    blobs: &BlobStore,
    bytes: &[u8],
    before: Option<&Seal>,
    replaced: &[Descriptor],
) -> Result<(), EngineError> {
    let paths = &blobs.paths;
    if bytes.len() as u64 > MAX_INDEX {
        return Err(paths.refuse("its index.json would be larger than 32 MiB; remove names that are not needed"));
    }
    // Others lock nothing, and may have put one there meanwhile.
    let before = before.filter(|before| Seal::at(&paths.index()).as_ref() == Some(*before));
    let written = paths.put(&*blobs.disk, &paths.index(), bytes);
    let written = written.map_err(|error| paths.failed("writing index.json", &error))?;
    if let Some(before) = before {
        index_written(paths, before, &written, replaced);
    }
    Ok(())
}
