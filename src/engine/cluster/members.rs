//! Which nodes a cluster has: docker is asked whenever an export begins, because nodes join and leave while a daemon runs.

use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::join_all;

use super::Node;
use super::address::ClusterAddress;
use super::connect::Connector;
use super::discover::{self, Found};
use super::joining::{Connect, Joining, Key};
use super::node_names::NodeNames;
use super::nodes::{NodeName, on_all, until_one_fails};
use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::layer_applier::ApplierChoice;

/// The nodes at one moment, in the order of their names; never none.
pub(super) type Nodes = Arc<[Arc<Node>]>;

/// The nodes of a cluster, or those that its address names.
#[derive(Debug)]
pub(super) struct Members {
    connector: Arc<Connector>,
    known: RwLock<Nodes>,
    joining: Joining<Arc<Node>>,
    names: NodeNames,
}

impl Members {
    /// Finds the nodes, and connects to each.
    pub(super) async fn find(
        docker: Arc<Api>,
        address: ClusterAddress,
        applier: ApplierChoice,
    ) -> Result<Self, EngineError> {
        let connector = Arc::new(Connector { docker, address, applier });
        let (joining, names) = Default::default();
        let members = Self { connector, known: RwLock::new([].into()), joining, names };
        members.current().await?;
        Ok(members)
    }

    fn address(&self) -> &ClusterAddress {
        &self.connector.address
    }

    /// Those that were found last.
    pub(super) fn known(&self) -> Nodes {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Their names, which are followed.
    pub(super) fn names(&self) -> NodeNames {
        self.names.clone()
    }

    /// Those that there are now. A node has joined when it runs and its containerd responds; from then on all that is exported
    /// goes there, and nothing is exported while it is stopped.
    ///
    /// # Errors
    /// When docker does not say which there are, or one that has joined does not run. At first all have to.
    pub(super) async fn current(&self) -> Result<Nodes, EngineError> {
        let found = discover::nodes(&self.connector.docker, self.address()).await?;
        let known = self.known();
        let has_joined = |found: &Found| known.is_empty() || known.iter().any(|node| node.id == found.id);
        let stopped: Vec<_> = found.iter().filter(|found| has_joined(found) && !found.is_running()).collect();
        if !stopped.is_empty() {
            return Err(discover::stopped(&stopped, self.address()));
        }
        if is_same(&known, &found) {
            return Ok(known);
        }
        let is_new = |found: &&Found| found.is_running() && !known.iter().any(|node| node.is(found));
        let joined = if known.is_empty() {
            let all: Vec<(NodeName, &Found)> =
                found.iter().filter(is_new).map(|found| (found.name.as_str().into(), found)).collect();
            until_one_fails(all.iter().map(|(name, found)| (name, self.connector.connect(name.clone(), found)))).await?
        } else {
            join_all(found.iter().filter(is_new).map(|found| self.join(found))).await.into_iter().flatten().collect()
        };
        let nodes = self.put(&found, &known, joined);
        self.joining.retain(|key| {
            let is_there = found.iter().any(|found| found.is_running() && key_of(found) == *key);
            is_there && !nodes.iter().any(|node| node.id == key.0 && *node.name == *key.1)
        });
        match (nodes.is_empty(), found.first()) {
            (true, Some(first)) if first.is_running() => Err(self.none_responds()),
            (true, Some(_)) => Err(discover::stopped(&found.iter().collect::<Vec<_>>(), self.address())),
            _ => Ok(nodes),
        }
    }

    /// A node that was not there before, if its containerd responds. Else, as when it is starting, it joins later: it is waited
    /// for in the background, and holds up nobody until then.
    async fn join(&self, found: &Found) -> Option<Arc<Node>> {
        let connect = || -> Connect<_> {
            let (connector, found) = (self.connector.clone(), found.clone());
            Box::new(move || {
                let (connector, found) = (connector.clone(), found.clone());
                async move { connector.connect(found.name.as_str().into(), &found).await }
            })
        };
        self.joining.join(&key_of(found), connect).await
    }

    /// Whether the address names nodes.
    pub(super) fn are_named(&self) -> bool {
        !self.address().nodes.is_empty()
    }

    /// Whether docker says that it has no container of this id any more.
    pub(super) async fn has_left(&self, id: &str) -> bool {
        match discover::exists(&self.connector.docker, id).await {
            Ok(exists) => !exists,
            Err(error) => {
                tracing::debug!(%error, id, "docker does not say whether a node is there");
                false
            }
        }
    }

    fn none_responds(&self) -> EngineError {
        EngineError::Cluster {
            cluster: self.address().to_string(),
            reason: "the containerd of none of its nodes responds".to_owned(),
            hint: Some("it may be starting: run the command again".to_owned()),
            is_passing: true,
        }
    }

    /// Takes the nodes that were `found`, as far as they have joined, for those that there are. What another export connected to
    /// meanwhile is used by both.
    fn put(&self, found: &[Found], known: &Nodes, joined: Vec<Arc<Node>>) -> Nodes {
        let mut current = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let of = |found: &Found| {
            current
                .iter()
                .chain(&joined)
                .chain(known.iter())
                .find(|node| node.is(found))
                .filter(|_| found.is_running())
                .cloned()
        };
        let nodes: Nodes = found.iter().filter_map(of).collect();
        let missing = |here: &Nodes, there: &Nodes| {
            let missing = here.iter().filter(|node| !there.iter().any(|other| other.is_the_same(node)));
            missing.map(|node| node.name.to_string()).collect::<Vec<_>>().join(" ")
        };
        let (joined, left) = (missing(&nodes, &current), missing(&current, &nodes));
        let has_changed = !joined.is_empty() || !left.is_empty();
        if has_changed && !current.is_empty() {
            tracing::info!(cluster = %self.address(), joined, left, "the nodes of the cluster are others now");
        }
        if !nodes.is_empty() {
            self.names.set(nodes.iter().map(|node| node.name.to_string()).collect());
            *current = nodes.clone();
        }
        nodes
    }

    /// Asks every node that there is, and where one of them fails once more those that there are by then: it may have left.
    pub(super) async fn ask<T, F>(&self, what: impl Fn(Arc<Node>) -> F) -> Result<Vec<T>, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let nodes = self.current().await?;
        let error = match on_all(nodes.iter().map(|node| (&node.name, what(node.clone())))).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        match self.current().await {
            Ok(now) if !Arc::ptr_eq(&now, &nodes) => {
                on_all(now.iter().map(|node| (&node.name, what(node.clone())))).await
            }
            // That a node does not run says more than that it did not respond.
            Err(reason @ EngineError::Cluster { .. }) if error.is_disconnect() || error.kind() == "timeout" => {
                Err(reason)
            }
            _ => Err(error),
        }
    }
}

/// By what a node is told from others while it joins.
fn key_of(found: &Found) -> Key {
    (found.id.clone(), found.name.clone())
}

/// Whether the nodes are those that were found, as far as these run; both are sorted.
fn is_same(nodes: &Nodes, found: &[Found]) -> bool {
    let running = found.iter().filter(|found| found.is_running());
    nodes.len() == running.clone().count() && nodes.iter().zip(running).all(|(node, found)| node.is(found))
}
