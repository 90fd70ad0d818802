//! Orders the documents of a complete graph, and counts the paths through it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use super::{Graph, GraphError};
use crate::image::{Descriptor, Digest, Document, Kind, Limits};

pub(super) const DEPTH: &str = "the nesting of indexes and manifests";
const VISITS: &str = "the number of ways through the graph";

/// Orders all documents of a graph so that every parent precedes its children (Kahn's algorithm, first named first). The order
/// does not depend on the order in which they were read.
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
    let mut leaves: Vec<Descriptor> = Vec::new();
    let mut met: HashMap<Digest, usize> = HashMap::new();
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
                // A missing document was left out of the graph.
                if child.kind().is_document() {
                    continue;
                }
                match met.entry(child.digest.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(leaves.len());
                        leaves.push(child.clone());
                    }
                    Entry::Occupied(entry) => {
                        let leaf = &mut leaves[*entry.get()];
                        if child.kind().demand() > leaf.kind().demand() {
                            *leaf = child.clone();
                        }
                    }
                }
                continue;
            };
            let node = &mut nodes[at];
            node.depth = node.depth.max(depth + usize::from(matches!(child.kind(), Kind::Index | Kind::Manifest)));
            node.ways = node.ways.saturating_add(ways);
            // Other descriptors of the same blob do not say what it was read as.
            if child.media_type == documents[at].descriptor.media_type {
                node.descriptor.get_or_insert_with(|| child.clone());
            }
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

/// A document while the graph is being ordered.
#[derive(Default)]
struct Node {
    /// How many references to it come from documents that are not ordered yet.
    parents: usize,
    /// The number of indexes and manifests on the longest path to it, including itself.
    depth: usize,
    /// The number of paths to it.
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
    // Digests cannot form a cycle, unless the hash is broken.
    if let Some(left) = slots.into_iter().flatten().next() {
        return Err(GraphError::Unexpected { digest: left.descriptor.digest, what: "named by itself" });
    }
    let positions =
        documents.iter().enumerate().map(|(at, document)| (document.descriptor.digest.clone(), at)).collect();
    Ok(Graph { root, documents, leaves, positions })
}
