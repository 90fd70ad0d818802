//! One layer after the other: for snapshotters that need the parent before the child, and for single layers.

use super::apply::LayerApplier;
use super::fill::{Applied, Empty, Filled, again, fill};
use super::finish::finish;
use super::priority_semaphore::unpack_permit;
use super::snapshots::{Prepared, Snapshots, key};
use super::{Attempt, CommittedBlobs, Job, Layer};
use crate::engine::EngineError;
use crate::image::Digest;
use crate::progress::Events;

/// Unpacks `job` from its layer number `depth` on.
///
/// Each layer is synced to the disk before it is committed: a committed snapshot may at once be built upon by others,
/// and a power failure would leave it with empty files, unnoticed.
pub(super) async fn unpack(
    snapshots: &Snapshots,
    applier: &LayerApplier,
    job: &Job,
    depth: usize,
    committed: &CommittedBlobs,
    events: &Events,
) -> Result<Attempt, EngineError> {
    for (at, layer) in job.layers.iter().enumerate().skip(depth) {
        let parent = at.checked_sub(1).map(|below| &job.layers[below].chain);
        committed.wait(&layer.blob.digest).await;
        let key = key(layer);
        match snapshots.prepare(&key, layer, parent, parent).await? {
            Prepared::Exists if snapshots.exists(layer.chain.as_str()).await? => {}
            Prepared::Exists | Prepared::NoParent => return Ok(Attempt::Moved),
            Prepared::Mounts(mounts) => {
                let empty = Empty { key, mounts, parent };
                let Some(filled) = fill_and_finish(snapshots, applier, layer, empty, events).await? else {
                    return Ok(Attempt::Moved);
                };
                snapshots.commit(&filled.key, layer, parent, None).await?;
            }
        }
    }
    Ok(Attempt::Done)
}

/// Unpacks one layer onto its parent, to the last detail. `None` if its chain exists by now, or its parent is gone.
async fn fill_and_finish(
    snapshots: &Snapshots,
    applier: &LayerApplier,
    layer: &Layer,
    empty: Empty<'_>,
    events: &Events,
) -> Result<Option<Filled>, EngineError> {
    let parent: Option<&Digest> = empty.parent;
    let _permit = unpack_permit(layer.blob.size).await;
    let Some(filled) = fill(snapshots, applier, layer, parent, empty, true, events).await? else { return Ok(None) };
    let (Some(own), Applied::Own(_)) = (applier.own(), &filled.applied) else { return Ok(Some(filled)) };
    let layer = std::slice::from_ref(layer);
    if finish(snapshots, layer, own.host().clone(), std::slice::from_ref(&filled)).await? {
        return Ok(Some(filled));
    }
    let used = Empty { key: filled.key, mounts: Vec::new(), parent };
    let Some(empty) = again(snapshots, &layer[0], parent, used).await? else { return Ok(None) };
    fill(snapshots, &applier.only_diff(), &layer[0], parent, empty, true, events).await
}
