//! An image on its way to one node.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::nodes::{NodeName, Sent};
use crate::engine::containerd::ContainerdTransaction;
use crate::image::Digest;

/// The image on its way to one node.
#[derive(Debug)]
pub(super) struct NodeTransaction {
    pub(super) node: NodeName,
    pub(super) image: ContainerdTransaction,
    /// What this node lacked, others or not.
    pub(super) missing: HashSet<Digest>,
    pub(super) sent: Arc<Sent>,
    /// Whether it may have some of the image's names, though not all nodes have them.
    pub(super) may_be_named: AtomicBool,
}

impl NodeTransaction {
    pub(super) fn new(node: NodeName, image: ContainerdTransaction, missing: HashSet<Digest>, sent: Arc<Sent>) -> Self {
        Self { node, image, missing, sent, may_be_named: AtomicBool::new(false) }
    }
}
