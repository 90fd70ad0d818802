//! Planning: pins what the content store has of an image, and stores its documents.

use super::client::Client;
use super::content::{self, Put};
use super::labels::{self, Labels};
use super::leases;
use super::unpack::Job;
use crate::engine::{EngineError, Plan};
use crate::image::{Descriptor, Document, Graph, Kind};

/// Stores the documents of `graph` under `lease` and looks up its leaves; `job` is the unpacking that the labels of the
/// config must allow for. `client` must act in the name of `lease`.
pub(super) async fn plan(client: &Client, lease: &str, graph: &Graph, job: Option<&Job>) -> Result<Plan, EngineError> {
    let mut plan = Plan::default();
    for document in graph.documents() {
        let mut expected = labels::children(document);
        if let Some(job) = job.filter(|job| job.config == document.descriptor.digest) {
            expected.extend(job.label());
        }
        let is_root = document.descriptor.digest == graph.root().digest;
        match store(client, lease, document, expected, is_root).await? {
            Put::Stored => plan.stored.push(document.descriptor.clone()),
            Put::Present => plan.present.push(document.descriptor.clone()),
        }
    }
    let root = graph.root();
    if graph.documents().is_empty() && content::info(client, &root.digest).await?.is_some() {
        // The root is a leaf: no label of a parent keeps it.
        leases::add(client, lease, leases::CONTENT, root.digest.as_str()).await?;
    }
    // From here on the labels and the lease keep whatever is there: a leaf that is found now stays.
    plan.add_leaves(content::present(client, graph.leaves()).await?);
    Ok(plan)
}

/// Fails unless the store has every blob of `graph`, except for foreign layers.
pub(super) async fn check_complete(client: &Client, graph: &Graph) -> Result<(), EngineError> {
    let found = content::present(client, graph.descriptors()).await?;
    let missing = found.into_iter().filter(|(blob, present)| !present && blob.kind() != Kind::ForeignLayer);
    let digests: Vec<_> = missing.map(|(blob, _): (&Descriptor, _)| blob.digest.clone()).collect();
    if digests.is_empty() { Ok(()) } else { Err(EngineError::Missing { digests }) }
}

/// Makes sure that `document` is in the store, pinned, and labelled with `expected`.
///
/// The root is leased by name; everything below it is pinned as soon as its parent is there with all labels,
/// and parents come first. So a child that a mere look-up finds is pinned, and the number of synced writes does not grow
/// with the image.
async fn store(
    client: &Client,
    lease: &str,
    document: &Document,
    expected: Labels,
    is_root: bool,
) -> Result<Put, EngineError> {
    let descriptor = &document.descriptor;
    let mut found = None;
    let mut put = Put::Present;
    if !is_root {
        found = content::info(client, &descriptor.digest).await?;
    }
    if found.is_none() {
        put = content::put(client, lease, descriptor, &document.bytes, expected.clone()).await?;
        if put == Put::Present {
            found = content::info(client, &descriptor.digest).await?;
        }
    }
    if put == Put::Present {
        let have = found.ok_or_else(|| EngineError::Missing { digests: vec![descriptor.digest.clone()] })?.labels;
        let lacking = labels::missing(&expected, &have);
        if !lacking.is_empty() {
            content::label(client, &descriptor.digest, lacking).await?;
        }
    }
    Ok(put)
}
