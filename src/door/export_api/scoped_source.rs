//! Images as they are in the scope of an export.

use async_trait::async_trait;

use super::session::Session;
use crate::export_v1::ApiError;
use crate::image::{Descriptor, Digest, Graph, Kind, Limits};
use crate::source::{Chunks, OnMissing, ReadGraphError, Source, SourceError, read_graph};

/// Reads the image of `root` out of the scope. All that is missing is named, as far as the documents that are there tell.
pub(super) async fn graph(session: &Session, root: &Descriptor) -> Result<Graph, ApiError> {
    let source = ScopedSource(session);
    let (mut missing, read) = match read_graph(&source, root.clone(), Limits::default(), OnMissing::Collect).await {
        Ok(graph) => (Vec::new(), Ok(graph)),
        Err(ReadGraphError::Missing { documents, leaves, .. }) => (documents, Err(leaves)),
        Err(error) => return Err(error.into()),
    };
    let leaves: Vec<_> = match &read {
        Ok(graph) => graph.leaves().iter().map(|leaf| (leaf.digest.clone(), leaf.kind())).collect(),
        Err(leaves) => leaves.clone(),
    };
    let is_absent = |(digest, kind): &(Digest, Kind)| *kind != Kind::ForeignLayer && !source.holds(digest);
    missing.extend(leaves.into_iter().filter(is_absent).map(|(digest, _)| digest));
    missing.sort_unstable();
    match read {
        Ok(graph) if missing.is_empty() => Ok(graph),
        _ => Err(ApiError::missing(&missing, root.digest.as_str())),
    }
}

/// The engine's blobs, as far as they are in the scope of an export.
#[derive(Debug)]
struct ScopedSource<'a>(&'a Session);

impl ScopedSource<'_> {
    fn holds(&self, digest: &Digest) -> bool {
        self.0.scope().get(digest).is_some()
    }
}

#[async_trait]
impl Source for ScopedSource<'_> {
    fn name(&self) -> &str {
        self.0.contents.images.name()
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        if self.holds(&blob.digest) {
            return self.0.contents.images.open(blob, offset).await;
        }
        let (name, digest) = (self.name().to_owned(), blob.digest.clone());
        Err(SourceError::NotFound { name, digest })
    }
}
