//! What remains to be done between the last layer and the first commit.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::Layer;
use super::described;
use super::host::{Host, OverlayDirs};
use super::implicit_dirs::{Candidate, candidates, restore_parents};
use super::snapshots::Snapshots;
use super::unpack_layer::{AppliedBy, UnpackedLayer};
use crate::engine::EngineError;

/// Copies the attributes of implicit folders from the layers below, bottom up, then syncs if that is wanted. `false` if a layer's archive
/// does not say what was made of it: then containerd has to unpack the layers one after the other.
pub(super) async fn finish(
    snapshots: &Snapshots,
    layers: &[Layer],
    host: Arc<Host>,
    unpacked: &[UnpackedLayer],
) -> Result<bool, EngineError> {
    let layer = |unpacked: &UnpackedLayer| Some((unpacked.dirs.clone()?, unpacked.applied_by.clone()));
    let Some(unpacked) = unpacked.iter().map(layer).collect() else { return Ok(false) };
    let chain = Arc::new(Chain { host, unpacked });
    let (mut from, mut restored) = (0, 0);
    while let Some((at, candidates)) = chain.run(layers, move |chain| chain.survey(from)).await? {
        let described = match &chain.unpacked[at].1 {
            AppliedBy::InProcess(Some(described)) => described.clone(),
            _ => match described::read(&snapshots.content(), &layers[at].blob).await {
                Ok(described) => Arc::new(described),
                Err(error) => {
                    tracing::info!(%error, "the layers are unpacked one after the other");
                    return Ok(false);
                }
            },
        };
        let restore = move |chain: &Chain| {
            let (upper, lower) = chain.open(at)?;
            restore_parents(&upper, &lower, &candidates, &described)
        };
        let Some(count) = chain.run(layers, restore).await? else {
            tracing::info!(layer = %layers[at].blob.digest, "the layers are unpacked one after the other");
            return Ok(false);
        };
        (from, restored) = (at + 1, restored + count);
    }
    if restored > 0 {
        tracing::debug!(restored, "directories without an entry of their own got the attributes of the layers below");
    }
    if snapshots.sync() {
        chain.run(layers, Chain::sync).await?;
    }
    Ok(true)
}

/// Layers that were unpacked, lowest first.
struct Chain {
    host: Arc<Host>,
    unpacked: Vec<(OverlayDirs, AppliedBy)>,
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
        let (below, rest) = self.unpacked.split_at(at);
        let upper = rest.first().or(below.last()).ok_or(rustix::io::Errno::NOENT)?;
        let base = self.unpacked.first().map(|(lowest, _)| &lowest.lower);
        let lower = below.iter().rev().map(|(dirs, _)| &dirs.upper).chain(base.into_iter().flatten());
        let lower: rustix::io::Result<_> = lower.map(|path| self.host.folder(path)).collect();
        Ok((self.host.folder(&upper.0.upper)?, lower?))
    }

    /// The first layer from number `from` on with directories that may have to be restored.
    fn survey(&self, from: usize) -> rustix::io::Result<Option<(usize, Vec<Candidate>)>> {
        for at in from..self.unpacked.len() {
            match &self.unpacked[at].1 {
                AppliedBy::InProcess(Some(described)) if described.is_empty() => continue,
                // containerd knew what lies below the lowest.
                AppliedBy::DiffService if at == 0 => continue,
                _ => {}
            }
            let (upper, lower) = self.open(at)?;
            // Below the bottom of a chain lies nothing.
            let found = if lower.is_empty() { Vec::new() } else { candidates(&upper, &lower)? };
            if !found.is_empty() {
                return Ok(Some((at, found)));
            }
        }
        Ok(None)
    }

    fn sync(&self) -> rustix::io::Result<()> {
        match self.unpacked.first() {
            Some((lowest, _)) => rustix::fs::syncfs(self.host.folder(&lowest.upper)?),
            None => Ok(()),
        }
    }
}
