//! An image on its way into a layout.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::index::LayoutIndex;
use super::lease::LayoutLease;
use super::names::write_index;
use super::read::read_sealed_index;
use super::{blob_writer, lock};
use crate::engine::{EngineError, ImageTransaction, Opened, Plan, Precondition, PreparedImage};
use crate::image::{Descriptor, Graph, Kind, Reference};

/// An image that is being exported under a lease.
#[derive(Debug, Clone)]
pub(super) struct LayoutTransaction {
    lease: LayoutLease,
    graph: Arc<Graph>,
    plan: Arc<Plan>,
}

/// Pins `graph`, stores its documents and looks for its leaves. Blocks.
pub(super) fn plan(lease: &LayoutLease, graph: &Graph) -> Result<Plan, EngineError> {
    lease.pins.add(graph.descriptors().map(|blob| &blob.digest))?;
    let is_there = |blob: &Descriptor| lease.is_there(blob);
    let mut plan = Plan::default();
    for document in graph.documents() {
        // One with other bytes is replaced: what other tools wrote may not have survived a power loss.
        if is_there(&document.descriptor) && lease.blobs.is_same(&document.descriptor.digest, &document.bytes) {
            plan.present.push(document.descriptor.clone());
        } else {
            // Whoever read the graph has verified it.
            let bytes = std::slice::from_ref(&document.bytes);
            lease.blobs.store(&document.descriptor.digest, bytes, &lease.export)?;
            plan.stored.push(document.descriptor.clone());
        }
    }
    for leaf in graph.leaves() {
        match (is_there(leaf), leaf.kind()) {
            (true, _) => plan.present.push(leaf.clone()),
            (false, Kind::ForeignLayer) => {}
            (false, _) => plan.missing.push(leaf.clone()),
        }
    }
    plan.missing.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    Ok(plan)
}

impl LayoutTransaction {
    /// Plans `graph`. Blocks.
    pub(super) fn begin(lease: LayoutLease, graph: Arc<Graph>) -> Result<Self, EngineError> {
        let plan = Arc::new(plan(&lease, &graph)?);
        Ok(Self { lease, graph, plan })
    }

    /// Runs file work off the reactor.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let this = self.clone();
        self.lease.work(move |_| work(&this)).await
    }

    /// Fails unless every blob has its name, except for foreign layers.
    fn verify(&self) -> Result<(), EngineError> {
        let missing = self.graph.descriptors().filter(|blob| blob.kind() != Kind::ForeignLayer);
        let missing = missing.filter(|blob| self.lease.blobs.present(&blob.digest, Some(blob.size)).is_none());
        let digests: Vec<_> = missing.map(|blob| blob.digest.clone()).collect();
        if digests.is_empty() { Ok(()) } else { Err(EngineError::Missing { digests }) }
    }

    fn publish(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        let (root, paths) = (self.graph.root(), &self.lease.blobs.paths);
        let _lock = lock::exclusive(paths)?;
        let (mut index, before) = match read_sealed_index(paths)? {
            Some((index, before)) => (index, Some(before)),
            None => {
                let empty = LayoutIndex::parse(br#"{"schemaVersion":2,"manifests":[]}"#);
                (empty.map_err(|reason| paths.refuse(reason))?, None)
            }
        };
        for precondition in preconditions {
            precondition.check(index.resolve(&precondition.name).map(|target| &target.digest))?;
        }
        if index.resolves_to(root, names) {
            self.lease.committed(false);
            return Ok(());
        }
        let unwritable = |error: serde_json::Error| paths.refuse(format!("index.json cannot be written: {error}"));
        let replaced = index.insert(root, names).map_err(unwritable)?;
        let bytes = index.to_bytes().map_err(unwritable)?;
        write_index(&self.lease.blobs, &bytes, before.as_ref(), &replaced)?;
        self.lease.committed(!replaced.is_empty());
        Ok(())
    }
}

impl ImageTransaction for LayoutTransaction {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn writer<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>> {
        let blob = blob.clone();
        Box::pin(async move {
            let writer = self.lease.work(move |lease| {
                lease.pins.add([&blob.digest])?;
                blob_writer::begin(&lease.blobs, &lease.export, &blob)
            });
            Ok(writer.await?.map_or(Opened::Present, |writer| Opened::Writer(Box::new(writer))))
        })
    }

    fn prepare(&self) -> BoxFuture<'_, Result<&dyn PreparedImage, EngineError>> {
        Box::pin(async move {
            self.lease.blobs.flush().await?;
            self.work(Self::verify).await?;
            Ok(self as &dyn PreparedImage)
        })
    }

    /// Nothing is under way but what its caller has dropped.
    fn cancel(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl PreparedImage for LayoutTransaction {
    fn commit<'a>(
        &'a self,
        names: &'a [Reference],
        preconditions: &'a [Precondition],
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        let (names, preconditions) = (names.to_vec(), preconditions.to_vec());
        Box::pin(self.work(move |this| this.publish(&names, &preconditions)))
    }
}
