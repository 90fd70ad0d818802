//! What of an image goes into the archive.

use std::collections::HashMap;
use std::sync::Arc;

use super::content::{Content, Found, may_be_of_a_record};
use crate::engine::{EngineError, Lease, Pin, Plan};
use crate::image::{Algorithm, Descriptor, Digest, Graph, Kind};

/// The plan of an archive. All documents go into it, whether dockerd has them or not.
#[derive(Debug, Default)]
pub(super) struct Archived {
    /// What is there and what is missing.
    pub(super) plan: Plan,
    /// Leaves that are read from the spool, where the export's client has left them.
    pub(super) spooled: Vec<Descriptor>,
    /// Leaves that dockerd's content store has, and which its importer may not find there.
    pub(super) repeated: Vec<Descriptor>,
}

/// Plans `graph`. `relies` is whether anything is left out because dockerd has it.
pub(super) async fn plan(
    content: &Content,
    spool: Option<&Arc<dyn Lease>>,
    graph: &Graph,
    relies: bool,
) -> Result<Archived, EngineError> {
    let found = if relies || spool.is_some() {
        content.infos(graph.descriptors().map(|blob| &blob.digest)).await?
    } else {
        HashMap::new()
    };
    let is_there = |blob: &Descriptor| found.get(&blob.digest).is_some_and(|found: &Found| found.size == blob.size);
    let mut archived = Archived::default();
    for document in graph.documents() {
        let descriptor = document.descriptor.clone();
        if is_there(&descriptor) {
            archived.plan.present.push(descriptor);
        } else {
            archived.plan.stored.push(descriptor);
        }
    }
    let absent: Vec<_> = graph.leaves().iter().filter(|leaf| !is_there(leaf)).collect();
    if let (Some(spool), false) = (spool, absent.is_empty()) {
        let pins: Vec<_> = absent.iter().map(|leaf| Pin::from(*leaf)).collect();
        let sizes = spool.pin(&pins).await?;
        let there = absent.iter().zip(sizes).filter(|(_, size)| size.is_some());
        archived.spooled = there.map(|(leaf, _)| (*leaf).clone()).collect();
    }
    let is_spooled = |leaf: &Descriptor| archived.spooled.iter().any(|spooled| spooled.digest == leaf.digest);
    archived.plan.add_leaves(graph.leaves().iter().map(|leaf| (leaf, is_there(leaf) || is_spooled(leaf))));
    archived.repeated =
        graph.leaves().iter().filter(|leaf| is_there(leaf) && may_be_of_a_record(leaf)).cloned().collect();
    check_digests(graph, &archived)?;
    Ok(archived)
}

/// Refuses blobs that would get other digests: containerd's importer knows one algorithm.
fn check_digests(graph: &Graph, archived: &Archived) -> Result<(), EngineError> {
    let leaves = archived.plan.missing.iter().chain(&archived.spooled);
    let mut sent = graph.documents().iter().map(|document| &document.descriptor).chain(leaves);
    match sent.find(|blob| blob.digest.algorithm() != Algorithm::Sha256) {
        None => Ok(()),
        Some(blob) => Err(EngineError::Unsuitable {
            root: graph.root().digest.clone(),
            reason: format!(
                "docker stores what it loads by its sha256, and {} is no such digest; use the engine `docker`, which \
                 writes into docker's containerd itself",
                blob.digest
            ),
        }),
    }
}

/// The blobs of an image that must be there once it is loaded: all but foreign layers that dockerd lacked.
pub(super) fn expected<'a>(graph: &'a Graph, plan: &'a Plan) -> impl Iterator<Item = &'a Descriptor> {
    let is_known = |blob: &Descriptor| plan.present.iter().any(|present| present.digest == blob.digest);
    graph.descriptors().filter(move |blob| blob.kind() != Kind::ForeignLayer || is_known(blob))
}

/// Which digests an error of a load should name, if `message` is that dockerd did not find a blob.
pub(super) fn not_found(message: &str) -> Option<Vec<Digest>> {
    let (_, rest) = message.split_once("content digest ")?;
    let (digest, _) = rest.split_once(": not found")?;
    Some(digest.parse().into_iter().collect())
}
