//! Unpacks one layer into an active snapshot.

use std::sync::Arc;

use containerd_client::types::Mount;
use futures_util::future::OptionFuture;
use tokio_util::task::AbortOnDropHandle;

use super::apply::LayerApplier;
use super::described::Described;
use super::host::{OverlayDirs, as_overlay};
use super::in_process::{InProcessApplier, NotApplied};
use super::layer::Layer;
use super::snapshots::{PrepareOutcome, Snapshots};
use crate::engine::EngineError;
use crate::image::Digest;
use crate::progress::{Event, Events};

/// An active snapshot into which nothing has been unpacked yet.
#[derive(Debug, Clone)]
pub(super) struct ActiveSnapshot<'a> {
    pub(super) key: String,
    pub(super) mounts: Vec<Mount>,
    /// The chain that it was prepared on.
    pub(super) parent: Option<&'a Digest>,
}

impl ActiveSnapshot<'_> {
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
pub(super) struct UnpackedLayer {
    pub(super) key: String,
    /// Where it is, if it is an overlay.
    pub(super) dirs: Option<OverlayDirs>,
    pub(super) applied_by: AppliedBy,
    /// Labels the blob while its files are synced and its snapshot is committed.
    labelling: Option<AbortOnDropHandle<()>>,
}

impl UnpackedLayer {
    /// Waits until the blob is labelled with its diff id.
    pub(super) async fn labelled(self) {
        if let Some(Err(error)) = OptionFuture::from(self.labelling).await {
            tracing::warn!(%error, "the label of a layer may be missing");
        }
    }
}

/// Who unpacked a layer.
#[derive(Debug, Clone)]
pub(super) enum AppliedBy {
    /// containerd's diff service, which copied the attributes of implicit folders from the layers below, if there were any.
    DiffService,
    /// This process. Implicit folders still have root's defaults; `finish` copies the attributes. They are known, unless there are
    /// too many.
    InProcess(Option<Arc<Described>>),
}

/// Unpacks `layer` into `snapshot`. `below` is the chain that it lies on. With `sync` containerd syncs what it has unpacked; what
/// this process unpacks is synced by the caller. `None` if its chain exists by now, or what it was to lie on is gone.
#[tracing::instrument(name = "unpack", level = "debug", skip_all, fields(digest = %layer.blob.digest, bytes = layer.blob.size as i64))]
pub(super) async fn unpack_layer(
    snapshots: &Snapshots,
    applier: &LayerApplier,
    layer: &Layer,
    below: Option<&Digest>,
    mut snapshot: ActiveSnapshot<'_>,
    sync: bool,
    events: &Events,
) -> Result<Option<UnpackedLayer>, EngineError> {
    events.emit(Event::Unpacking { digest: layer.blob.digest.clone() });
    if let Some(in_process) = applier.in_process() {
        match apply_in_process(in_process, layer, below, &snapshot).await {
            Ok(described) => {
                let (diff, labelled) = (applier.diff().clone(), layer.clone());
                let labelling = tokio::spawn(async move { diff.label(&labelled, true).await });
                events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
                let applied_by = AppliedBy::InProcess(described.undescribed().map(Arc::new));
                return Ok(Some(UnpackedLayer {
                    dirs: OverlayDirs::of(&snapshot.mounts),
                    key: snapshot.key,
                    applied_by,
                    labelling: Some(AbortOnDropHandle::new(labelling)),
                }));
            }
            Err((NotApplied::Failed(error), _)) => {
                // containerd did not see this error, so it is recorded for the lease here.
                snapshots.client().note(&error);
                return Err(error);
            }
            Err((NotApplied::Unsupported(reason), is_touched)) => {
                tracing::info!(layer = %layer.blob.digest, reason, "containerd's diff service unpacks the layer");
                if is_touched {
                    match recreate(snapshots, layer, below, snapshot).await? {
                        Some(recreated) => snapshot = recreated,
                        None => return Ok(None),
                    }
                }
            }
        }
    }
    let (key, dirs) = (snapshot.key.clone(), OverlayDirs::of(&snapshot.mounts));
    applier.diff().apply(layer, snapshot.into_mounts(below), sync).await?;
    events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
    Ok(Some(UnpackedLayer { key, dirs, applied_by: AppliedBy::DiffService, labelling: None }))
}

/// Unpacks `layer` in this process. An error comes with whether anything was written.
async fn apply_in_process(
    applier: &InProcessApplier,
    layer: &Layer,
    below: Option<&Digest>,
    snapshot: &ActiveSnapshot<'_>,
) -> Result<Described, (NotApplied, bool)> {
    let is_bottom = snapshot.parent.is_none();
    let opened = applier.open(layer, &snapshot.clone().into_mounts(below), is_bottom).await;
    let opened = opened.map_err(|reason| (NotApplied::Unsupported(reason), false))?;
    applier.apply(layer, opened).await.map_err(|error| (error, true))
}

/// Removes `used` and prepares another snapshot for the same layer. `None` if its chain exists by now, or its parent is gone.
pub(super) async fn recreate<'a>(
    snapshots: &Snapshots,
    layer: &Layer,
    below: Option<&Digest>,
    used: ActiveSnapshot<'a>,
) -> Result<Option<ActiveSnapshot<'a>>, EngineError> {
    let parent = used.parent;
    snapshots.remove(&used.key).await?;
    let key = super::snapshots::key(layer);
    Ok(match snapshots.prepare(&key, layer, below, parent).await? {
        PrepareOutcome::Mounts(mounts) => Some(ActiveSnapshot { key, mounts, parent }),
        PrepareOutcome::Exists | PrepareOutcome::NoParent => None,
    })
}
