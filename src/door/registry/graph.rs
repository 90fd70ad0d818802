//! What the engine holds of an image.

use std::sync::Arc;

use crate::engine::images::Images;
use crate::image::{Descriptor, Graph, Kind, Limits, Walk};
use crate::source::{OnMissing, part, read_document, read_graph};

/// The graph of `root`, without the documents that the engine lacks: it may hold an index of many platforms and the image of
/// one. `None` if `root` is no image that can be read.
pub(super) async fn held(images: &Arc<dyn Images>, root: &Descriptor) -> Option<Graph> {
    held_part(images, root).await.map(|(graph, _)| graph)
}

/// The same, and whether the engine lacks no document.
pub(super) async fn held_part(images: &Arc<dyn Images>, root: &Descriptor) -> Option<(Graph, bool)> {
    let mut is_complete = true;
    let mut walk = Walk::new(root.clone(), Limits::default()).ok()?;
    while let Some(pending) = walk.pending().first().cloned() {
        let read = read_document(images, &pending).await;
        let supplied = read.ok().and_then(|bytes| walk.supply(&pending.digest, bytes).ok());
        if supplied.is_none() {
            is_complete = false;
            walk.skip(&pending.digest).ok()?;
        }
    }
    walk.finish().ok().map(|graph| (graph, is_complete))
}

/// Whether a client that is given `root` finds an image behind it: all of it, or of an index that of one platform.
pub(super) async fn is_usable(images: &Arc<dyn Images>, root: &Descriptor) -> bool {
    if root.kind() == Kind::Index {
        return part(images, root).await.is_ok();
    }
    let Ok(graph) = read_graph(images, root.clone(), Limits::default(), OnMissing::Stop).await else { return false };
    for leaf in graph.leaves().iter().filter(|leaf| leaf.kind() != Kind::ForeignLayer) {
        if !matches!(images.size(&leaf.digest).await, Ok(Some(size)) if size == leaf.size) {
            return false;
        }
    }
    true
}
