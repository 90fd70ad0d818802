//! The `cluster` engine: the containerd of every node of a cluster whose nodes are containers, as kind and k3d make them.
//!
//! One export goes to all nodes. Its source is read once: what one node lacks is written to all that lack it. The image gets its
//! names when every node has it, and on all nodes or on none.

mod address;
mod commit;
mod connect;
mod container;
mod dial;
mod discover;
mod images;
mod ingests;
mod joining;
mod lease;
mod leased_nodes;
mod members;
mod node_names;
mod node_transaction;
mod nodes;
mod program;
mod transaction;
mod writer;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;

pub use self::address::{ClusterAddress, ClusterAddressError, ClusterTool};
use self::discover::Found;
use self::images::ClusterImages;
use self::lease::ClusterLease;
use self::leased_nodes::{LeasedNodes, NodeLease};
use self::members::{Members, Nodes};
pub use self::node_names::NodeNames;
use self::nodes::{NodeName, each, of_node, on_all};
use super::containerd::{ContainerdEngine, ContainerdImages};
use super::images::{Images, Record};
use super::layer_applier::ApplierChoice;
use super::{
    Abandoned, DurableLease, Engine, EngineError, EngineKind, Identity, Lease, Lifetime, Origin, PersistentLeases,
    Storage, StoredBlobs,
};
use crate::docker_api::Api;
use crate::image::{Descriptor, Reference};

/// The namespace of kubelet's images (containerd `internal/cri/constants`).
const NAMESPACE: &str = "k8s.io";

/// One node.
#[derive(Debug)]
struct Node {
    name: NodeName,
    /// The id of its container.
    id: String,
    engine: ContainerdEngine,
    images: ContainerdImages,
}

impl Node {
    fn new(name: NodeName, id: String, engine: ContainerdEngine) -> Self {
        let store = format!("{} in the node {name}", EngineKind::Containerd);
        Self { images: ContainerdImages::new(engine.client().clone(), &store), name, id, engine }
    }

    /// One that was made again has another id, and one that was renamed is reached by its new name.
    fn is(&self, found: &Found) -> bool {
        self.id == found.id && *self.name == *found.name
    }

    fn is_the_same(&self, other: &Self) -> bool {
        self.id == other.id && self.name == other.name
    }
}

/// The nodes of a cluster, or those that its address names. An export goes to those that there are when it begins.
#[derive(Debug)]
pub(super) struct ClusterEngine {
    members: Arc<Members>,
    identity: Identity,
}

impl ClusterEngine {
    /// Finds the nodes among the containers of the dockerd behind `docker`, and connects to each.
    pub(super) async fn connect(
        docker: Arc<Api>,
        address: &ClusterAddress,
        applier: ApplierChoice,
    ) -> Result<Self, EngineError> {
        let members = Arc::new(Members::find(docker, address.clone(), applier).await?);
        let nodes = members.known();
        let all = |of: fn(&ContainerdEngine) -> &str| {
            let all: BTreeSet<_> = nodes.iter().map(|node| of(&node.engine)).collect();
            all.into_iter().collect::<Vec<_>>().join(", ")
        };
        let identity = Identity {
            kind: EngineKind::Cluster,
            version: all(|engine| &engine.server().version),
            address: address.to_string(),
            storage: Storage::Cluster {
                namespace: NAMESPACE.to_owned(),
                snapshotter: all(|engine| &engine.server().snapshotter),
                parallel_unpack: nodes.iter().all(|node| node.engine.server().parallel_unpack),
                nodes: members.names(),
            },
        };
        Ok(Self { members, identity })
    }
}

impl ClusterEngine {
    /// The leases that have ended, though a node that was away then may have them still.
    async fn ended(nodes: &Nodes) -> Result<HashSet<String>, EngineError> {
        let marked = on_all(engines(nodes).map(|(node, engine)| (node, engine.ended()))).await?;
        Ok(marked.into_iter().flatten().collect())
    }

    /// Releases such leases on all nodes, or `one` of them, and takes their marks away; how many there were.
    async fn end(&self, nodes: &Nodes, one: Option<&str>) -> Result<usize, EngineError> {
        let ended = Self::ended(nodes).await?.into_iter();
        let leases: Vec<_> = ended.filter(|lease| one.is_none_or(|one| one == lease)).collect();
        if leases.is_empty() {
            return Ok(0);
        }
        on_all(engines(nodes).map(|(node, engine)| (node, engine.release_abandoned(&leases)))).await?;
        // Where only some nodes are written to, others may have the leases still: the marks stay until they expire.
        if one.is_some() || !self.members.are_named() {
            for lease in &leases {
                on_all(engines(nodes).map(|(node, engine)| (node, engine.unmark_ended(lease)))).await?;
            }
        }
        Ok(leases.len())
    }
}

/// The nodes and their engines.
fn engines(nodes: &Nodes) -> impl Iterator<Item = (&NodeName, &ContainerdEngine)> {
    nodes.iter().map(|node| (&node.name, &node.engine))
}

#[async_trait]
impl Engine for ClusterEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        let nodes = self.members.current().await?;
        let found = on_all(engines(&nodes).map(|(node, engine)| (node, engine.already_complete(root, names)))).await?;
        Ok(found.into_iter().collect::<Option<Vec<_>>>().and_then(|blobs| blobs.into_iter().max()))
    }

    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        let nodes = self.members.current().await?;
        let is_durable = matches!(lifetime, Lifetime::Durable { .. });
        if is_durable {
            // Of an export that had the same id, and ended while a node was away.
            self.end(&nodes, Some(&ContainerdEngine::lease_of(&origin.export))).await?;
        }
        let leasing = engines(&nodes).map(|(node, engine)| (node, engine.own_lease(origin, lifetime)));
        let (mut leases, mut failure) = (Vec::new(), None);
        for (node, outcome) in nodes.iter().zip(each(leasing).await) {
            match outcome {
                Ok(lease) => {
                    leases.push(NodeLease::new(node.name.clone(), node.id.clone(), node.engine.clone(), lease));
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let Some(error) = failure else {
            let nodes = LeasedNodes::new(leases, self.members.clone());
            return Ok(Arc::new(ClusterLease::new(nodes, is_durable)));
        };
        // One that was opened again stays: its export may be continued when all nodes are up.
        let created = leases.iter().filter(|it| it.lease.is_new());
        let releasing = created.map(|it| async {
            if let Err(error) = it.lease.release().await {
                tracing::warn!(%error, node = %it.node, "a lease could not be released; the next start does it");
            }
        });
        join_all(releasing).await;
        Err(error)
    }

    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        Some(self)
    }

    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(ClusterImages::new(format!("the cluster {}", self.identity.address), self.members.clone())))
    }

    /// Nothing loads archives into the nodes of a cluster.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        let nodes = self.members.known();
        let ended = self.end(&nodes, None).await?;
        let released = on_all(engines(&nodes).map(|(node, engine)| (node, engine.recover()))).await?;
        Ok(released.into_iter().sum::<usize>() + ended)
    }

    /// On the nodes that have the image.
    async fn tag(&self, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
        let nodes = self.members.current().await?;
        let tagging = engines(&nodes).map(|(node, engine)| {
            (node, async {
                match engine.images()?.size(&root.digest).await? {
                    Some(_) => engine.tag(root, name).await,
                    None => Ok(()),
                }
            })
        });
        on_all(tagging).await.map(drop)
    }

    /// On the nodes that have the record: on others its name may point to another image, or to none.
    async fn remove(&self, record: &Record, force: bool) -> Result<(), EngineError> {
        let nodes = self.members.current().await?;
        let removing = nodes.iter().map(|node| async move {
            match node.engine.remove(record, force).await {
                Ok(()) => Ok(None),
                Err(error @ EngineError::NameMoved { .. }) => Ok(Some(error)),
                Err(error) => Err(of_node(&node.name, error)),
            }
        });
        let mut moved = Vec::new();
        for outcome in join_all(removing).await {
            moved.extend(outcome?);
        }
        let was_on_none = record.name.is_some() && moved.len() == nodes.len();
        // Where it points to says more than that it is not there.
        moved.sort_by_key(|error| matches!(error, EngineError::NameMoved { current: None, .. }));
        match moved.into_iter().next() {
            Some(error) if was_on_none => Err(error),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl PersistentLeases for ClusterEngine {
    /// Those that any node has: one that joined since lacks them, and gets the lease when it is opened again. What another one has
    /// of a lease that was released while it was away is none.
    async fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        let nodes = self.members.known();
        // The marks first: whoever takes them away has released the leases before.
        let ended = Self::ended(&nodes).await?;
        let found = on_all(engines(&nodes).map(|(node, engine)| (node, engine.durable()))).await?;
        let mut known = HashSet::new();
        let is_open = |it: &DurableLease| !ended.contains(&ContainerdEngine::lease_of(&it.export));
        Ok(found.into_iter().flatten().filter(|it| is_open(it) && known.insert(it.export.clone())).collect())
    }

    /// Those that any node has.
    async fn abandoned(&self) -> Result<Abandoned, EngineError> {
        let nodes = self.members.known();
        let found = on_all(engines(&nodes).map(|(node, engine)| (node, PersistentLeases::abandoned(engine)))).await?;
        let mut all = Abandoned::default();
        for Abandoned { leases, kept, grace } in found {
            all.leases.extend(leases);
            all.kept.extend(kept);
            all.grace = all.grace.max(grace);
        }
        all.leases.sort();
        all.leases.dedup();
        all.kept.sort();
        all.kept.dedup();
        Ok(all)
    }

    async fn release_abandoned(&self, leases: &[String]) -> Result<(), EngineError> {
        let nodes = self.members.known();
        on_all(engines(&nodes).map(|(node, engine)| (node, engine.release_abandoned(leases)))).await.map(drop)
    }
}
