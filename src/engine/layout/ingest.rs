//! One export into a layout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::collect::{collect, collect_later};
use super::index::LayoutIndex;
use super::lease::{Lease, Owner};
use super::lock;
use super::names::write_index;
use super::read::read_sealed_index;
use super::shared::Shared;
use super::uploads::LayoutUploads;
use super::writer;
use crate::engine::uploads::Uploads;
use crate::engine::{Condition, EngineError, Ingest, Opened, Plan};
use crate::image::{Descriptor, Graph, Kind, Reference};

/// One export's hold on a layout.
#[derive(Debug, Clone)]
pub(super) struct LayoutIngest {
    shared: Arc<Shared>,
    lease: Arc<Lease>,
    export: String,
    uploads: LayoutUploads,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    graph: Option<Arc<Graph>>,
    /// Whether images lost their names to this export.
    has_replaced: bool,
    is_committed: bool,
    conditions: Vec<Condition>,
}

impl LayoutIngest {
    /// Opens the export `export`, whose lease belongs to `owner`. Blocks.
    pub(super) fn open(shared: &Arc<Shared>, export: &str, owner: &Owner) -> Result<Self, EngineError> {
        let _lock = lock::shared(&shared.place)?;
        let lease = Lease::open(&shared.disk, &shared.place.lease(export), owner);
        let lease = Arc::new(lease.map_err(|error| shared.place.failed("making a lease", &error))?);
        let uploads = LayoutUploads::new(shared.clone(), lease.clone(), export.to_owned());
        Ok(Self { shared: shared.clone(), lease, export: export.to_owned(), uploads, state: Arc::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs file work off the reactor.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let this = self.clone();
        let done = spawn_blocking(move || work(&this)).await;
        done.unwrap_or_else(|_| Err(self.shared.place.refuse("the export broke off")))
    }

    /// Holds what `graph` names, and looks at nothing.
    pub(super) fn keep(&self, graph: &Graph) -> Result<(), EngineError> {
        self.lease.hold(&self.shared.place, graph.descriptors().map(|blob| &blob.digest))
    }

    fn make_plan(&self, graph: &Arc<Graph>) -> Result<Plan, EngineError> {
        self.lease.hold(&self.shared.place, graph.descriptors().map(|blob| &blob.digest))?;
        let is_there = |blob: &Descriptor| self.shared.hold(&blob.digest, Some(blob.size), &self.export).is_some();
        let mut plan = Plan::default();
        for document in graph.documents() {
            // One whose bytes are not these is mended: what other tools wrote may not have survived a power loss.
            if is_there(&document.descriptor) && self.shared.is_same(&document.descriptor.digest, &document.bytes) {
                plan.present.push(document.descriptor.clone());
            } else {
                // The walk has verified it.
                let bytes = std::slice::from_ref(&document.bytes);
                self.shared.store(&document.descriptor.digest, bytes, &self.export)?;
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
        self.state().graph = Some(graph.clone());
        Ok(plan)
    }

    fn graph(&self) -> Result<Arc<Graph>, EngineError> {
        self.state().graph.clone().ok_or_else(|| EngineError::Protocol {
            operation: "committing".to_owned(),
            reason: "the export has no plan yet".to_owned(),
        })
    }

    /// Fails unless every blob has its name, except for foreign layers.
    fn verify(&self) -> Result<(), EngineError> {
        let graph = self.graph()?;
        let missing = graph.descriptors().filter(|blob| blob.kind() != Kind::ForeignLayer);
        let missing = missing.filter(|blob| self.shared.present(&blob.digest, Some(blob.size)).is_none());
        let digests: Vec<_> = missing.map(|blob| blob.digest.clone()).collect();
        if digests.is_empty() { Ok(()) } else { Err(EngineError::Missing { digests }) }
    }

    fn publish(&self, names: &[Reference]) -> Result<(), EngineError> {
        let (graph, place) = (self.graph()?, &self.shared.place);
        let _lock = lock::exclusive(place)?;
        let (mut index, before) = match read_sealed_index(place)? {
            Some((index, before)) => (index, Some(before)),
            None => {
                let empty = LayoutIndex::parse(br#"{"schemaVersion":2,"manifests":[]}"#);
                (empty.map_err(|reason| place.refuse(reason))?, None)
            }
        };
        for condition in &self.state().conditions {
            condition.check(index.resolve(&condition.name).map(|target| &target.digest))?;
        }
        if index.stands(graph.root(), names) {
            self.state().is_committed = true;
            return Ok(());
        }
        let unwritable = |error: serde_json::Error| place.refuse(format!("index.json cannot be written: {error}"));
        let replaced = index.insert(graph.root(), names).map_err(unwritable)?;
        let bytes = index.to_bytes().map_err(unwritable)?;
        write_index(&self.shared, &bytes, before.as_ref(), &replaced)?;
        let mut state = self.state();
        state.has_replaced |= !replaced.is_empty();
        state.is_committed = true;
        Ok(())
    }

    /// Whether something is left that will be collected later.
    fn give_up(&self) -> Result<bool, EngineError> {
        let failed = |error: std::io::Error| self.shared.place.failed("releasing an export", &error);
        self.uploads.clear().map_err(failed)?;
        let marks = self.shared.give_up(&self.export, &self.lease.held());
        self.shared.disk.remove(&self.shared.place.lease(&self.export)).map_err(failed)?;
        let (has_replaced, is_committed) = {
            let mut state = self.state();
            (std::mem::take(&mut state.has_replaced), std::mem::replace(&mut state.is_committed, true))
        };
        // What an export brought that failed is needed by nothing from now on, as is what lost its name.
        if !has_replaced && (is_committed || !marks.has_written) {
            return Ok(false);
        }
        // The image is there whatever comes of this.
        match collect(&self.shared) {
            Ok(outcome) => {
                tracing::debug!(?outcome, "collected what nobody needs any more");
                Ok(outcome.is_more)
            }
            Err(error) => {
                tracing::warn!(%error, "nothing was collected");
                Ok(true)
            }
        }
    }
}

impl Ingest for LayoutIngest {
    fn plan<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        let graph = graph.clone();
        Box::pin(self.work(move |this| this.make_plan(&graph)))
    }

    fn writer<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>> {
        let blob = blob.clone();
        Box::pin(async move {
            let writer = self.work(move |this| {
                this.lease.hold(&this.shared.place, [&blob.digest])?;
                writer::begin(&this.shared, &this.export, &blob)
            });
            Ok(writer.await?.map_or(Opened::Present, |writer| Opened::Writer(Box::new(writer))))
        })
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.shared.flush().await?;
            self.work(Self::verify).await
        })
    }

    fn commit<'a>(&'a self, names: &'a [Reference]) -> BoxFuture<'a, Result<(), EngineError>> {
        let names = names.to_vec();
        Box::pin(self.work(move |this| this.publish(&names)))
    }

    fn require(&self, conditions: Vec<Condition>) {
        self.state().conditions.extend(conditions);
    }

    fn uploads(&self) -> Result<&dyn Uploads, EngineError> {
        Ok(&self.uploads)
    }

    /// Complete blobs get their names, where the next export finds them and the collector leaves them for their hour;
    /// the part of a large one stays as it is.
    fn suspend(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if let Err(error) = self.shared.flush().await {
                tracing::debug!(%error, "small blobs of the export are sent again");
            }
            self.release().await
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if self.work(Self::give_up).await? {
                collect_later(&self.shared);
            }
            Ok(())
        })
    }
}
