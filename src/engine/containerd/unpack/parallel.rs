//! All layers at once: for snapshotters that can give a snapshot its parent when it is committed.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::available_parallelism;

use containerd_client::types::Mount;
use futures_util::future::try_join_all;
use tokio::task::spawn_blocking;

use super::described;
use super::host::{Host, OverlayDirs, as_overlay};
use super::implicit_dirs::{Candidate, candidates, restore_parents};
use super::priority_semaphore::PrioritySemaphore;
use super::snapshots::{Prepared, Snapshots, key};
use super::{Attempt, CommittedBlobs, Job, Layer};
use crate::engine::EngineError;
use crate::image::Digest;
use crate::progress::{Event, Events};

/// How many layers are unpacked at once at most. Inflating keeps one core busy per layer, and the file system's
/// journal does not let many writers in anyway.
const AT_ONCE: usize = 4;

/// A layer that was unpacked into an active snapshot.
struct Filled {
    key: String,
    dirs: OverlayDirs,
}

/// Unpacks `layers`, all that are missing of a chain, onto `parent`.
///
/// Nothing is synced while layers are unpacked. When all are, their file system is synced once, and only then is the
/// first snapshot committed: from that moment others may build on it, and a power failure would leave it with
/// empty files, unnoticed. One sync for all costs less than one per layer, each of which would also write out what
/// the others have in the works.
pub(super) async fn unpack(
    snapshots: &Snapshots,
    job: &Job,
    depth: usize,
    committed: &CommittedBlobs,
    events: &Events,
) -> Result<Attempt, EngineError> {
    let Some(host) = snapshots.host().await? else { return Ok(Attempt::Impossible) };
    let host = Arc::new(host);
    let layers = &job.layers[depth..];
    let below = |at: usize| (depth + at).checked_sub(1).map(|below| &job.layers[below].chain);
    // The lowest is prepared on its real parent: that pins the parent until the lowest is committed, and says where all
    // the layers below it lie.
    let (Some(lowest), parent) = (layers.first(), below(0)) else { return Ok(Attempt::Done) };
    let lowest_key = key(lowest);
    let mounts = match snapshots.prepare(&lowest_key, lowest, parent, parent).await? {
        Prepared::Mounts(mounts) => mounts,
        Prepared::Exists | Prepared::NoParent => return Ok(Attempt::Moved),
    };
    if OverlayDirs::of(&mounts).is_none_or(|dirs| host.folder(&dirs.upper).is_err()) {
        snapshots.remove(&lowest_key).await?;
        return Ok(Attempt::Impossible);
    }
    let mut prepared = Some((lowest_key, mounts));
    let permits = PrioritySemaphore::new(available_parallelism().map_or(1, NonZeroUsize::get).min(AT_ONCE));
    let fill = layers.iter().enumerate().map(|(at, layer)| {
        let prepared = prepared.take();
        let permits = &permits;
        let below = below(at);
        async move {
            committed.wait(&layer.blob.digest).await;
            let _permit = permits.acquire(layer.blob.size).await;
            fill(snapshots, layer, below, prepared, events).await
        }
    });
    let fill: Vec<_> = fill.collect();
    let filled: Option<Vec<Filled>> = try_join_all(fill).await?.into_iter().collect();
    let Some(filled) = filled else {
        // Another client unpacks the same chain: look again what is left to do.
        snapshots.remove_active().await;
        return Ok(Attempt::Moved);
    };
    let keys: Vec<_> = filled.iter().map(|filled| filled.key.clone()).collect();
    if !finish(snapshots, layers, host, filled).await? {
        snapshots.remove_active().await;
        return Ok(Attempt::Impossible);
    }
    for (at, (layer, key)) in layers.iter().zip(&keys).enumerate() {
        let below = below(at);
        // The lowest has its parent already.
        let parent = if at == 0 { None } else { below };
        snapshots.commit(key, layer, below, parent).await?;
    }
    Ok(Attempt::Done)
}

/// Unpacks one layer into a snapshot without a parent, or the one that is `prepared`. `None` if its chain exists.
async fn fill(
    snapshots: &Snapshots,
    layer: &Layer,
    below: Option<&Digest>,
    prepared: Option<(String, Vec<Mount>)>,
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
    let dirs = OverlayDirs::of(&mounts).ok_or_else(|| disk(layer, "its snapshot is not an overlay"))?;
    // The bottom of the chain has nothing below that a whiteout could hide.
    let mounts = if below.is_some() { as_overlay(mounts) } else { mounts };
    events.emit(Event::Unpacking { digest: layer.blob.digest.clone() });
    snapshots.applier().apply(layer, mounts, false).await?;
    events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
    Ok(Some(Filled { key, dirs }))
}

/// What must be done between the last layer and the first commit: folders without an entry take after the layers below,
/// from the bottom up, and all is synced. `false` if a layer's archive does not say what containerd made of it: then its
/// layers have to be unpacked one after the other.
async fn finish(
    snapshots: &Snapshots,
    layers: &[Layer],
    host: Arc<Host>,
    filled: Vec<Filled>,
) -> Result<bool, EngineError> {
    let chain = Arc::new(Chain { host, filled });
    let (mut at, mut restored) = (0, 0);
    while let Some((found, candidates)) = chain.run(layers, move |chain| chain.survey(at)).await? {
        let described = match described::read(&snapshots.content(), &layers[found].blob).await {
            Ok(described) => described,
            Err(error) => {
                tracing::info!(%error, "the layers are unpacked one after the other");
                return Ok(false);
            }
        };
        let restore = move |chain: &Chain| {
            let (upper, lower) = chain.open(found)?;
            restore_parents(&upper, &lower, &candidates, &described)
        };
        let Some(count) = chain.run(layers, restore).await? else {
            tracing::info!(layer = %layers[found].blob.digest, "the layers are unpacked one after the other");
            return Ok(false);
        };
        (at, restored) = (found, restored + count);
    }
    if restored > 0 {
        tracing::debug!(restored, "directories without an entry of their own got the attributes of the layers below");
    }
    chain.run(layers, Chain::sync).await?;
    Ok(true)
}

/// Layers that were unpacked, lowest first.
struct Chain {
    host: Arc<Host>,
    filled: Vec<Filled>,
}

impl Chain {
    /// Does work on the file system.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        layers: &[Layer],
        work: impl FnOnce(&Self) -> rustix::io::Result<T> + Send + 'static,
    ) -> Result<T, EngineError> {
        let chain = self.clone();
        let failed = |reason: String| EngineError::Unpack { layer: layers[0].blob.digest.clone(), reason };
        match spawn_blocking(move || work(&chain)).await {
            Ok(outcome) => outcome.map_err(|error| failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The folder of a layer, and those of the layers below, the nearest first.
    fn open(&self, at: usize) -> rustix::io::Result<(OwnedFd, Vec<OwnedFd>)> {
        let (below, rest) = self.filled.split_at(at);
        let upper = rest.first().or(below.last()).ok_or(rustix::io::Errno::NOENT)?;
        let base = self.filled.first().map(|lowest| &lowest.dirs.lower);
        let lower = below.iter().rev().map(|filled| &filled.dirs.upper).chain(base.into_iter().flatten());
        let lower: rustix::io::Result<_> = lower.map(|path| self.host.folder(path)).collect();
        Ok((self.host.folder(&upper.dirs.upper)?, lower?))
    }

    /// The first layer above number `after` with directories that may have to be restored. containerd knew what lies below the
    /// lowest, and below the bottom of a chain lies nothing.
    fn survey(&self, after: usize) -> rustix::io::Result<Option<(usize, Vec<Candidate>)>> {
        for at in after + 1..self.filled.len() {
            let (upper, lower) = self.open(at)?;
            let found = candidates(&upper, &lower)?;
            if !found.is_empty() {
                return Ok(Some((at, found)));
            }
        }
        Ok(None)
    }

    fn sync(&self) -> rustix::io::Result<()> {
        match self.filled.first() {
            Some(lowest) => rustix::fs::syncfs(self.host.folder(&lowest.dirs.upper)?),
            None => Ok(()),
        }
    }
}

fn disk(layer: &Layer, reason: &str) -> EngineError {
    EngineError::Unpack { layer: layer.blob.digest.clone(), reason: reason.to_owned() }
}
