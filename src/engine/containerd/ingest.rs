//! One export's hold on a containerd.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tonic::Code;

use super::client::Client;
use super::content::{self, Put};
use super::labels::{self, Labels};
use super::lease::Collect;
use super::unpack::{Arrivals, Job, Snapshots, Unpack};
use super::uploads::ContainerdUploads;
use super::writer::{self, Begun};
use super::{images, lease};
use crate::engine::uploads::Uploads;
use crate::engine::{BlobWriter, Condition, EngineError, Ingest, Opened, Plan};
use crate::image::{Descriptor, Digest, Document, Graph, Kind, Platform};
use crate::progress::Events;

/// How long somebody who has interrupted a command waits for what was sent to be kept: one call for each blob.
const KEEPING: Duration = Duration::from_secs(20);

/// One export into a containerd: everything it does is done in the name of its lease.
#[derive(Debug)]
pub(crate) struct ContainerdIngest {
    client: Client,
    lease: String,
    uploads: ContainerdUploads,
    snapshots: Snapshots,
    parallel: bool,
    events: Events,
    arrivals: Arrivals,
    state: Mutex<State>,
}

/// What `plan` leaves for the later steps.
#[derive(Debug, Default)]
struct State {
    graph: Option<Arc<Graph>>,
    unpack: Option<Unpack>,
    skip_unpack: bool,
    conditions: Vec<Condition>,
}

impl ContainerdIngest {
    /// `client` must act in the name of `lease`.
    pub(crate) fn new(
        client: Client,
        lease: String,
        uploads: ContainerdUploads,
        snapshotter: &str,
        parallel: bool,
        events: Events,
    ) -> Self {
        let snapshots = Snapshots::new(client.clone(), snapshotter.to_owned());
        Self {
            client,
            lease,
            uploads,
            snapshots,
            parallel,
            events,
            arrivals: Arrivals::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client that acts in the name of the lease.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Takes notice of an error that another engine met with what this one holds.
    pub(crate) fn note(&self, error: &EngineError) {
        self.client.note(error);
    }

    /// The image's root, once planned.
    pub(crate) fn root(&self) -> Result<Descriptor, EngineError> {
        self.state().graph.as_ref().map(|graph| graph.root().clone()).ok_or_else(|| EngineError::Protocol {
            operation: "committing".to_owned(),
            reason: "the export has no plan yet".to_owned(),
        })
    }

    /// The digests of the image's blobs, once planned.
    pub(crate) fn digests(&self) -> HashSet<Digest> {
        let graph = self.state().graph.clone();
        graph.iter().flat_map(|graph| graph.descriptors()).map(|blob| blob.digest.clone()).collect()
    }

    async fn make_plan(&self, graph: &Arc<Graph>) -> Result<Plan, EngineError> {
        let job = self.job(graph);
        let plan = self.pin(graph, job.as_ref()).await?;
        self.arrivals.add(plan.present.iter().map(|blob| blob.digest.clone()));
        let mut state = self.state();
        state.graph = Some(graph.clone());
        if let Some(job) = job {
            let known =
                |blob: &Descriptor| plan.present.iter().chain(&plan.missing).any(|have| have.digest == blob.digest);
            if job.layers.iter().all(|layer| known(&layer.blob)) {
                let (snapshots, arrivals, events) =
                    (self.snapshots.clone(), self.arrivals.clone(), self.events.clone());
                state.unpack = Some(Unpack::start(job, snapshots, self.parallel, arrivals, events));
            }
        }
        Ok(plan)
    }

    /// What is to be unpacked here.
    fn job(&self, graph: &Graph) -> Option<Job> {
        let unpacks = !self.state().skip_unpack;
        unpacks.then(|| Job::of(graph, &Platform::host(), self.snapshots.snapshotter())).flatten()
    }

    /// Stores the documents again that somebody has deleted, and unpacks what their labels no longer kept; what is missing
    /// all the same.
    pub(super) async fn restore(&self) -> Result<Vec<Digest>, EngineError> {
        let Some(graph) = self.state().graph.clone() else { return Ok(Vec::new()) };
        self.make_plan(&graph).await?;
        match self.verify().await {
            Ok(()) => Ok(Vec::new()),
            Err(EngineError::Missing { digests }) => {
                self.stop().await;
                Ok(digests)
            }
            Err(error) => Err(error),
        }
    }

    /// Stores the documents and looks which leaves are there; `job` is the unpacking that the labels must allow for.
    async fn pin(&self, graph: &Graph, job: Option<&Job>) -> Result<Plan, EngineError> {
        let mut plan = Plan::default();
        for document in graph.documents() {
            let mut wanted = labels::children(document);
            if let Some(job) = job.filter(|job| job.config == document.descriptor.digest) {
                wanted.extend(job.label());
            }
            let is_root = document.descriptor.digest == graph.root().digest;
            match self.place(document, wanted, is_root).await? {
                Put::Stored => plan.stored.push(document.descriptor.clone()),
                Put::Present => plan.present.push(document.descriptor.clone()),
            }
        }
        // From here on the labels and the lease hold whatever is there: what is found now stays.
        for (leaf, present) in content::present(&self.client, graph.leaves()).await? {
            match (present, leaf.kind()) {
                (true, _) => plan.present.push(leaf.clone()),
                (false, Kind::ForeignLayer) => {}
                (false, _) => plan.missing.push(leaf.clone()),
            }
        }
        // What takes longest is sent and unpacked first.
        plan.missing.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        Ok(plan)
    }

    /// Sees to it that `document` is in the store, pinned, and labelled with `wanted`.
    ///
    /// The root is leased by name; everything below it is pinned as soon as its parent is there with all labels,
    /// and parents come first. So whoever finds a child present by a mere look-up can rely on it, and the number of
    /// synced writes does not grow with the image.
    async fn place(&self, document: &Document, wanted: Labels, is_root: bool) -> Result<Put, EngineError> {
        let descriptor = &document.descriptor;
        let mut found = None;
        let mut put = Put::Present;
        if !is_root {
            found = content::info(&self.client, &descriptor.digest).await?;
        }
        if found.is_none() {
            put = content::put(&self.client, &self.lease, descriptor, &document.bytes, wanted.clone()).await?;
            if put == Put::Present {
                found = content::info(&self.client, &descriptor.digest).await?;
            }
        }
        if put == Put::Present {
            let have = found.ok_or_else(|| EngineError::Missing { digests: vec![descriptor.digest.clone()] })?.labels;
            let lacking = labels::missing(&wanted, &have);
            if !lacking.is_empty() {
                content::label(&self.client, &descriptor.digest, lacking).await?;
            }
        }
        Ok(put)
    }

    async fn open(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        match writer::begin(&self.client, &self.lease, blob).await? {
            Begun::Present => {
                self.arrivals.add([blob.digest.clone()]);
                Ok(Opened::Present)
            }
            Begun::Writer(writer) => {
                let digest = blob.digest.clone();
                Ok(Opened::Writer(Box::new(Arriving { writer, digest, arrivals: self.arrivals.clone() })))
            }
        }
    }

    async fn verify(&self) -> Result<(), EngineError> {
        // First, because an unpack of layers that never came would be waited for without end.
        self.complete().await?;
        let unpack = self.state().unpack.take();
        if let Some(unpack) = unpack {
            let took_time = !unpack.is_finished();
            unpack.finish().await?;
            if took_time {
                self.complete().await?;
            }
        }
        Ok(())
    }

    /// Fails unless every blob is there, except for foreign layers.
    pub(super) async fn complete(&self) -> Result<(), EngineError> {
        let Some(graph) = self.state().graph.clone() else { return Ok(()) };
        let blobs = graph.documents().iter().map(|document| &document.descriptor).chain(graph.leaves());
        let found = content::present(&self.client, blobs).await?;
        let missing = found.into_iter().filter(|(blob, present)| !present && blob.kind() != Kind::ForeignLayer);
        let digests: Vec<_> = missing.map(|(blob, _)| blob.digest.clone()).collect();
        if digests.is_empty() { Ok(()) } else { Err(EngineError::Missing { digests }) }
    }

    /// Keeps the image `root`, which is not the one that is exported, for as long as the lease lasts.
    pub(super) async fn keep(&self, root: &Digest) -> Result<(), EngineError> {
        lease::add(&self.client, &self.lease, lease::CONTENT, root.as_str()).await
    }

    async fn record(&self, names: Vec<String>) -> Result<(), EngineError> {
        let root = self.root()?;
        let before = self.standing(names.clone()).await?;
        // All before the first is set: one that is refused leaves the others as they are.
        self.check_conditions().await?;
        for name in names {
            let Err(error) = self.set(&name, &root).await else { continue };
            self.back(before).await;
            return Err(match error {
                EngineError::Rpc { code: Code::InvalidArgument | Code::PermissionDenied, message, .. } => {
                    EngineError::Commit { engine: "containerd", reason: message }
                }
                error => error,
            });
        }
        self.confirm(before).await
    }

    /// Whether a record of this name exists; refused if it stands for what it must not.
    async fn check(&self, name: &str) -> Result<bool, EngineError> {
        let found = images::get(&self.client, name).await?.and_then(|image| image.target);
        let current = found.and_then(|target| target.digest.parse::<Digest>().ok());
        let state = self.state();
        let conditions = state.conditions.iter().filter(|condition| condition.name.to_string() == name);
        conditions.into_iter().try_for_each(|condition| condition.check(current.as_ref()))?;
        Ok(current.is_some())
    }

    /// Refuses the first name that stands for what it must not.
    pub(crate) async fn check_conditions(&self) -> Result<(), EngineError> {
        let names: Vec<_> = self.state().conditions.iter().map(|condition| condition.name.to_string()).collect();
        for name in names {
            self.check(&name).await?;
        }
        Ok(())
    }

    /// Sets a name, if it stands for what it must. containerd has no compare-and-set: between the look and the change of a
    /// record that exists another client may change it. A record that must not exist is created or nothing.
    async fn set(&self, name: &str, root: &Descriptor) -> Result<(), EngineError> {
        let is_free = self.state().conditions.iter().all(|condition| condition.name.to_string() != name);
        if !is_free && !self.check(name).await? {
            if images::create(&self.client, name, root).await? {
                return Ok(());
            }
            self.check(name).await?;
        }
        images::set(&self.client, name, root).await
    }

    async fn stop(&self) {
        let unpack = self.state().unpack.take();
        if let Some(unpack) = unpack {
            unpack.cancel().await;
        }
        self.snapshots.remove_active().await;
    }

    /// Complete blobs and unpacked layers stay, under a lease that says so. What is half done would not be gone on with,
    /// and goes.
    async fn leave(&self) -> Result<(), EngineError> {
        self.stop().await;
        let kept = match self.root() {
            Ok(root) => timeout(KEEPING, lease::keep(&self.client, &self.lease, &root.digest)).await,
            Err(_) => Ok(Ok(())),
        };
        // Whatever became of it: what is not kept is sent again.
        release(&self.client, &self.lease, Collect::Later).await?;
        match kept {
            Ok(kept) => kept,
            Err(_) => Err(EngineError::Timeout { operation: "keeping what was sent".to_owned(), after: KEEPING }),
        }
    }

    async fn give_up(&self) -> Result<(), EngineError> {
        self.stop().await;
        // Whoever is told that the disk is full makes room and tries again: what this export has put there must not take
        // that room. After any other failure the next attempt finds it in the store, if it comes soon.
        let collect = if self.client.lacked_room() { Collect::Now } else { Collect::Later };
        release(&self.client, &self.lease, collect).await
    }
}

/// Aborts what the lease `id` was still writing, then deletes it. An ingest that cannot be aborted loses the lease all
/// the same, and is garbage from then on.
pub(crate) async fn release(client: &Client, id: &str, collect: Collect) -> Result<(), EngineError> {
    for resource in lease::resources(client, id).await? {
        if resource.r#type != lease::INGESTS {
            continue;
        }
        if let Err(error) = content::abort(client, &resource.id).await {
            tracing::debug!(%error, ingest = resource.id, "left to the garbage collector");
        }
    }
    lease::delete(client, id, collect).await
}

impl Ingest for ContainerdIngest {
    fn plan<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        Box::pin(self.make_plan(graph))
    }

    fn skip_unpack(&self) {
        self.state().skip_unpack = true;
    }

    fn hold<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        Box::pin(self.pin(graph, None))
    }

    fn writer<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>> {
        Box::pin(self.open(blob))
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.verify())
    }

    fn commit<'a>(&'a self, names: &'a [crate::image::Reference]) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            if names.is_empty() {
                return self.record(vec![images::dangling(&self.root()?.digest)]).await;
            }
            self.record(names).await
        })
    }

    fn require(&self, conditions: Vec<Condition>) {
        self.state().conditions.extend(conditions);
    }

    fn uploads(&self) -> Result<&dyn Uploads, EngineError> {
        Ok(&self.uploads)
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.stop())
    }

    fn suspend(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.leave())
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.give_up())
    }
}

/// A writer that tells the unpacker when its blob is complete.
#[derive(Debug)]
struct Arriving {
    writer: Box<writer::Writer>,
    digest: Digest,
    arrivals: Arrivals,
}

impl BlobWriter for Arriving {
    fn write(&mut self, bytes: bytes::Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        self.writer.write(bytes)
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        Box::pin(async move {
            self.writer.commit().await?;
            self.arrivals.add([self.digest]);
            Ok(())
        })
    }
}
