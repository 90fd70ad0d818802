//! The order of a complete graph, and how entangled it is.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Graph, GraphError};
use crate::image::{Descriptor, Digest, Document, Kind, Limits};

pub(super) const DEPTH: &str = "the nesting of indexes and manifests";
const VISITS: &str = "the number of ways through the graph";

/// Puts all documents of a graph in an order in which every parent precedes its children, and
/// the same one whatever the order in which they were read (Kahn's algorithm, first named first).
///
/// # Errors
/// When the graph is too deep, or an engine that follows every descriptor would visit too many blobs.
pub(super) fn arrange(root: Descriptor, documents: Vec<Document>, limits: &Limits) -> Result<Graph, GraphError> {
    let positions: HashMap<Digest, usize> =
        documents.iter().enumerate().map(|(at, document)| (document.descriptor.digest.clone(), at)).collect();
    let mut nodes: Vec<Node> = documents.iter().map(|_| Node::default()).collect();
    for child in documents.iter().flat_map(Document::children) {
        if let Some(&at) = positions.get(&child.digest) {
            nodes[at].parents += 1;
        }
    }

    let mut order = Vec::with_capacity(documents.len());
    let mut leaves = Vec::new();
    let mut met = HashSet::new();
    let mut visits = 1u64;
    let mut ready = VecDeque::new();
    if let Some(&at) = positions.get(&root.digest) {
        nodes[at] = Node { parents: 0, depth: 1, ways: 1, descriptor: Some(root.clone()) };
        ready.push_back(at);
    }
    while let Some(at) = ready.pop_front() {
        order.push(at);
        let (depth, ways) = (nodes[at].depth, nodes[at].ways);
        let parent = &documents[at];
        for child in parent.children() {
            visits = visits.saturating_add(ways);
            let Some(&at) = positions.get(&child.digest) else {
                // A document that is not there was left out.
                if !child.kind().is_document() && met.insert(child.digest.clone()) {
                    leaves.push(child.clone());
                }
                continue;
            };
            let node = &mut nodes[at];
            node.depth = node.depth.max(depth + usize::from(child.kind() != Kind::Config));
            node.ways = node.ways.saturating_add(ways);
            node.descriptor.get_or_insert_with(|| child.clone());
            node.parents = node.parents.saturating_sub(1);
            if node.parents == 0 {
                ready.push_back(at);
            }
            if node.depth > limits.depth {
                let digest = parent.descriptor.digest.clone();
                return Err(GraphError::Limit { digest, what: DEPTH, limit: limits.depth as u64 });
            }
        }
        if visits > limits.visits {
            let digest = root.digest.clone();
            return Err(GraphError::Limit { digest, what: VISITS, limit: limits.visits });
        }
    }

    permute(root, documents, leaves, nodes, &order)
}

/// One document while the graph is being put in order.
#[derive(Default)]
struct Node {
    /// How many times documents that are not in order yet name it.
    parents: usize,
    /// How many indexes and manifests there are on the longest way to it, itself included.
    depth: usize,
    /// How many ways lead to it.
    ways: u64,
    /// The descriptor that names it first in the order of the graph.
    descriptor: Option<Descriptor>,
}

fn permute(
    root: Descriptor,
    documents: Vec<Document>,
    leaves: Vec<Descriptor>,
    nodes: Vec<Node>,
    order: &[usize],
) -> Result<Graph, GraphError> {
    let mut slots: Vec<Option<Document>> = documents
        .into_iter()
        .zip(nodes)
        .map(|(document, node)| {
            Some(Document { descriptor: node.descriptor.unwrap_or(document.descriptor), ..document })
        })
        .collect();
    let documents: Vec<Document> = order.iter().filter_map(|at| slots[*at].take()).collect();
    // Digests cannot name each other in a circle, unless the hash is broken.
    if let Some(left) = slots.into_iter().flatten().next() {
        return Err(GraphError::Unexpected { digest: left.descriptor.digest, what: "named by itself" });
    }
    let positions =
        documents.iter().enumerate().map(|(at, document)| (document.descriptor.digest.clone(), at)).collect();
    Ok(Graph { root, documents, leaves, positions })
}
