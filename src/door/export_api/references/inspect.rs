//! Inspect: what an image consists of, on every platform.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Code;

use super::find;
use super::resolve::resolved;
use crate::engine::images::Images;
use crate::engine::{EngineError, Lease, Lifetime, Origin, Pin};
use crate::export::{Exports, unique_id};
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor_message;
use crate::export_v1::proto::{Attestation, InspectResponse, Layer, PlatformImage, Reason};
use crate::image::{Descriptor, Document, Kind};
use crate::net::Principal;
use crate::source::tree::{self, Image, PREDICATE, Tree};

/// How many blobs are requested at once.
const PARALLEL: usize = 16;

/// The response to Inspect.
pub(super) async fn inspect(
    exports: &Exports,
    images: &dyn Images,
    client: &Principal,
    reference: &str,
) -> Result<InspectResponse, ApiError> {
    let (_, root) = find(images, reference).await?;
    if !matches!(root.kind(), Kind::Index | Kind::Manifest) {
        let what = format!("`{}` is neither an index nor a manifest", root.media_type);
        return Err(ApiError::field("reference", what));
    }
    let held = pin(exports, client, &root).await;
    let response = of(images, &root).await;
    if let Some(held) = held {
        exports.release(held);
    }
    response
}

/// Pins the image while it is read: a blob that is removed meanwhile would be reported as if it had never been there. An
/// image that cannot be pinned is read all the same.
async fn pin(exports: &Exports, client: &Principal, root: &Descriptor) -> Option<Arc<dyn Lease>> {
    let (export, builder) = (format!("inspect-{}", unique_id()), String::new());
    let origin = Origin { export, door: "export", builder, principal: client.clone() };
    let lease = exports.lease(&origin, Lifetime::Process).await;
    let lease = lease.inspect_err(|error| tracing::debug!(%error, "an image is read without being pinned")).ok()?;
    if let Err(error) = lease.pin(&[Pin::from(&root.digest)]).await {
        tracing::debug!(%error, "an image is read without being pinned");
    }
    Some(lease)
}

async fn of(images: &dyn Images, root: &Descriptor) -> Result<InspectResponse, ApiError> {
    let tree = Tree::load(images, root).await?;
    let mut found = Vec::new();
    for image in tree.images() {
        found.push(platform_image(images, &tree, image).await?);
    }
    let document = tree.document(&root.digest);
    Ok(InspectResponse {
        root: document.map(|document| resolved(document, root, true)),
        images: found,
        annotations: document.map(annotations).transpose()?.unwrap_or_default().into_iter().collect(),
    })
}

async fn platform_image(images: &dyn Images, tree: &Tree, image: Image<'_>) -> Result<PlatformImage, ApiError> {
    let mut entry = image.entry.clone();
    entry.platform = image.platform().cloned();
    let mut response = PlatformImage {
        manifest: Some(descriptor_message(&entry)),
        attestations: attestations(tree, image.entry),
        ..PlatformImage::default()
    };
    let Some((document, manifest)) = image.manifest else { return Ok(response) };
    response.config = Some(descriptor_message(&manifest.config));
    response.annotations = annotations(document)?.into_iter().collect();
    // A config that is absent, or that counts otherwise, leaves layers without a diff id.
    let pairs = image.config.and_then(|config| manifest.layers_with_diff_ids(config).ok());
    response.layers = manifest
        .layers
        .iter()
        .enumerate()
        .map(|(at, layer)| Layer {
            blob: Some(descriptor_message(layer)),
            diff_id: pairs.as_ref().map(|pairs| pairs[at].1.to_string()).unwrap_or_default(),
        })
        .collect();
    let lookups: Vec<_> = manifest.layers.iter().map(|layer| images.size(&layer.digest)).collect();
    let sizes: Result<Vec<_>, EngineError> = stream::iter(lookups).buffered(PARALLEL).try_collect().await;
    response.complete = image.config.is_some() && sizes?.iter().all(Option::is_some);
    Ok(response)
}

/// The attestations about the image `entry`: one for each statement of each manifest that is there.
fn attestations(tree: &Tree, entry: &Descriptor) -> Vec<Attestation> {
    let statements = tree
        .attestations(entry)
        .into_iter()
        .flat_map(|(other, manifest)| manifest.layers.iter().map(move |statement| (other, statement)));
    let attestation = |(other, statement): (&Descriptor, &Descriptor)| Attestation {
        manifest: Some(descriptor_message(other)),
        statement: Some(descriptor_message(statement)),
        predicate_type: statement.annotations.get(PREDICATE).cloned().unwrap_or_default(),
    };
    statements.map(attestation).collect()
}

/// The annotations that an index or a manifest gives itself.
fn annotations(document: &Document) -> Result<BTreeMap<String, String>, ApiError> {
    tree::annotations(document).map_err(|error| {
        let message = format!("the annotations of {}: {error}", document.descriptor.digest);
        ApiError::new(Code::InvalidArgument, Reason::DocumentInvalid, message)
    })
}
