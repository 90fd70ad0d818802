//! One layer after the other: for snapshotters that need the parent before the child.

use super::snapshots::{Prepared, Snapshots, key};
use super::{Arrivals, Job};
use crate::engine::EngineError;
use crate::progress::{Event, Events};

/// How often to begin again when snapshots come and go under our feet.
const TRIES: usize = 3;

/// Unpacks `job` from the lowest layer that is not there yet.
///
/// Each layer is synced to the disk before it is committed: a committed snapshot may at once be built upon by
/// others, and after a power failure nobody would notice that its files are empty.
pub(super) async fn unpack(
    snapshots: &Snapshots,
    job: &Job,
    arrivals: &Arrivals,
    events: &Events,
) -> Result<(), EngineError> {
    for _ in 0..TRIES {
        if climb(snapshots, job, arrivals, events).await? {
            return Ok(());
        }
    }
    let layer = job.layers.first().map(|layer| layer.blob.digest.clone());
    Err(match layer {
        Some(layer) => {
            EngineError::Unpack { layer, reason: "its snapshots are removed as fast as they are made".into() }
        }
        None => EngineError::Protocol { operation: "unpacking".into(), reason: "there are no layers".into() },
    })
}

/// `false` if a snapshot that was there is gone.
async fn climb(snapshots: &Snapshots, job: &Job, arrivals: &Arrivals, events: &Events) -> Result<bool, EngineError> {
    let depth = snapshots.depth(&job.layers).await?;
    for (at, layer) in job.layers.iter().enumerate().skip(depth) {
        let parent = at.checked_sub(1).map(|below| &job.layers[below].chain);
        arrivals.wait(&layer.blob.digest).await;
        let key = key(layer);
        match snapshots.prepare(&key, layer, parent, parent).await? {
            Prepared::Exists if snapshots.exists(layer.chain.as_str()).await? => continue,
            Prepared::Exists | Prepared::NoParent => return Ok(false),
            Prepared::Mounts(mounts) => {
                events.emit(Event::Unpacking { digest: layer.blob.digest.clone() });
                snapshots.apply(layer, mounts, true).await?;
                snapshots.commit(&key, layer, parent, None).await?;
                events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
            }
        }
    }
    Ok(true)
}
