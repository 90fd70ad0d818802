//! A lease of a containerd, as the engine hands it out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use tokio::time::timeout;

use super::ingests::ContainerdIngests;
use super::lease_calls::{self, Collect};
use super::leased_client::LeasedClient;
use super::pins::{self, Pins};
use super::release::release;
use super::transaction::{Committer, ContainerdTransaction};
use super::{content, plan};
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, EngineKind, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// How long the user of an interrupted command waits until what was sent is kept: one call for each blob.
const KEEPING: Duration = Duration::from_secs(20);
/// From how many blobs on they are pinned by a document, which costs two synced writes; fewer cost one each.
const MANY: usize = 3;

/// A lease. Everything that is done under it is done by a client that acts in its name.
#[derive(Debug)]
pub(crate) struct ContainerdLease {
    leased: Arc<LeasedClient>,
    ingests: ContainerdIngests,
    is_new: bool,
    /// `None` once it is released.
    pinned: Mutex<Option<Pinned>>,
    committer: Arc<dyn Committer>,
}

/// What is pinned, as far as this process knows.
#[derive(Debug, Default)]
struct Pinned {
    /// Resources of the lease itself.
    resources: HashSet<Digest>,
    /// Documents that pin; loaded when they are needed first.
    documents: Option<Pins>,
}

impl ContainerdLease {
    /// A lease that `is_new` if it was created just now.
    pub(super) fn new(
        leased: LeasedClient,
        is_new: bool,
        ingests: ContainerdIngests,
        committer: Arc<dyn Committer>,
    ) -> Self {
        let pinned = Pinned { documents: is_new.then(Pins::default), ..Pinned::default() };
        Self { leased: Arc::new(leased), is_new, ingests, pinned: Mutex::new(Some(pinned)), committer }
    }

    /// Whether it was created, and not opened again.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// [`Lease::begin`], for those who know the engine.
    pub(crate) async fn transaction(
        &self,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<ContainerdTransaction, EngineError> {
        ContainerdTransaction::begin(self.leased.clone(), self.committer.clone(), graph, options).await
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.leased.id
    }

    async fn state(&self) -> Result<MappedMutexGuard<'_, Pinned>, EngineError> {
        let lost = |_| EngineError::LeaseLost { lease: self.leased.id.clone() };
        MutexGuard::try_map(self.pinned.lock().await, Option::as_mut).map_err(lost)
    }

    async fn documents<'a>(&self, pinned: &'a mut Pinned) -> Result<&'a mut Pins, EngineError> {
        if pinned.documents.is_none() {
            let leased = pins::leased(&self.leased.client, &self.leased.id).await?;
            pinned.documents = Some(Pins::load(&self.leased.client, &self.leased.id, &leased).await?);
        }
        Ok(pinned.documents.get_or_insert_default())
    }
}

#[async_trait]
impl Lease for ContainerdLease {
    fn engine(&self) -> &'static str {
        EngineKind::Containerd.name()
    }

    /// Looks up, leases, and looks up again: what is found then stays. What is not there at first needs no lease.
    async fn pin(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        let digests: Vec<_> = blobs.iter().map(|blob| blob.digest.clone()).collect();
        let mut sizes = content::sizes(&self.leased.client, &digests).await?;
        let mut state = self.state().await?;
        let is_pinned = |digest: &Digest| {
            let document = state.documents.as_ref();
            state.resources.contains(digest) || document.is_some_and(|document| document.contains(digest))
        };
        let there = digests.iter().zip(&sizes).enumerate().filter(|(_, (_, size))| size.is_some());
        let new: Vec<_> = there.map(|(at, (digest, _))| (at, digest)).filter(|(_, it)| !is_pinned(it)).collect();
        let (at, new): (Vec<_>, Vec<_>) = new.into_iter().map(|(at, digest)| (at, digest.clone())).unzip();
        if new.len() < MANY {
            for digest in &new {
                self.leased.add(digest).await?;
                state.resources.insert(digest.clone());
            }
        } else {
            self.documents(&mut state).await?.add(&self.leased.client, &self.leased.id, &new).await?;
        }
        drop(state);
        for (at, size) in at.into_iter().zip(content::sizes(&self.leased.client, &new).await?) {
            sizes[at] = size;
        }
        Ok(sizes)
    }

    async fn pin_graph(&self, graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        let plan = plan::plan(&self.leased.client, &self.leased.id, graph, None).await?;
        Ok(plan.present.into_iter().chain(plan.stored).collect())
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        let mut found = pins::leased(&self.leased.client, &self.leased.id).await?;
        let mut state = self.state().await?;
        let documents = self.documents(&mut state).await?;
        found.retain(|digest| !documents.is_document(&self.leased.id, digest));
        let mut known: HashSet<_> = found.iter().cloned().collect();
        found.extend(documents.pinned().filter(|digest| known.insert((*digest).clone())).cloned());
        Ok(found)
    }

    async fn unpin(&self, digest: &Digest) -> Result<(), EngineError> {
        let mut state = self.state().await?;
        state.resources.remove(digest);
        self.documents(&mut state).await?.remove(&self.leased.client, digest).await?;
        lease_calls::remove(&self.leased.client, &self.leased.id, lease_calls::CONTENT, digest.as_str()).await
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Ok(&self.ingests)
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        Ok(Box::new(self.transaction(graph, options).await?))
    }

    /// Complete blobs and unpacked layers stay, under a lease that says so; ingests would not be resumed, and go.
    async fn suspend(&self, root: &Digest) -> Result<(), EngineError> {
        let mut pinned = self.pinned.lock().await;
        self.leased.snapshots.remove_active().await;
        let kept = timeout(KEEPING, lease_calls::keep(&self.leased.client, &self.leased.id, root)).await;
        // Whatever became of it: what is not kept is sent again.
        release(&self.leased.client, &self.leased.id, Collect::Later).await?;
        *pinned = None;
        match kept {
            Ok(kept) => kept,
            Err(_) => Err(EngineError::Timeout { operation: "keeping what was sent".to_owned(), after: KEEPING }),
        }
    }

    async fn release(&self) -> Result<(), EngineError> {
        let mut pinned = self.pinned.lock().await;
        self.leased.snapshots.remove_active().await;
        // A client that is told that the disk is full makes room and tries again: what this export has put there must not
        // take that room. After any other failure the next attempt finds it in the store, if it comes soon.
        let collect = if self.leased.client.lacked_room() { Collect::Now } else { Collect::Later };
        release(&self.leased.client, &self.leased.id, collect).await?;
        *pinned = None;
        Ok(())
    }
}
