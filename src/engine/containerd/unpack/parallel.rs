//! All layers at once: for snapshotters that can give a snapshot its parent when it is committed.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::apply::LayerApplier;
use super::finish::finish;
use super::host::OverlayDirs;
use super::priority_semaphore::unpack_permit;
use super::snapshots::{PrepareOutcome, Snapshots, key};
use super::unpack_layer::{ActiveSnapshot, UnpackedLayer, unpack_layer};
use super::{Attempt, CommittedBlobs, Job, Layer};
use crate::engine::EngineError;
use crate::image::Digest;
use crate::progress::Events;

/// Unpacks `layers`, all that are missing of a chain, onto `parent`.
///
/// Nothing is synced while layers are unpacked. When all are, their file system is synced once, where that is wanted, and only
/// then is the first snapshot committed: from that moment others may build on it, and a power failure would leave it with
/// empty files, unnoticed. One sync for all costs less than one per layer, each of which would also write out what
/// the others have in the works.
pub(super) async fn unpack(
    snapshots: &Snapshots,
    applier: &LayerApplier,
    job: &Job,
    depth: usize,
    committed: &CommittedBlobs,
    events: &Events,
) -> Result<Attempt, EngineError> {
    let host = match applier.in_process() {
        Some(in_process) => in_process.host().clone(),
        None => match snapshots.host().await? {
            Ok(host) => Arc::new(host),
            Err(reason) => {
                tracing::debug!(reason, "layers are unpacked one after the other");
                return Ok(Attempt::Impossible);
            }
        },
    };
    let layers = &job.layers[depth..];
    let below = |at: usize| (depth + at).checked_sub(1).map(|below| &job.layers[below].chain);
    // The lowest is prepared on its real parent: that pins the parent until the lowest is committed, and says where all
    // the layers below it lie.
    let (Some(lowest), parent) = (layers.first(), below(0)) else { return Ok(Attempt::Done) };
    let lowest_key = key(lowest);
    let mounts = match snapshots.prepare(&lowest_key, lowest, parent, parent).await? {
        PrepareOutcome::Mounts(mounts) => mounts,
        PrepareOutcome::Exists | PrepareOutcome::NoParent => return Ok(Attempt::Moved),
    };
    if OverlayDirs::of(&mounts).is_none_or(|dirs| host.folder(&dirs.upper).is_err()) {
        snapshots.remove(&lowest_key).await?;
        return Ok(Attempt::Impossible);
    }
    let mut prepared = Some(ActiveSnapshot { key: lowest_key, mounts, parent });
    let unpacking = layers.iter().enumerate().map(|(at, layer)| {
        let prepared = prepared.take();
        let below = below(at);
        async move {
            committed.wait(&layer.blob.digest).await;
            let _permit = unpack_permit(layer.blob.size).await;
            prepare_and_unpack(snapshots, applier, layer, below, prepared, events).await
        }
    });
    let unpacking: Vec<_> = unpacking.collect();
    let unpacked: Option<Vec<UnpackedLayer>> = try_join_all(unpacking).await?.into_iter().collect();
    let Some(unpacked) = unpacked else {
        // Another client unpacks the same chain: look again what is left to do.
        snapshots.remove_active().await;
        return Ok(Attempt::Moved);
    };
    if !finish(snapshots, layers, host, &unpacked).await? {
        snapshots.remove_active().await;
        return Ok(Attempt::Impossible);
    }
    for (at, (layer, unpacked)) in layers.iter().zip(unpacked).enumerate() {
        let below = below(at);
        // The lowest has its parent already.
        let parent = if at == 0 { None } else { below };
        snapshots.commit(&unpacked.key, layer, below, parent).await?;
        unpacked.labelled().await;
    }
    Ok(Attempt::Done)
}

/// Unpacks one layer into a snapshot without a parent, or the one that is `prepared`. `None` if its chain exists.
async fn prepare_and_unpack(
    snapshots: &Snapshots,
    applier: &LayerApplier,
    layer: &Layer,
    below: Option<&Digest>,
    prepared: Option<ActiveSnapshot<'_>>,
    events: &Events,
) -> Result<Option<UnpackedLayer>, EngineError> {
    let snapshot = match prepared {
        Some(prepared) => prepared,
        None => {
            let key = key(layer);
            match snapshots.prepare(&key, layer, below, None).await? {
                PrepareOutcome::Mounts(mounts) => ActiveSnapshot { key, mounts, parent: None },
                PrepareOutcome::Exists | PrepareOutcome::NoParent => return Ok(None),
            }
        }
    };
    if OverlayDirs::of(&snapshot.mounts).is_none() {
        let reason = "its snapshot is not an overlay".to_owned();
        return Err(EngineError::Unpack { layer: layer.blob.digest.clone(), reason });
    }
    unpack_layer(snapshots, applier, layer, below, snapshot, false, events).await
}
