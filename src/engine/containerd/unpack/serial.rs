//! One layer after the other: for snapshotters that need the parent before the child, and for single layers.

use super::apply::LayerApplier;
use super::finish::finish;
use super::priority_semaphore::unpack_permit;
use super::snapshots::{PrepareOutcome, Snapshots, key};
use super::unpack_layer::{ActiveSnapshot, AppliedBy, UnpackedLayer, recreate, unpack_layer};
use super::{Attempt, CommittedBlobs, Job, Layer};
use crate::engine::EngineError;
use crate::image::Digest;
use crate::progress::Events;

/// Unpacks `job` from its layer number `depth` on.
///
/// Each layer is synced to the disk before it is committed, where that is wanted: a committed snapshot may at once be built
/// upon by others, and a power failure would leave it with empty files, unnoticed.
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
        let key = key(layer);
        // While the blob is on its way: two synced writes that need not be waited for afterwards.
        match snapshots.prepare(&key, layer, parent, parent).await? {
            PrepareOutcome::Exists if snapshots.exists(layer.chain.as_str()).await? => {}
            PrepareOutcome::Exists | PrepareOutcome::NoParent => return Ok(Attempt::Moved),
            PrepareOutcome::Mounts(mounts) => {
                committed.wait(&layer.blob.digest).await;
                let snapshot = ActiveSnapshot { key, mounts, parent };
                let Some(unpacked) = unpack_and_finish(snapshots, applier, layer, snapshot, events).await? else {
                    return Ok(Attempt::Moved);
                };
                snapshots.commit(&unpacked.key, layer, parent, None).await?;
                unpacked.labelled().await;
            }
        }
    }
    Ok(Attempt::Done)
}

/// Unpacks one layer onto its parent and restores its implicit folders. `None` if its chain exists by now, or its parent is gone.
async fn unpack_and_finish(
    snapshots: &Snapshots,
    applier: &LayerApplier,
    layer: &Layer,
    snapshot: ActiveSnapshot<'_>,
    events: &Events,
) -> Result<Option<UnpackedLayer>, EngineError> {
    let parent: Option<&Digest> = snapshot.parent;
    let _permit = unpack_permit(layer.blob.size).await;
    let unpacked = unpack_layer(snapshots, applier, layer, parent, snapshot, snapshots.sync(), events).await?;
    let Some(unpacked) = unpacked else { return Ok(None) };
    let (Some(in_process), AppliedBy::InProcess(_)) = (applier.in_process(), &unpacked.applied_by) else {
        return Ok(Some(unpacked));
    };
    let layer = std::slice::from_ref(layer);
    if finish(snapshots, layer, in_process.host().clone(), std::slice::from_ref(&unpacked)).await? {
        return Ok(Some(unpacked));
    }
    let used = ActiveSnapshot { key: unpacked.key.clone(), mounts: Vec::new(), parent };
    let Some(snapshot) = recreate(snapshots, &layer[0], parent, used).await? else { return Ok(None) };
    unpack_layer(snapshots, &applier.only_diff(), &layer[0], parent, snapshot, snapshots.sync(), events).await
}
