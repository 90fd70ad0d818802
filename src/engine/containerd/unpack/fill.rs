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
#[derive(Debug, Clone)]
pub(super) struct Empty<'a> {
    pub(super) key: String,
    pub(super) mounts: Vec<Mount>,
    /// The chain that it was prepared on.
    pub(super) parent: Option<&'a Digest>,
}

impl Empty<'_> {
    /// The mounts for an applier, if the layer is going to lie on `below`.
    ///
    /// Whiteouts in a snapshot that was prepared without its parent must become overlayfs's own. In one that has its parent, even as
    /// a bind mount of a copy (containerd's `native`), they remove files; and the bottom of a chain has nothing below.
    fn into_mounts(self, below: Option<&Digest>) -> Vec<Mount> {
        if below.is_some() && self.parent.is_none() { as_overlay(self.mounts) } else { self.mounts }
    }
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
    /// containerd, which copied the attributes of implicit folders from the layers below, if there were any.
    Containerd,
    /// This process. Implicit folders still have root's defaults; `finish` copies the attributes. They are known, unless there are
    /// too many.
    Own(Option<Arc<Described>>),
}

/// Unpacks `layer` into `empty`. `below` is the chain that it lies on. With `sync` containerd syncs what it has unpacked; what
/// this process unpacks is synced by the caller. `None` if its chain exists by now, or what it was to lie on is gone.
pub(super) async fn fill(
    snapshots: &Snapshots,
    applier: &LayerApplier,
    layer: &Layer,
    below: Option<&Digest>,
    mut empty: Empty<'_>,
    sync: bool,
    events: &Events,
) -> Result<Option<Filled>, EngineError> {
    events.emit(Event::Unpacking { digest: layer.blob.digest.clone() });
    if let Some(own) = applier.own() {
        match try_own(own, layer, below, &empty).await {
            Ok(described) => {
                applier.diff().label(layer, true).await;
                events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
                let applied = Applied::Own(described.undescribed().map(Arc::new));
                return Ok(Some(Filled { dirs: OverlayDirs::of(&empty.mounts), key: empty.key, applied }));
            }
            Err((NotApplied::Failed(error), _)) => {
                // containerd did not see this error, so it is recorded for the lease here.
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
    let (key, dirs) = (empty.key.clone(), OverlayDirs::of(&empty.mounts));
    applier.diff().apply(layer, empty.into_mounts(below), sync).await?;
    events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
    Ok(Some(Filled { key, dirs, applied: Applied::Containerd }))
}

/// Unpacks `layer` in this process. An error comes with whether anything was written.
async fn try_own(
    own: &Own,
    layer: &Layer,
    below: Option<&Digest>,
    empty: &Empty<'_>,
) -> Result<Described, (NotApplied, bool)> {
    let is_bottom = empty.parent.is_none();
    let prepared = own.prepare(layer, &empty.clone().into_mounts(below), is_bottom).await;
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
