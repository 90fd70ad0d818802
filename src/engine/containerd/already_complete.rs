//! Whether an image is already complete under its names, found out without a write.

use std::collections::HashMap;

use futures_util::future::try_join_all;

use super::client::Client;
use super::labels::{self, Labels};
use super::read::ContainerdImages;
use super::unpack::{self, Job};
use super::{content, images};
use crate::engine::EngineError;
use crate::image::{Descriptor, Digest, Graph, GraphError, Limits, Platform, Reference};
use crate::source::{OnMissing, ReadGraphError, Source, SourceError, read_graph};

/// Whether all `names` point to `root`, every blob of it is there, every label that keeps one is set, and this host's
/// image is unpacked. Counts the blobs.
pub(crate) async fn check(
    client: &Client,
    snapshotter: &str,
    root: &Descriptor,
    names: &[Reference],
) -> Result<Option<usize>, EngineError> {
    if names.is_empty() || !named(client, root, names).await? {
        return Ok(None);
    }
    let images = ContainerdImages::new(client.clone(), "containerd");
    let Some(graph) = read_if_complete(&images, root).await? else { return Ok(None) };
    let Some(job) = Job::of(&graph, &Platform::host(), snapshotter) else { return Ok(None) };
    let documents = async {
        let lookups = graph.documents().iter().map(|document| content::info(client, &document.descriptor.digest));
        let found: HashMap<Digest, Labels> = try_join_all(lookups)
            .await?
            .into_iter()
            .zip(graph.documents())
            .filter_map(|(info, document)| Some((document.descriptor.digest.clone(), info?.labels)))
            .collect();
        Ok(graph.documents().iter().all(|document| {
            let mut expected = labels::children(document);
            if document.descriptor.digest == job.config {
                expected.extend(job.label());
            }
            found.get(&document.descriptor.digest).is_some_and(|have| labels::missing(&expected, have).is_empty())
        }))
    };
    let leaves = async { Ok(content::present(client, graph.leaves()).await?.iter().all(|(_, present)| *present)) };
    let unpacked = async {
        match job.top() {
            Some(top) => unpack::exists(client, snapshotter, top.as_str()).await,
            None => Ok(false),
        }
    };
    let (documents, leaves, unpacked) = futures_util::try_join!(documents, leaves, unpacked)?;
    Ok((documents && leaves && unpacked).then(|| graph.documents().len() + graph.leaves().len()))
}

/// Whether every name points to `root`.
async fn named(client: &Client, root: &Descriptor, names: &[Reference]) -> Result<bool, EngineError> {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let found = try_join_all(names.iter().map(|name| images::get(client, name))).await?;
    Ok(found.into_iter().all(|image| {
        let target = image.and_then(|image| image.target);
        target.is_some_and(|target| target.digest == root.digest.as_str())
    }))
}

/// Reads the documents of an image out of the store `source`; `None` when one is missing.
pub(crate) async fn read_if_complete(source: &dyn Source, root: &Descriptor) -> Result<Option<Graph>, EngineError> {
    match read_graph(source, root.clone(), Limits::default(), OnMissing::Stop).await {
        Ok(graph) => Ok(Some(graph)),
        // A root that is no image is found by its transaction.
        Err(ReadGraphError::Missing { .. } | ReadGraphError::Graph(GraphError::Root { .. })) => Ok(None),
        Err(ReadGraphError::Graph(error)) => Err(error.into()),
        Err(ReadGraphError::Source(SourceError::Length { digest, expected, .. })) => {
            let reason = format!("the engine's copy has not the {expected} bytes that it should have");
            Err(EngineError::Corrupt { digest, reason })
        }
        Err(ReadGraphError::Source(error)) => {
            Err(EngineError::Protocol { operation: format!("reading {}", root.digest), reason: error.reason() })
        }
    }
}
