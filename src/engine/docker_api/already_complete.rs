//! Whether an image is already complete under its names, found out without a write.

use futures_util::future::try_join_all;

use super::DockerApi;
use super::names;
use crate::engine::EngineError;
use crate::engine::containerd::{Job, children_labels, missing_labels, read_if_complete};
use crate::engine::docker::tag_again;
use crate::image::{Descriptor, Kind, Platform, Reference};

/// Whether all `names` point to `root`, every blob of it is there, every label that keeps one is set, and that this host's
/// image was unpacked is noted on its config; how many blobs it has. dockerd is then asked to tag the names as what
/// they are.
pub(super) async fn check(
    docker: &DockerApi,
    root: &Descriptor,
    names: &[Reference],
) -> Result<Option<usize>, EngineError> {
    if names.is_empty() {
        return Ok(None);
    }
    let full: Vec<_> = names.iter().map(ToString::to_string).collect();
    let resolved = async {
        let found = try_join_all(full.iter().map(|name| names::image(&docker.api, name))).await?;
        Ok::<_, EngineError>(found.into_iter().all(|image| image.is_some_and(|image| image.digest == root.digest)))
    };
    // At the same time: looking changes nothing.
    let (resolved, blobs) = futures_util::try_join!(resolved, complete(docker, root))?;
    let Some(blobs) = blobs.filter(|_| resolved) else { return Ok(None) };
    let tagged = try_join_all(names.iter().map(|name| tag_again(&docker.api, name))).await?;
    Ok(tagged.into_iter().all(|there| there).then_some(blobs))
}

/// How many blobs the image `root` has, if it is complete and unpacked.
async fn complete(docker: &DockerApi, root: &Descriptor) -> Result<Option<usize>, EngineError> {
    let Some(graph) = read_if_complete(&docker.images(), root).await? else { return Ok(None) };
    let Some(job) = Job::of(&graph, &Platform::host(), &docker.snapshotter) else { return Ok(None) };
    let found = docker.content.infos(graph.descriptors().map(|blob| &blob.digest)).await?;
    let is_there = |blob: &Descriptor| found.get(&blob.digest).is_some_and(|found| found.size == blob.size);
    let is_optional = |blob: &Descriptor| blob.kind() == Kind::ForeignLayer;
    if !graph.descriptors().all(|blob| is_there(blob) || is_optional(blob)) {
        return Ok(None);
    }
    // The label of the config names the snapshots of the whole image; while the config is there they are.
    let is_kept = graph.documents().iter().all(|document| {
        let mut expected = children_labels(document);
        if document.descriptor.digest == job.config {
            expected.extend(job.label());
        }
        let have = found.get(&document.descriptor.digest);
        have.is_some_and(|found| missing_labels(&expected, &found.labels).is_empty())
    });
    Ok(is_kept.then(|| graph.blobs()))
}
