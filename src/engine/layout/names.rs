//! Names by themselves: given and taken away without an export.

use std::sync::Arc;

use super::collect::collect;
use super::index::{LayoutIndex, MAX_BYTES};
use super::lock;
use super::place::Found;
use super::read::read_index;
use super::shared::Shared;
use crate::engine::EngineError;
use crate::image::Descriptor;

/// Changes the index, and then collects what lost its name by `change`, which returns these roots. Blocks.
pub(super) fn change(
    shared: &Arc<Shared>,
    change: impl FnOnce(&mut LayoutIndex) -> Result<Vec<Descriptor>, serde_json::Error>,
) -> Result<(), EngineError> {
    let place = &shared.place;
    if place.look()? == Found::Nothing {
        return Ok(());
    }
    // It may be another tool's, without our folder in it.
    place.create(&*shared.disk)?;
    let replaced = {
        let _lock = lock::exclusive(place)?;
        let Some(mut index) = read_index(place)? else { return Ok(()) };
        let unwritable = |error: serde_json::Error| place.refuse(format!("index.json cannot be written: {error}"));
        let before = index.to_bytes().map_err(unwritable)?;
        let replaced = change(&mut index).map_err(unwritable)?;
        let bytes = index.to_bytes().map_err(unwritable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(place.refuse("its index.json would be larger than 32 MiB; remove names that are not needed"));
        }
        if bytes != before {
            let written = place.put(&*shared.disk, &place.index(), &bytes);
            written.map_err(|error| place.failed("writing index.json", &error))?;
        }
        replaced
    };
    // The names are what was asked for, whatever comes of this.
    if !replaced.is_empty()
        && let Err(error) = collect(shared, &replaced)
    {
        tracing::warn!(%error, "nothing was collected");
    }
    Ok(())
}
