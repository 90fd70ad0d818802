//! Planning: pins what the content store has of an image, and stores its documents.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;

use super::client::Client;
use super::content::{self, Put};
use super::labels::{self, Labels};
use super::lease_calls;
use super::unpack::Job;
use crate::engine::{EngineError, Plan};
use crate::image::{Descriptor, Digest, Document, Graph, Kind};

/// How many documents are stored at once: each waits for synced writes, some of which they share.
const PUTS: usize = 8;

/// What they may have together, in KiB, for each is copied into its message; one that has more goes by itself.
const PUTS_KIB: u32 = 4096;

/// Stores the documents of `graph` under `lease` and looks up its leaves; `job` is the unpacking that the labels of the
/// config must allow for. `client` must act in the name of `lease`.
pub(super) async fn plan(client: &Client, lease: &str, graph: &Graph, job: Option<&Job>) -> Result<Plan, EngineError> {
    let documents = graph.documents().iter().map(|document| {
        let mut expected = labels::children(document);
        if let Some(job) = job.filter(|job| job.config == document.descriptor.digest) {
            expected.extend(job.label());
        }
        (document, expected)
    });
    let documents: Vec<_> = documents.collect();
    let mut plan = Plan::default();
    let root = &graph.root().digest;
    let room = &Semaphore::new(PUTS_KIB as usize);
    let puts = documents.iter().map(|(document, labels)| async move {
        let size = u32::try_from(document.bytes.len() >> 10).unwrap_or(PUTS_KIB);
        let _permit = room.acquire_many(size.clamp(1, PUTS_KIB)).await;
        put_absent(client, lease, document, labels, root).await
    });
    let puts: Vec<_> = puts.collect();
    let puts: Vec<_> = stream::iter(puts).buffered(PUTS).try_collect().await?;
    for ((document, labels), put) in documents.into_iter().zip(puts) {
        let put = if put == Put::Present { secure(client, lease, document, labels).await? } else { put };
        match put {
            Put::Stored => plan.stored.push(document.descriptor.clone()),
            Put::Present => plan.present.push(document.descriptor.clone()),
        }
    }
    let root = graph.root();
    if graph.documents().is_empty() && content::info(client, &root.digest).await?.is_some() {
        // The root is a leaf: no label of a parent keeps it.
        lease_calls::add(client, lease, lease_calls::CONTENT, root.digest.as_str()).await?;
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

/// Stores `document` if it is not there. The root is leased by its name if it is. Of others a look-up only tells that they
/// are there now: nothing may keep them yet, so [`secure`] comes after their parents.
async fn put_absent(
    client: &Client,
    lease: &str,
    document: &Document,
    labels: &Labels,
    root: &Digest,
) -> Result<Put, EngineError> {
    let descriptor = &document.descriptor;
    if descriptor.digest != *root && content::info(client, &descriptor.digest).await?.is_some() {
        return Ok(Put::Present);
    }
    content::put(client, lease, descriptor, &document.bytes, labels.clone()).await
}

/// Makes sure of a document that was there: it still is, or is stored again, and its labels have all that is `expected`.
///
/// What is below the root is pinned as soon as its parent is there with all labels, and parents come first. So a
/// child that a mere look-up finds is pinned, and the number of synced writes does not grow with the image.
async fn secure(client: &Client, lease: &str, document: &Document, expected: Labels) -> Result<Put, EngineError> {
    let descriptor = &document.descriptor;
    let mut found = content::info(client, &descriptor.digest).await?;
    if found.is_none() {
        if content::put(client, lease, descriptor, &document.bytes, expected.clone()).await? == Put::Stored {
            return Ok(Put::Stored);
        }
        found = content::info(client, &descriptor.digest).await?;
    }
    let have = found.ok_or_else(|| EngineError::Missing { digests: vec![descriptor.digest.clone()] })?.labels;
    let lacking = labels::missing(&expected, &have);
    if !lacking.is_empty() {
        content::label(client, &descriptor.digest, lacking).await?;
    }
    Ok(Put::Present)
}
