//! The `cluster` engine: the containerd of every node of a cluster whose nodes are containers, as kind and k3d make them.
//!
//! One export goes to all nodes. Its source is read once: what one node lacks is written to all that lack it. The image gets its
//! names when every node has it, and on all nodes or on none.

mod address;
mod dial;
mod discover;
mod images;
mod ingests;
mod lease;
mod nodes;
mod program;
mod transaction;
mod writer;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;

pub use self::address::{ClusterAddress, ClusterAddressError, ClusterTool};
use self::dial::NodeDial;
use self::images::ClusterImages;
use self::lease::ClusterLease;
use self::nodes::{NodeLease, NodeName, each, of_node, on_all, until_one_fails};
use super::containerd::{Client, ContainerdEngine, ContainerdImages};
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
    engine: ContainerdEngine,
}

/// All nodes of a cluster, or those that its address names; never none.
#[derive(Debug)]
pub(super) struct ClusterEngine {
    nodes: Vec<Node>,
    identity: Identity,
}

impl ClusterEngine {
    /// Finds the nodes among the containers of the dockerd behind `docker`, and connects to each.
    pub(super) async fn connect(
        docker: Arc<Api>,
        address: &ClusterAddress,
        applier: ApplierChoice,
    ) -> Result<Self, EngineError> {
        let names: Vec<NodeName> = discover::nodes(&docker, address).await?.into_iter().map(Into::into).collect();
        let connect = |name: &NodeName| {
            let dial = NodeDial::new(docker.clone(), address.tool, &address.name, name);
            let name = name.clone();
            async move {
                let client = Client::over(Arc::new(dial), NAMESPACE)?;
                let mut engine = ContainerdEngine::connect_over(client, NAMESPACE).await?;
                engine.set_layer_applier(applier);
                Ok(Node { name, engine })
            }
        };
        let nodes = until_one_fails(names.iter().map(|name| (name, connect(name)))).await?;
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
                nodes: names.iter().map(ToString::to_string).collect(),
            },
        };
        Ok(Self { nodes, identity })
    }

    /// The nodes and their engines.
    fn engines(&self) -> impl Iterator<Item = (&NodeName, &ContainerdEngine)> {
        self.nodes.iter().map(|node| (&node.name, &node.engine))
    }

    fn readers(&self) -> Vec<(NodeName, ContainerdImages)> {
        let reader = |node: &Node| {
            let name = format!("{} in the node {}", EngineKind::Containerd, node.name);
            (node.name.clone(), ContainerdImages::new(node.engine.client().clone(), &name))
        };
        self.nodes.iter().map(reader).collect()
    }
}

#[async_trait]
impl Engine for ClusterEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        let found = on_all(self.engines().map(|(node, engine)| (node, engine.already_complete(root, names)))).await?;
        Ok(found.into_iter().collect::<Option<Vec<_>>>().and_then(|blobs| blobs.into_iter().max()))
    }

    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        let leasing = self.nodes.iter().map(|node| (&node.name, node.engine.own_lease(origin, lifetime)));
        let (mut leases, mut failure) = (Vec::new(), None);
        for (node, outcome) in self.nodes.iter().zip(each(leasing).await) {
            match outcome {
                Ok(lease) => leases.push(NodeLease { node: node.name.clone(), lease }),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let Some(error) = failure else { return Ok(Arc::new(ClusterLease::new(leases))) };
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
        Ok(Arc::new(ClusterImages::new(format!("the cluster {}", self.identity.address), self.readers())))
    }

    /// Nothing loads archives into the nodes of a cluster.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        let released = on_all(self.engines().map(|(node, engine)| (node, engine.recover()))).await?;
        Ok(released.into_iter().sum())
    }

    /// On the nodes that have the image.
    async fn tag(&self, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
        let tagging = self.engines().map(|(node, engine)| {
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
        let removing = self.nodes.iter().map(|node| async move {
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
        let was_on_none = record.name.is_some() && moved.len() == self.nodes.len();
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
    /// Those that all nodes have.
    async fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        let found = on_all(self.engines().map(|(node, engine)| (node, engine.durable()))).await?;
        let mut nodes = HashMap::<_, usize>::new();
        for lease in found.iter().flatten() {
            *nodes.entry(lease.export.clone()).or_default() += 1;
        }
        let first = found.into_iter().next().unwrap_or_default().into_iter();
        Ok(first.filter(|lease| nodes.get(&lease.export) == Some(&self.nodes.len())).collect())
    }

    /// Those that any node has.
    async fn abandoned(&self) -> Result<Abandoned, EngineError> {
        let found = on_all(self.engines().map(|(node, engine)| (node, PersistentLeases::abandoned(engine)))).await?;
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
        on_all(self.engines().map(|(node, engine)| (node, engine.release_abandoned(leases)))).await.map(drop)
    }
}
