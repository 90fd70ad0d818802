//! Leases on what clients read. A manifest's lease covers all blobs below it, because its client reads them next; it stays
//! for a while after the last read.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::graph::held;
use crate::engine::images::Images;
use crate::engine::{Lease, Origin};
use crate::export::{Exports, unique_id};
use crate::image::{Descriptor, Digest, Graph};
use crate::net::Principal;

/// How long a lease stays when nothing below it is read: a client may unpack one layer before it reads the next.
const KEEP: Duration = Duration::from_secs(120);
/// How often it is looked which leases are no longer needed.
const SWEEP: Duration = Duration::from_secs(15);
/// How many leases on what is not being read are kept; beyond that the oldest goes.
const MAX_IDLE: usize = 64;

/// What is leased for readers.
#[derive(Debug)]
pub(super) struct Readers {
    exports: Arc<Exports>,
    leases: Mutex<HashMap<Digest, ReadLease>>,
}

/// The lease on one root.
#[derive(Debug)]
struct ReadLease {
    /// `None` where the engine keeps by itself what is read.
    lease: Option<Arc<dyn Lease>>,
    blobs: HashSet<Digest>,
    readers: usize,
    used: Instant,
}

/// The lease on `root` is needed until this is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    readers: Arc<Readers>,
    root: Digest,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(lease) = self.readers.leases().get_mut(&self.root) {
            lease.readers = lease.readers.saturating_sub(1);
            lease.used = Instant::now();
        }
    }
}

impl Readers {
    pub(super) fn new(exports: Arc<Exports>) -> Self {
        Self { exports, leases: Mutex::default() }
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<Digest, ReadLease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leases a manifest or an index with all that the engine holds of it. `None` if it cannot be leased: what is there can be
    /// read all the same.
    pub(super) async fn image(
        self: &Arc<Self>,
        client: &Principal,
        images: &Arc<dyn Images>,
        root: &Descriptor,
    ) -> Option<Reading> {
        if let Some(reading) = self.join(|known, _| *known == root.digest) {
            return Some(reading);
        }
        match held(images, root).await {
            Some(graph) => self.lease(client, graph).await,
            None => self.blob(client, root).await,
        }
    }

    /// Leases a blob, unless an image that is being read has it.
    pub(super) async fn blob(self: &Arc<Self>, client: &Principal, blob: &Descriptor) -> Option<Reading> {
        if let Some(reading) = self.join(|_, lease| lease.blobs.contains(&blob.digest)) {
            return Some(reading);
        }
        // Whatever it is, it is read as one blob.
        let blob = Descriptor::new("application/octet-stream", blob.digest.clone(), blob.size);
        self.lease(client, Graph::of_blob(blob).ok()?).await
    }

    /// Another reader of what is leased already.
    fn join(self: &Arc<Self>, is_it: impl Fn(&Digest, &ReadLease) -> bool) -> Option<Reading> {
        let mut leases = self.leases();
        let (root, lease) = leases.iter_mut().find(|(root, lease)| is_it(root, lease))?;
        lease.readers += 1;
        Some(Reading { readers: self.clone(), root: root.clone() })
    }

    async fn lease(self: &Arc<Self>, client: &Principal, graph: Graph) -> Option<Reading> {
        let (root, blobs) =
            (graph.root().digest.clone(), graph.descriptors().map(|blob| blob.digest.clone()).collect());
        let (export, builder, principal) = (unique_id(), String::new(), client.clone());
        let origin = Origin { export, door: "registry", builder, principal };
        let lease = match self.exports.read_lease(&origin, &Arc::new(graph)).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::debug!(%error, %root, "what is read has no lease");
                return None;
            }
        };
        let mut leases = self.leases();
        let unneeded = match leases.get_mut(&root) {
            // Another reader was quicker.
            Some(known) => {
                known.readers += 1;
                lease
            }
            None => {
                leases.insert(root.clone(), ReadLease { lease, blobs, readers: 1, used: Instant::now() });
                None
            }
        };
        let overdue = overdue(&mut leases, KEEP, MAX_IDLE);
        drop(leases);
        self.release(overdue.into_iter().chain(unneeded));
        Some(Reading { readers: self.clone(), root })
    }

    fn release(&self, leases: impl IntoIterator<Item = Arc<dyn Lease>>) {
        leases.into_iter().for_each(|lease| self.exports.release(lease));
    }

    /// Releases what is no longer needed, until `end`.
    pub(super) async fn sweep(self: Arc<Self>, end: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            let overdue = overdue(&mut self.leases(), KEEP, MAX_IDLE);
            self.release(overdue);
        }
    }

    /// Releases everything.
    pub(super) fn close(&self) {
        let all = overdue(&mut self.leases(), Duration::ZERO, 0);
        self.release(all);
    }
}

/// Takes out the leases that nobody has used for as long as `keep`, and the oldest of those beyond `most` that nobody uses.
fn overdue(leases: &mut HashMap<Digest, ReadLease>, keep: Duration, most: usize) -> Vec<Arc<dyn Lease>> {
    let mut idle: Vec<_> = leases.iter().filter(|(_, lease)| lease.readers == 0).collect();
    idle.sort_by_key(|(_, lease)| lease.used);
    let surplus = idle.len().saturating_sub(most);
    let old = idle.iter().take_while(|(_, lease)| lease.used.elapsed() >= keep).count();
    let gone: Vec<Digest> = idle.iter().take(surplus.max(old)).map(|(root, _)| (*root).clone()).collect();
    gone.iter().filter_map(|root| leases.remove(root)?.lease).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(readers: usize, age: Duration) -> ReadLease {
        ReadLease { lease: None, blobs: HashSet::new(), readers, used: Instant::now() - age }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_nobody_reads_is_released_the_oldest_first() {
        tokio::time::advance(2 * KEEP).await;
        let digest = |name: &str| Digest::sha256(name.as_bytes());
        let mut leases = HashMap::from([
            (digest("read"), lease(1, 2 * KEEP)),
            (digest("old"), lease(0, KEEP)),
            (digest("older"), lease(0, KEEP / 2)),
            (digest("new"), lease(0, Duration::ZERO)),
        ]);
        overdue(&mut leases, KEEP, 2);
        assert_eq!(leases.len(), 3);
        assert!(!leases.contains_key(&digest("old")));
        overdue(&mut leases, KEEP, 1);
        assert!(leases.contains_key(&digest("new")) && !leases.contains_key(&digest("older")));
        overdue(&mut leases, Duration::ZERO, 0);
        assert_eq!(leases.into_keys().collect::<Vec<_>>(), [digest("read")]);
    }
}
