//! Which nodes a cluster has: docker is asked whenever an export begins, because nodes join and leave while a daemon runs.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::address::ClusterAddress;
use super::dial::NodeDial;
use super::discover::{self, Found};
use super::node_names::NodeNames;
use super::nodes::{NodeName, on_all, until_one_fails};
use super::{NAMESPACE, Node};
use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::containerd::{Client, ContainerdEngine};
use crate::engine::layer_applier::ApplierChoice;

/// The nodes at one moment, in the order of their names; never none.
pub(super) type Nodes = Arc<[Arc<Node>]>;

/// The nodes of a cluster, or those that its address names.
#[derive(Debug)]
pub(super) struct Members {
    docker: Arc<Api>,
    address: ClusterAddress,
    applier: ApplierChoice,
    known: RwLock<Nodes>,
    names: NodeNames,
}

impl Members {
    /// Finds the nodes, and connects to each.
    pub(super) async fn find(
        docker: Arc<Api>,
        address: ClusterAddress,
        applier: ApplierChoice,
    ) -> Result<Self, EngineError> {
        let members = Self { docker, address, applier, known: RwLock::new([].into()), names: NodeNames::default() };
        members.current().await?;
        Ok(members)
    }

    /// Those that were found last.
    pub(super) fn known(&self) -> Nodes {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Their names, which are followed.
    pub(super) fn names(&self) -> NodeNames {
        self.names.clone()
    }

    /// Those that there are now. All of them run, and the containerd of each new one responds.
    ///
    /// # Errors
    /// When docker does not say which there are, or one of them cannot be used.
    pub(super) async fn current(&self) -> Result<Nodes, EngineError> {
        let found = discover::nodes(&self.docker, &self.address).await?;
        let known = self.known();
        if is_same(&known, &found) {
            return Ok(known);
        }
        let joining = found.iter().filter(|found| !known.iter().any(|node| node.is(found)));
        let names: Vec<(NodeName, &Found)> = joining.map(|found| (found.name.as_str().into(), found)).collect();
        let joined =
            until_one_fails(names.iter().map(|(name, found)| (name, self.connect(name.clone(), found)))).await?;
        Ok(self.put(&found, &known, joined))
    }

    async fn connect(&self, name: NodeName, found: &Found) -> Result<Arc<Node>, EngineError> {
        let dial = NodeDial::new(self.docker.clone(), self.address.tool, &self.address.name, &name);
        let client = Client::over(Arc::new(dial), NAMESPACE)?;
        let mut engine = ContainerdEngine::connect_over(client, NAMESPACE).await?;
        engine.set_layer_applier(self.applier);
        Ok(Arc::new(Node::new(name, found.id.clone(), engine)))
    }

    /// Takes the nodes that were `found` for those that there are. What another export connected to meanwhile is used by both.
    fn put(&self, found: &[Found], known: &Nodes, joined: Vec<Arc<Node>>) -> Nodes {
        let mut current = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let nodes: Nodes = {
            let all = current.iter().chain(&joined).chain(known.iter());
            let by_id = all.rev().map(|node| (node.id.as_str(), node)).collect::<HashMap<_, _>>();
            found.iter().filter_map(|found| by_id.get(found.id.as_str()).copied().cloned()).collect()
        };
        if !current.is_empty() {
            let missing = |here: &Nodes, there: &Nodes| {
                let missing = here.iter().filter(|node| !there.iter().any(|other| other.id == node.id));
                missing.map(|node| node.name.to_string()).collect::<Vec<_>>().join(" ")
            };
            let (joined, left) = (missing(&nodes, &current), missing(&current, &nodes));
            tracing::info!(cluster = %self.address, joined, left, "the nodes of the cluster are others now");
        }
        self.names.set(nodes.iter().map(|node| node.name.to_string()).collect());
        *current = nodes.clone();
        nodes
    }

    /// Asks every node that is known, and where one of them fails once more those that there are by then: it may have left.
    pub(super) async fn ask<T, F>(&self, what: impl Fn(Arc<Node>) -> F) -> Result<Vec<T>, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let known = self.known();
        let error = match on_all(known.iter().map(|node| (&node.name, what(node.clone())))).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        match self.current().await {
            Ok(now) if !Arc::ptr_eq(&now, &known) => {
                on_all(now.iter().map(|node| (&node.name, what(node.clone())))).await
            }
            _ => Err(error),
        }
    }
}

/// Whether the nodes are those that were found; both are sorted.
fn is_same(nodes: &Nodes, found: &[Found]) -> bool {
    nodes.len() == found.len() && nodes.iter().zip(found).all(|(node, found)| node.is(found))
}
