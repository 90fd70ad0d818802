//! The images of an index that a source holds, exported under the unchanged index.

use super::choose::{ChoiceError, Chooser};
use super::{BlobLookup, SourceError, read_document};
use crate::image::{Descriptor, Graph, GraphError, Kind, Limits, Platform, Walk};

/// An index of which the source lacks images.
#[derive(Debug)]
pub struct Part {
    /// The index, with the images and attestations that are complete.
    pub graph: Graph,
    /// The platforms of these images.
    pub platforms: Vec<String>,
}

/// The complete images of the index `root`, as `docker save` takes them; `None` if all are complete, or `root` is no index.
///
/// # Errors
/// When no image of it is complete, or a document is invalid.
pub async fn part(from: &dyn BlobLookup, root: &Descriptor) -> Result<Option<Part>, ChoiceError> {
    let chooser = Chooser(from);
    if root.kind() != Kind::Index || chooser.is_whole(root).await? {
        return Ok(None);
    }
    let source_name = || from.name().to_owned();
    let refused = |error: GraphError| ChoiceError::Graph { source_name: source_name(), error };
    let mut walk = Walk::new(root.clone(), Limits::default()).map_err(refused)?;
    while let Some(pending) = walk.pending().first().cloned() {
        let is_left_out = pending.kind() == Kind::Manifest && !chooser.is_whole(&pending).await.unwrap_or(false);
        let bytes = match is_left_out {
            true => None,
            false => match read_document(from, &pending).await {
                Err(SourceError::NotFound { .. }) if pending.digest != root.digest => None,
                read => Some(read?),
            },
        };
        match bytes {
            Some(bytes) => walk.supply(&pending.digest, bytes).map_err(refused)?,
            None => walk.skip(&pending.digest).map_err(refused)?,
        }
    }
    let graph = walk.finish().map_err(refused)?;
    let platforms: Vec<_> = graph.images().map(|image| image.platform().to_string()).collect();
    if platforms.is_empty() {
        let requested = Platform::host().to_string();
        return Err(ChoiceError::Platform { source_name: source_name(), requested, there: Vec::new() });
    }
    Ok(Some(Part { graph, platforms }))
}
