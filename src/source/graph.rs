//! Reading all documents of an image.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Source, SourceError, read_document};
use crate::image::{Descriptor, Graph, GraphError, Limits, Walk};

/// How many documents are read at once.
const PARALLEL: usize = 16;

/// Why an image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadGraphError {
    /// The documents are not an image within the limits.
    #[error("the image is invalid: {0}")]
    Graph(#[from] GraphError),
    /// One of them cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Reads the documents of the image `root`, several at a time.
///
/// # Errors
/// When the source does not hold one, or they are not what they should be.
pub async fn read_graph(source: &dyn Source, root: Descriptor, limits: Limits) -> Result<Graph, ReadGraphError> {
    let mut walk = Walk::new(root, limits)?;
    while !walk.wanted().is_empty() {
        let wanted = walk.wanted().to_vec();
        // Collected first: a lazy iterator held across an await defeats the compiler's check that this is `Send`.
        let reading: Vec<_> = wanted.iter().map(|document| read_document(source, document)).collect();
        let documents: Vec<_> = stream::iter(reading).buffered(PARALLEL).try_collect().await?;
        for (Descriptor { digest, .. }, bytes) in wanted.into_iter().zip(documents) {
            walk.supply(&digest, bytes)?;
        }
    }
    Ok(walk.finish()?)
}
