//! The part of an index that a source holds, to be taken with the index as it is.

use super::choose::{ChoiceError, Chooser};
use super::{BlobLookup, SourceError, read_document};
use crate::image::{Descriptor, Graph, GraphError, Kind, Limits, Platform, Walk};

/// An index of which not every image is there.
#[derive(Debug)]
pub struct Part {
    /// The index, and those images and attestations that are there as a whole.
    pub graph: Graph,
    /// The platforms of these images.
    pub platforms: Vec<String>,
}

/// What is there of the index `root`, as `docker save` takes it; `None` if that is all of it, or the image is no index.
///
/// # Errors
/// When no image of it is complete, or documents are not what they should be.
pub async fn part(from: &dyn BlobLookup, root: &Descriptor) -> Result<Option<Part>, ChoiceError> {
    let chooser = Chooser(from);
    if root.kind() != Kind::Index || chooser.is_whole(root).await? {
        return Ok(None);
    }
    let source_name = || from.name().to_owned();
    let refused = |error: GraphError| ChoiceError::Graph { source_name: source_name(), error };
    let mut walk = Walk::new(root.clone(), Limits::default()).map_err(refused)?;
    while let Some(wanted) = walk.wanted().first().cloned() {
        let is_left_out = wanted.kind() == Kind::Manifest && !chooser.is_whole(&wanted).await.unwrap_or(false);
        let bytes = match is_left_out {
            true => None,
            false => match read_document(from, &wanted).await {
                Err(SourceError::NotFound { .. }) if wanted.digest != root.digest => None,
                read => Some(read?),
            },
        };
        match bytes {
            Some(bytes) => walk.supply(&wanted.digest, bytes).map_err(refused)?,
            None => walk.skip(&wanted.digest).map_err(refused)?,
        }
    }
    let graph = walk.finish().map_err(refused)?;
    let platforms: Vec<_> = graph.images().map(|image| image.platform().to_string()).collect();
    if platforms.is_empty() {
        let wanted = Platform::host().to_string();
        return Err(ChoiceError::Platform { source_name: source_name(), wanted, there: Vec::new() });
    }
    Ok(Some(Part { graph, platforms }))
}
