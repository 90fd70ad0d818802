//! All layers at once: for snapshotters that can give a snapshot its parent when it is committed.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::available_parallelism;

use containerd_client::types::Mount;
use futures_util::future::try_join_all;
use tokio::task::spawn_blocking;

use super::host::{Host, Place, as_overlay};
use super::mend::{Moment, mend, modified};
use super::snapshots::{Prepared, Snapshots, key};
use super::turns::Turns;
use super::{Arrivals, Job, Layer, Outcome};
use crate::engine::EngineError;
use crate::image::Digest;
use crate::progress::{Event, Events};

/// How many layers are unpacked at once at most. Inflating keeps one core busy per layer, and the file system's
/// journal does not let many writers in anyway.
const AT_ONCE: usize = 4;

/// A layer that was unpacked into an active snapshot.
struct Filled {
    key: String,
    place: Place,
    since: Moment,
}

/// Unpacks `layers`, all that are missing of a chain, onto `parent`.
///
/// Nothing is synced while layers are unpacked. When all are, their file system is synced once, and only then is the
/// first snapshot committed: from that moment others may build on it, and after a power failure nobody would notice
/// that its files are empty. One sync for all costs less than one per layer, each of which would also write out what
/// the others have in the works.
pub(super) async fn unpack(
    snapshots: &Snapshots,
    job: &Job,
    depth: usize,
    arrivals: &Arrivals,
    events: &Events,
) -> Result<Outcome, EngineError> {
    let Some(host) = snapshots.host().await? else { return Ok(Outcome::Impossible) };
    let host = Arc::new(host);
    let layers = &job.layers[depth..];
    let below = |at: usize| (depth + at).checked_sub(1).map(|below| &job.layers[below].chain);
    // The lowest is prepared on its real parent: that pins the parent until the lowest is committed, and says where all
    // the layers below it lie.
    let (Some(lowest), parent) = (layers.first(), below(0)) else { return Ok(Outcome::Done) };
    let lowest_key = key(lowest);
    let mounts = match snapshots.prepare(&lowest_key, lowest, parent, parent).await? {
        Prepared::Mounts(mounts) => mounts,
        Prepared::Exists | Prepared::NoParent => return Ok(Outcome::Moved),
    };
    if Place::of(&mounts).is_none_or(|place| host.folder(&place.upper).is_err()) {
        snapshots.remove(&lowest_key).await?;
        return Ok(Outcome::Impossible);
    }
    let mut prepared = Some((lowest_key, mounts));
    let turns = Turns::new(available_parallelism().map_or(1, NonZeroUsize::get).min(AT_ONCE));
    let fill = layers.iter().enumerate().map(|(at, layer)| {
        let prepared = prepared.take();
        let (host, turns) = (&host, &turns);
        let below = below(at);
        async move {
            arrivals.wait(&layer.blob.digest).await;
            let _turn = turns.take(layer.blob.size).await;
            fill(snapshots, layer, below, prepared, host, events).await
        }
    });
    let fill: Vec<_> = fill.collect();
    let filled: Option<Vec<Filled>> = try_join_all(fill).await?.into_iter().collect();
    let Some(filled) = filled else {
        // Somebody else unpacks the same chain: look again at what is left to do.
        snapshots.remove_active().await;
        return Ok(Outcome::Moved);
    };
    let keys: Vec<_> = filled.iter().map(|filled| filled.key.clone()).collect();
    let task = spawn_blocking(move || finish(&host, &filled));
    let mended = match task.await {
        Ok(Ok(mended)) => mended,
        Ok(Err(error)) => return Err(disk(lowest, &error.to_string())),
        Err(error) => return Err(disk(lowest, &error.to_string())),
    };
    if mended > 0 {
        tracing::debug!(mended, "folders without an entry of their own took after the layers below");
    }
    for (at, (layer, key)) in layers.iter().zip(&keys).enumerate() {
        let below = below(at);
        // The lowest has its parent already.
        let parent = if at == 0 { None } else { below };
        snapshots.commit(key, layer, below, parent).await?;
    }
    Ok(Outcome::Done)
}

/// Unpacks one layer into a snapshot without a parent, or the one that is `prepared`. `None` if its chain exists.
async fn fill(
    snapshots: &Snapshots,
    layer: &Layer,
    below: Option<&Digest>,
    prepared: Option<(String, Vec<Mount>)>,
    host: &Host,
    events: &Events,
) -> Result<Option<Filled>, EngineError> {
    let (key, mounts) = match prepared {
        Some(prepared) => prepared,
        None => {
            let key = key(layer);
            match snapshots.prepare(&key, layer, below, None).await? {
                Prepared::Mounts(mounts) => (key, mounts),
                Prepared::Exists | Prepared::NoParent => return Ok(None),
            }
        }
    };
    let place = Place::of(&mounts).ok_or_else(|| disk(layer, "its snapshot is not an overlay"))?;
    let upper = host.folder(&place.upper).map_err(|error| disk(layer, &error.to_string()))?;
    let since = modified(&upper).map_err(|error| disk(layer, &error.to_string()))?;
    // The bottom of the chain has nothing below that a whiteout could hide.
    let mounts = if below.is_some() { as_overlay(mounts) } else { mounts };
    events.emit(Event::Unpacking { digest: layer.blob.digest.clone() });
    snapshots.apply(layer, mounts, false).await?;
    events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
    Ok(Some(Filled { key, place, since }))
}

/// What must be done between the last layer and the first commit: [`mend`] from the bottom up, then one sync.
fn finish(host: &Host, filled: &[Filled]) -> rustix::io::Result<usize> {
    let Some(lowest) = filled.first() else { return Ok(0) };
    let open = |path: &std::path::PathBuf| host.folder(path);
    // The nearest first, as `mend` wants them.
    let mut lower: Vec<OwnedFd> = lowest.place.lower.iter().map(open).collect::<Result<_, _>>()?;
    let mut mended = 0;
    for (at, filled) in filled.iter().enumerate() {
        let upper = host.folder(&filled.place.upper)?;
        // containerd knew what lies below the lowest, and below the bottom of a chain lies nothing.
        if at > 0 {
            mended += mend(&upper, filled.since, &lower)?;
        }
        lower.insert(0, upper);
    }
    if let Some(top) = lower.first() {
        rustix::fs::syncfs(top)?;
    }
    Ok(mended)
}

fn disk(layer: &Layer, reason: &str) -> EngineError {
    EngineError::Unpack { layer: layer.blob.digest.clone(), reason: reason.to_owned() }
}
