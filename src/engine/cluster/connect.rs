//! Connects to nodes.

use std::sync::Arc;

use super::address::ClusterAddress;
use super::container::NodeContainer;
use super::dial::NodeDial;
use super::discover::Found;
use super::nodes::NodeName;
use super::{NAMESPACE, Node};
use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::containerd::{Client, ContainerdEngine};
use crate::engine::layer_applier::ApplierChoice;

/// What a connection to a node takes.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) docker: Arc<Api>,
    pub(super) address: ClusterAddress,
    pub(super) applier: ApplierChoice,
}

impl Connector {
    /// Connects to the containerd of the node that was `found`.
    pub(super) async fn connect(&self, name: NodeName, found: &Found) -> Result<Arc<Node>, EngineError> {
        let ClusterAddress { tool, name: cluster, .. } = &self.address;
        let dial = NodeDial::new(NodeContainer::new(self.docker.clone(), *tool, cluster, &found.id), &name);
        dial.prepare().await?;
        let client = Client::over(Arc::new(dial), NAMESPACE)?;
        let mut engine = ContainerdEngine::connect_over(client, NAMESPACE).await?;
        engine.set_layer_applier(self.applier);
        Ok(Arc::new(Node::new(name, found.id.clone(), engine)))
    }
}
