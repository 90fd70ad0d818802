//! Unpacking: turning layers into a chain of snapshots, while other layers are still on their way.

mod apply;
mod apply_tasks;
mod described;
mod finish;
mod host;
mod implicit_dirs;
mod in_process;
mod layer;
mod parallel;
mod priority_semaphore;
mod serial;
mod snapshots;
mod unpack_layer;

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use self::apply::LayerApplier;
pub(crate) use self::host::Host;
#[cfg(any(test, fuzzing))]
pub(crate) use self::in_process::fuzz;
use self::layer::Layer;
pub(crate) use self::snapshots::{Snapshots, exists};
use super::labels;
use crate::engine::EngineError;
use crate::image::{Digest, Graph, Platform};
use crate::progress::Events;

/// The blobs that are in the store by now. Clones share one set.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommittedBlobs(Arc<watch::Sender<HashSet<Digest>>>);

impl CommittedBlobs {
    /// Blobs are in the store and pinned.
    pub(crate) fn add(&self, blobs: impl IntoIterator<Item = Digest>) {
        self.0.send_modify(|set| set.extend(blobs));
    }

    /// Waits until `blob` is in the store.
    async fn wait(&self, blob: &Digest) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.0.subscribe().wait_for(|set| set.contains(blob)).await;
    }
}

/// What is to be unpacked of an image.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The image's config, which keeps the snapshots alive.
    pub(crate) config: Digest,
    pub(crate) snapshotter: String,
    /// Lowest first; never empty.
    pub(crate) layers: Vec<Layer>,
}

impl Job {
    /// What `host` has to unpack of `graph`: nothing if no image in it runs there, if that has no layers, or if its
    /// config does not describe them (then it is no file-system image, and containerd would refuse it as well).
    pub(crate) fn of(graph: &Graph, host: &Platform, snapshotter: &str) -> Option<Self> {
        let (_, manifest, config_document, config) = graph.image_for(host)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.is_empty() || diff_ids.len() != manifest.layers.len() {
            return None;
        }
        let chains = config.rootfs.chain_ids();
        let layers = manifest.layers.iter().zip(diff_ids).zip(chains).map(|((blob, diff_id), chain)| Layer {
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            chain,
        });
        Some(Self {
            config: config_document.descriptor.digest.clone(),
            snapshotter: snapshotter.to_owned(),
            layers: layers.collect(),
        })
    }

    /// The name of the unpacked image's snapshot.
    pub(crate) fn top(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain)
    }

    /// The label by which the config keeps the unpacked image alive. It may be set before the snapshot exists.
    pub(crate) fn label(&self) -> Option<(String, String)> {
        self.top().map(|top| labels::snapshot(&self.snapshotter, top))
    }
}

/// How often to begin again when other clients create or remove snapshots of the chain meanwhile and it is no longer than before:
/// while a collector removes what images shared that were just deleted, a chain shrinks and grows for a while.
const TRIES: usize = 32;

/// How an attempt to unpack ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// The chain is there.
    Done,
    /// Snapshots appeared or vanished meanwhile; what is left to do must be found out again.
    Moved,
    /// It cannot be done this way here.
    Impossible,
}

async fn unpack(
    snapshots: &Snapshots,
    job: &Job,
    parallel: bool,
    committed: &CommittedBlobs,
    events: &Events,
) -> Result<(), EngineError> {
    let mut parallel = parallel;
    let (mut applier, mut deepest, mut in_vain) = (None, None, 0);
    while in_vain < TRIES {
        let depth = snapshots.depth(&job.layers).await?;
        if depth == job.layers.len() {
            return Ok(());
        }
        // Another client has unpacked what a longer chain has more: there are as many attempts for that as there are layers.
        match deepest {
            Some(deepest) if depth <= deepest => in_vain += 1,
            _ => deepest = Some(depth),
        }
        let applier = match &applier {
            Some(applier) => applier,
            None => applier.insert(LayerApplier::of(snapshots).await?),
        };
        if parallel && job.layers.len() - depth > 1 {
            match parallel::unpack(snapshots, applier, job, depth, committed, events).await? {
                Attempt::Done => return Ok(()),
                Attempt::Moved => continue,
                Attempt::Impossible => parallel = false,
            }
        }
        if serial::unpack(snapshots, applier, job, depth, committed, events).await? == Attempt::Done {
            return Ok(());
        }
    }
    let reason = "its snapshots come and go faster than they can be used".to_owned();
    match job.layers.last() {
        Some(layer) => Err(EngineError::Unpack { layer: layer.blob.digest.clone(), reason }),
        None => Ok(()),
    }
}

/// A running unpack. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Unpack(AbortOnDropHandle<Result<(), EngineError>>);

impl Unpack {
    /// Starts to unpack `job`: each layer as soon as it is in `committed`; several at once if `parallel` and possible.
    pub(crate) fn start(
        job: Job,
        snapshots: Snapshots,
        parallel: bool,
        committed: CommittedBlobs,
        events: Events,
    ) -> Self {
        let task = async move { unpack(&snapshots, &job, parallel, &committed, &events).await };
        Self(AbortOnDropHandle::new(tokio::spawn(task.in_current_span())))
    }

    /// Whether it has come to its end, good or bad.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the end.
    pub(crate) async fn finish(self) -> Result<(), EngineError> {
        let ended =
            |error: JoinError| EngineError::Protocol { operation: "unpacking".to_owned(), reason: error.to_string() };
        self.0.await.map_err(ended)?
    }

    /// Stops it and waits until it has stopped.
    pub(crate) async fn cancel(self) {
        self.0.abort();
        // Cancelled, failed or complete: it has ended.
        let _ = self.0.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn arrivals_are_waited_for() {
        let committed = CommittedBlobs::default();
        let digest = Digest::sha256(b"a");
        let waiting = tokio::spawn({
            let (committed, digest) = (committed.clone(), digest.clone());
            async move { committed.wait(&digest).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        committed.add([digest]);
        waiting.await.unwrap();
    }
}
