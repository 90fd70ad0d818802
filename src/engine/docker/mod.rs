//! The `docker` engine: dockerd with the containerd image store.
//!
//! Blobs, labels and snapshots go straight into the containerd that dockerd uses, after that was proven
//! ([`handshake`]); the image itself is committed by dockerd ([`load`]), so that its events, its authorization plugins
//! and its own bookkeeping all take part.

mod archive;
mod discover;
mod handshake;
mod jsonstream;
mod load;
mod tag;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, try_join_all};

pub(crate) use self::discover::{Info, Store, info};
use self::handshake::{Handshake, Proof};
pub(crate) use self::jsonstream::{Line, check_loaded};
pub(crate) use self::tag::again as tag_again;
use super::containerd::{ContainerdEngine, ContainerdHold, ContainerdImages, ContainerdIngest};
use super::images::{Images, Record};
use super::uploads::Uploads;
use super::{
    Abandoned, Condition, Durable, Engine, EngineError, EngineKind, Hold, Identity, Ingest, Opened, Origin, Plan,
    Sharing, Storage,
};
use crate::docker_api::Api;
use crate::image::{Descriptor, Graph, Reference};
use crate::progress::Events;

/// How long dockerd has for a commit of a process that was killed. It is told that its client has gone, and ends with
/// what it is at; without our lease, blobs could go of an image that it is just making.
const GRACE: Duration = Duration::from_secs(3);

/// A dockerd, and the containerd that it was proven to use.
#[derive(Debug)]
pub(crate) struct DockerEngine {
    docker: Arc<Api>,
    handshake: Handshake,
    proof: Proof,
    containerd: ContainerdEngine,
    identity: Identity,
}

impl DockerEngine {
    /// The dockerd behind `socket`. Its containerd is looked for at `hint` first.
    pub(crate) async fn connect(
        socket: &Path,
        hint: Option<&Path>,
        namespace: Option<&str>,
    ) -> Result<Self, EngineError> {
        let docker = Arc::new(Api::new(socket));
        let info = info(&docker).await?;
        let snapshotter = match info.store() {
            Store::Containerd { snapshotter } => snapshotter.to_owned(),
            Store::Classic { driver } => {
                return Err(EngineError::ClassicStore {
                    address: docker.address().to_owned(),
                    version: info.server_version.clone(),
                    driver: driver.to_owned(),
                });
            }
        };
        let handshake = Handshake::new(socket)?;
        let candidates = candidates(hint, info.containerd_address());
        let (proof, client) = handshake.prove(&candidates).await?;
        if let Some(wanted) = namespace.filter(|wanted| *wanted != proof.namespace) {
            return Err(EngineError::Namespace {
                namespace: wanted.to_owned(),
                reason: format!("docker at {} keeps its images in `{}`", docker.address(), proof.namespace),
            });
        }
        let server = super::containerd::discover(&client, &proof.namespace, Some(&snapshotter)).await?;
        let identity = Identity {
            kind: EngineKind::Docker,
            version: info.server_version,
            address: docker.address().to_owned(),
            storage: Storage::Containerd {
                namespace: proof.namespace.clone(),
                snapshotter,
                parallel_unpack: server.parallel_unpack,
            },
        };
        let containerd = ContainerdEngine::new(client, &proof.namespace, server);
        Ok(Self { docker, handshake, proof, containerd, identity })
    }

    /// The containerd that dockerd uses.
    pub(crate) fn containerd(&self) -> &ContainerdEngine {
        &self.containerd
    }

    /// Makes sure that dockerd still uses the containerd that was proven: either may have been restarted, and with
    /// another configuration. Two calls over connections that are up already.
    async fn check(&self) -> Result<(), EngineError> {
        self.handshake.check(&self.proof, self.containerd.client()).await
    }
}

/// Where dockerd's containerd may be, best guess first (moby `daemon/command/daemon.go`): where we were told, where
/// dockerd says (27 and later), where it looks itself, where it starts its own.
fn candidates(hint: Option<&Path>, told: Option<&Path>) -> Vec<PathBuf> {
    let usual = ["/run/containerd/containerd.sock", "/var/run/docker/containerd/containerd.sock"].map(Path::new);
    let mut found: Vec<PathBuf> = Vec::new();
    for path in hint.into_iter().chain(told).chain(usual) {
        if !found.iter().any(|have| have == path) {
            found.push(path.to_owned());
        }
    }
    found
}

impl Engine for DockerEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sharing(&self) -> Sharing {
        self.containerd.sharing()
    }

    fn current<'a>(
        &'a self,
        root: &'a Descriptor,
        names: &'a [Reference],
    ) -> BoxFuture<'a, Result<Option<usize>, EngineError>> {
        Box::pin(async move {
            // At the same time: looking changes nothing, even in a containerd that is the wrong one by now. And what
            // is not there needs no proof.
            let (mut proof, mut look) = (pin!(self.check()), pin!(self.containerd.check(root, names)));
            let found = tokio::select! {
                proven = &mut proof => {
                    proven?;
                    look.await?
                }
                found = &mut look => {
                    let found = found?;
                    if found.is_some() {
                        proof.await?;
                    }
                    found
                }
            };
            let Some(blobs) = found else { return Ok(None) };
            let tagged = try_join_all(names.iter().map(|name| tag::again(&self.docker, name))).await?;
            Ok(tagged.into_iter().all(|there| there).then_some(blobs))
        })
    }

    fn open<'a>(&'a self, origin: &'a Origin, events: Events) -> BoxFuture<'a, Result<Arc<dyn Ingest>, EngineError>> {
        Box::pin(async move {
            // At the same time: an empty lease does no harm in a containerd that is the wrong one by now.
            let (proven, blobs) = tokio::join!(self.check(), self.containerd.ingest(origin, events.clone()));
            if let Err(error) = proven {
                // What is wrong is that it is not the one, whatever becomes of the lease there.
                if let Ok(blobs) = blobs
                    && let Err(error) = blobs.release().await
                {
                    tracing::warn!(%error, "an empty lease stays until it expires");
                }
                return Err(error);
            }
            Ok(Arc::new(DockerIngest { docker: self.docker.clone(), blobs: blobs?, events }) as Arc<dyn Ingest>)
        })
    }

    fn open_durable<'a>(
        &'a self,
        origin: &'a Origin,
        record: &'a str,
        events: Events,
    ) -> BoxFuture<'a, Result<Arc<dyn Ingest>, EngineError>> {
        Box::pin(async move {
            // First, for what this export holds already must not be released in vain.
            self.check().await?;
            let blobs = self.containerd.durable(origin, record, events.clone()).await?;
            Ok(Arc::new(DockerIngest { docker: self.docker.clone(), blobs, events }) as Arc<dyn Ingest>)
        })
    }

    /// dockerd's images are containerd's records, under the names that dockerd gives them.
    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(ContainerdImages::new(self.containerd.client().clone(), "docker's containerd")))
    }

    fn durables(&self) -> BoxFuture<'_, Result<Vec<Durable>, EngineError>> {
        self.containerd.durables()
    }

    fn hold<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<Option<Arc<dyn Hold>>, EngineError>> {
        Box::pin(async move {
            let (proven, hold) = tokio::join!(self.check(), ContainerdHold::new(&self.containerd, origin));
            proven?;
            Ok(Some(Arc::new(hold?) as Arc<dyn Hold>))
        })
    }

    fn recover(&self) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(async move {
            let abandoned = ContainerdEngine::abandoned(&self.containerd).await?;
            let (client, count) = (self.containerd.client().clone(), abandoned.len());
            if count > 0 {
                tokio::spawn(async move {
                    tokio::time::sleep(GRACE).await;
                    if let Err(error) = super::containerd::release(&client, &abandoned).await {
                        tracing::warn!(%error, "leases of a former process stay until the next start, or until they expire");
                    }
                });
            }
            Ok(count)
        })
    }

    fn tag<'a>(&'a self, root: &'a Descriptor, name: &'a Reference) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(tag::set(&self.docker, root, name))
    }

    fn remove<'a>(&'a self, record: &'a Record, force: bool) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            // dockerd compares nothing, so it is looked at right before.
            ContainerdImages::new(self.containerd.client().clone(), "docker's containerd").check(record).await?;
            tag::remove(&self.docker, record, force).await
        })
    }

    fn abandoned(&self) -> BoxFuture<'_, Result<Abandoned, EngineError>> {
        Box::pin(async move { Ok(Abandoned { grace: GRACE, ..Engine::abandoned(&self.containerd).await? }) })
    }

    fn release_abandoned<'a>(&'a self, leases: &'a [String]) -> BoxFuture<'a, Result<(), EngineError>> {
        self.containerd.release_abandoned(leases)
    }
}

/// One export into dockerd: blobs through containerd, the commit through dockerd.
#[derive(Debug)]
struct DockerIngest {
    docker: Arc<Api>,
    blobs: ContainerdIngest,
    events: Events,
}

impl Ingest for DockerIngest {
    fn plan<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        self.blobs.plan(graph)
    }

    fn hold<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        self.blobs.hold(graph)
    }

    fn writer<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>> {
        self.blobs.writer(blob)
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.blobs.settle()
    }

    fn commit<'a>(&'a self, names: &'a [Reference]) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            let records = match names {
                [] => vec![load::dangling(&self.blobs.root()?.digest)],
                names => names.iter().map(ToString::to_string).collect(),
            };
            let before = self.blobs.standing_aside(records, load::dangling).await?;
            let mut was_asked = false;
            let loaded = load::commit(&self.docker, &self.blobs, names, &self.events, &mut was_asked).await;
            let Err(error) = loaded else { return self.blobs.confirm(before).await };
            self.blobs.note(&error);
            if was_asked {
                self.blobs.back(before).await;
            }
            Err(error)
        })
    }

    /// dockerd compares nothing, so it is looked at right before each of its attempts.
    fn require(&self, conditions: Vec<Condition>) {
        self.blobs.require(conditions);
    }

    fn uploads(&self) -> Result<&dyn Uploads, EngineError> {
        self.blobs.uploads()
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        self.blobs.withdraw()
    }

    fn suspend(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.blobs.suspend()
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.blobs.release()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_candidate_is_tried_once_and_the_best_first() {
        let run = Path::new("/run/containerd/containerd.sock");
        let own = Path::new("/var/run/docker/containerd/containerd.sock");
        let hint = Path::new("/hint.sock");
        assert_eq!(candidates(None, None), [run, own]);
        assert_eq!(candidates(None, Some(own)), [own, run]);
        assert_eq!(candidates(Some(hint), Some(run)), [hint, run, own]);
        assert_eq!(candidates(Some(run), Some(run)), [run, own]);
    }
}
