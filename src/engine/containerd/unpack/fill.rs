//! Filling the snapshot of one layer.

use std::sync::Arc;

use containerd_client::types::Mount;

use super::Layer;
use super::apply::LayerApplier;
use super::described::Described;
use super::host::{OverlayDirs, as_overlay};
use super::own::{NotApplied, Own};
use super::snapshots::{Prepared, Snapshots};
use crate::engine::EngineError;
use crate::image::Digest;
use crate::progress::{Event, Events};

/// An active snapshot that is empty.
#[derive(Debug)]
pub(super) struct Empty<'a> {
    pub(super) key: String,
    pub(super) mounts: Vec<Mount>,
    /// The chain that it was prepared on.
    pub(super) parent: Option<&'a Digest>,
}

/// A layer that was unpacked into an active snapshot.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) key: String,
    /// Where it is, if it is an overlay.
    pub(super) dirs: Option<OverlayDirs>,
    pub(super) applied: Applied,
}

/// Who unpacked a layer.
#[derive(Debug, Clone)]
pub(super) enum Applied {
    /// containerd: folders without an entry took after the layers below, if there were any.
    Containerd,
    /// This process: they still have to. They are known, unless there are too many.
    Own(Option<Arc<Described>>),
}

/// Unpacks `layer` into `empty`. `below` is the chain that it lies on. With `sync` containerd syncs what it has unpacked; what
/// this process unpacks is synced by the caller. `None` if its chain exists by now, or what it was to lie on is gone.
pub(super) async fn fill(
    snapshots: &Snapshots,
    applier: &LayerApplier,
    layer: &Layer,
    below: Option<&Digest>,
    empty: Empty<'_>,
    sync: bool,
    events: &Events,
) -> Result<Option<Filled>, EngineError> {
    events.emit(Event::Unpacking { digest: layer.blob.digest.clone() });
    let mut empty = empty;
    if let Some(own) = applier.own() {
        match try_own(own, layer, below, &empty).await {
            Ok(described) => {
                applier.diff().label(layer, true).await;
                events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
                let applied = Applied::Own(described.undescribed().map(Arc::new));
                return Ok(Some(Filled { dirs: OverlayDirs::of(&empty.mounts), key: empty.key, applied }));
            }
            Err((NotApplied::Failed(error), _)) => {
                // By another's hand than containerd's, so the lease would not know.
                snapshots.client().note(&error);
                return Err(error);
            }
            Err((NotApplied::Unsupported(reason), is_touched)) => {
                tracing::info!(layer = %layer.blob.digest, reason, "containerd's diff service unpacks the layer");
                if is_touched {
                    match again(snapshots, layer, below, empty).await? {
                        Some(emptied) => empty = emptied,
                        None => return Ok(None),
                    }
                }
            }
        }
    }
    let dirs = OverlayDirs::of(&empty.mounts);
    applier.diff().apply(layer, as_applied(empty.mounts, below), sync).await?;
    events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
    Ok(Some(Filled { key: empty.key, dirs, applied: Applied::Containerd }))
}

/// Unpacks `layer` in this process. An error comes with whether anything was written.
async fn try_own(
    own: &Own,
    layer: &Layer,
    below: Option<&Digest>,
    empty: &Empty<'_>,
) -> Result<Described, (NotApplied, bool)> {
    let prepared = own.prepare(layer, &as_applied(empty.mounts.clone(), below)).await;
    let prepared = prepared.map_err(|reason| (NotApplied::Unsupported(reason), false))?;
    own.apply(layer, prepared).await.map_err(|error| (error, true))
}

/// Replaces a snapshot by an empty one.
pub(super) async fn again<'a>(
    snapshots: &Snapshots,
    layer: &Layer,
    below: Option<&Digest>,
    used: Empty<'a>,
) -> Result<Option<Empty<'a>>, EngineError> {
    let parent = used.parent;
    snapshots.remove(&used.key).await?;
    let key = super::snapshots::key(layer);
    Ok(match snapshots.prepare(&key, layer, below, parent).await? {
        Prepared::Mounts(mounts) => Some(Empty { key, mounts, parent }),
        Prepared::Exists | Prepared::NoParent => None,
    })
}

/// The mounts for an applier. The bottom of a chain has nothing below that a whiteout could hide.
fn as_applied(mounts: Vec<Mount>, below: Option<&Digest>) -> Vec<Mount> {
    if below.is_some() { as_overlay(mounts) } else { mounts }
}
