//! Leases of a bucket.

use std::sync::Arc;

use super::ingests::ObjectIngests;
use super::pins::StoredPins;
use super::stores::Stores;
use crate::engine::{EngineError, Pin, Plan};
use crate::image::Graph;

/// A lease.
#[derive(Debug)]
pub(super) struct ObjectLease {
    pub(super) stores: Arc<Stores>,
    pub(super) pins: Arc<StoredPins>,
    pub(super) ingests: ObjectIngests,
}

impl ObjectLease {
    /// The lease of `export`, which ends with this process, or is durable if there is a `record`.
    pub(super) async fn open(stores: &Arc<Stores>, export: &str, record: Option<String>) -> Result<Self, EngineError> {
        let (pins, uploads) = stores.leases.open(export, record).await?;
        let pins = Arc::new(pins);
        let ingests = ObjectIngests::new(stores, &pins, export);
        ingests.restore(uploads).await?;
        Ok(Self { stores: stores.clone(), pins, ingests })
    }

    /// Pins `graph`, then looks up which of its blobs are there, and stores the documents that are not, or are damaged.
    pub(super) async fn plan(&self, graph: &Graph) -> Result<Plan, EngineError> {
        self.pins.add(graph.descriptors().map(|blob| &blob.digest)).await?;
        let pins: Vec<Pin> = graph.descriptors().map(Pin::from).collect();
        let sizes = self.stores.blobs.sizes(&pins).await?;
        let (documents, leaves) = sizes.split_at(graph.documents().len());
        let intact = self.stores.blobs.intact(graph.documents(), documents).await?;
        let (mut plan, mut missing) = (Plan::default(), Vec::new());
        for (document, is_intact) in graph.documents().iter().zip(intact) {
            if is_intact {
                plan.present.push(document.descriptor.clone());
            } else {
                // The reader of the graph has verified the bytes.
                missing.push((document.descriptor.digest.clone(), document.bytes.clone()));
                plan.stored.push(document.descriptor.clone());
            }
        }
        self.stores.blobs.store(missing).await?;
        plan.add_leaves(graph.leaves().iter().zip(leaves).map(|(leaf, size)| (leaf, size.is_some())));
        Ok(plan)
    }
}
