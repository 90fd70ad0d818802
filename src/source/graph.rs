//! Reading all documents of an image.

use futures_util::{StreamExt as _, stream};

use super::{Source, SourceError, read_document};
use crate::image::{Descriptor, Digest, Graph, GraphError, Kind, Limits, Walk};

/// How many documents are read at once.
const PARALLEL: usize = 16;

/// What to do about documents that the source lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissing {
    /// Stop at the first one.
    Stop,
    /// Read on, so that [`ReadGraphError::Missing`] lists every document that is missing.
    Collect,
}

/// Why an image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadGraphError {
    /// The documents are no valid image, or exceed the limits.
    #[error("the image is invalid: {0}")]
    Graph(#[from] GraphError),
    /// A document cannot be read.
    #[error(transparent)]
    Source(SourceError),
    /// The source does not hold all documents.
    #[error("{name} does not hold {}{}", documents[0], more(documents.len() - 1))]
    Missing {
        /// The source.
        name: String,
        /// The documents: at least one, sorted.
        documents: Vec<Digest>,
        /// The leaves of the documents that the source holds.
        leaves: Vec<(Digest, Kind)>,
    },
}

impl ReadGraphError {
    /// The same as a [`SourceError`]: the first missing document becomes [`SourceError::NotFound`].
    ///
    /// # Errors
    /// The [`GraphError`], if the image is invalid.
    pub fn into_source(self) -> Result<SourceError, GraphError> {
        match self {
            Self::Graph(error) => Err(error),
            Self::Source(error) => Ok(error),
            Self::Missing { name, mut documents, .. } => {
                Ok(SourceError::NotFound { name, digest: documents.swap_remove(0) })
            }
        }
    }
}

fn more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" and {count} more documents") }
}

/// Reads the documents of the image `root`, several at a time.
///
/// # Errors
/// When the source lacks a document, or the documents are invalid.
pub async fn read_graph(
    source: &dyn Source,
    root: Descriptor,
    limits: Limits,
    on_missing: OnMissing,
) -> Result<Graph, ReadGraphError> {
    let mut walk = Walk::new(root, limits)?;
    let mut missing = Vec::<Digest>::new();
    loop {
        // Documents that are missing stay pending.
        let is_new = |document: &&Descriptor| missing.binary_search(&document.digest).is_err();
        let pending: Vec<_> = walk.pending().iter().filter(is_new).cloned().collect();
        if pending.is_empty() || (!missing.is_empty() && on_missing == OnMissing::Stop) {
            break;
        }
        // Collected first: a lazy iterator held across an await defeats the compiler's check that this is `Send`.
        let reading: Vec<_> = pending.iter().map(|document| read_document(source, document)).collect();
        let mut documents = stream::iter(reading).buffered(PARALLEL);
        for Descriptor { digest, .. } in &pending {
            match documents.next().await {
                Some(Ok(bytes)) => walk.supply(digest, bytes)?,
                Some(Err(SourceError::NotFound { .. })) => missing.push(digest.clone()),
                Some(Err(error)) => return Err(ReadGraphError::Source(error)),
                // There are as many results as there are documents.
                None => break,
            }
        }
        missing.sort_unstable();
    }
    if missing.is_empty() {
        return Ok(walk.finish()?);
    }
    let leaves = walk.leaves().map(|(digest, kind)| (digest.clone(), kind)).collect();
    Err(ReadGraphError::Missing { name: source.name().to_owned(), documents: missing, leaves })
}
