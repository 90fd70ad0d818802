//! The lease of a push, and what is pinned under it.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::pinning::Pinning;
use crate::door::registry::graph::held;
use crate::engine::images::{Images, Query};
use crate::engine::{EngineError, Lease};
use crate::image::{Descriptor, Digest};

/// How many images of the repository are pinned at first.
const COVERED: usize = 4;

/// A lease, and what this process has pinned under it.
#[derive(Debug)]
pub(in crate::door::registry) struct PushLease {
    pub(in crate::door::registry) lease: Arc<dyn Lease>,
    pinning: Pinning,
    /// Filled when the images of the repository are pinned.
    covered: OnceCell<()>,
}

impl PushLease {
    pub(super) fn new(lease: Arc<dyn Lease>) -> Self {
        Self { lease, pinning: Pinning::default(), covered: OnceCell::new() }
    }

    /// The size of a blob, which is pinned before it is looked up; `None` if the engine lacks it. The first look pins the
    /// images that the repository's tags name: most blobs of a push are theirs.
    pub(super) async fn find(
        &self,
        images: &Arc<dyn Images>,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<u64>, EngineError> {
        self.covered.get_or_init(|| self.cover(images, repository)).await;
        let covered = if self.pinning.is_covered(digest) { images.intact(digest).await? } else { None };
        match covered {
            Some(size) => Ok(Some(size)),
            None => self.pinning.pin(&*self.lease, digest).await,
        }
    }

    /// Pins the images that tags of the repository name, as far as they can be read: what is not is pinned blob by blob.
    async fn cover(&self, images: &Arc<dyn Images>, repository: &str) {
        let query = Query { prefix: format!("{repository}:"), ..Query::default() };
        let Ok(page) = images.list(&query).await else { return };
        let mut records = page.records;
        // The usual tag first, then those that are called by the highest numbers.
        let is_usual = |name: &Option<String>| name.as_ref().is_some_and(|name| name.ends_with(":latest"));
        records.sort_by(|one, other| (is_usual(&other.name), &other.name).cmp(&(is_usual(&one.name), &one.name)));
        let mut roots: Vec<_> = Vec::new();
        for record in records {
            if roots.len() < COVERED && !roots.iter().any(|root: &Descriptor| root.digest == record.target.digest) {
                roots.push(record.target);
            }
        }
        for root in roots {
            let Some(graph) = held(images, &root).await else { continue };
            let graph = Arc::new(graph);
            match self.lease.pin_graph(&graph).await {
                Ok(_) => self.pinning.covers(&graph),
                Err(error) => tracing::debug!(%error, root = %root.digest, "its blobs are pinned one by one"),
            }
        }
    }
}
