//! One layer after the other: for snapshotters that need the parent before the child.

use super::snapshots::{Prepared, Snapshots, key};
use super::{Attempt, CommittedBlobs, Job};
use crate::engine::EngineError;
use crate::progress::{Event, Events};

/// Unpacks `job` from its layer number `depth` on.
///
/// Each layer is synced to the disk before it is committed: a committed snapshot may at once be built upon by others,
/// and a power failure would leave it with empty files, unnoticed.
pub(super) async fn unpack(
    snapshots: &Snapshots,
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
                events.emit(Event::Unpacking { digest: layer.blob.digest.clone() });
                snapshots.applier().apply(layer, mounts, true).await?;
                snapshots.commit(&key, layer, parent, None).await?;
                events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
            }
        }
    }
    Ok(Attempt::Done)
}
