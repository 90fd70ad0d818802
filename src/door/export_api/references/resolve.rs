//! Resolve: from a reference down to an index, a manifest or a config.

use super::{absent, find};
use crate::engine::images::Images;
use crate::export_v1::ApiError;
use crate::export_v1::convert::{descriptor_message, platform, platform_message};
use crate::export_v1::proto::{ResolveDepth, ResolveRequest, ResolveResponse, Resolved};
use crate::image::{Descriptor, Document, Kind, Limits, Platform};
use crate::source::tree::Tree;

/// The response to Resolve.
pub(super) async fn resolve(images: &dyn Images, request: &ResolveRequest) -> Result<ResolveResponse, ApiError> {
    let (name, root) = find(images, &request.reference).await?;
    let depth = request.depth();
    let is_root = matches!(depth, ResolveDepth::Unspecified | ResolveDepth::Root);
    if !matches!(root.kind(), Kind::Index | Kind::Manifest) {
        if !is_root {
            let what = format!("`{}` is a `{}`, which has no manifest below it", request.reference, root.media_type);
            return Err(ApiError::field("depth", what));
        }
        let chain = vec![Resolved { descriptor: Some(descriptor_message(&root)), ..Resolved::default() }];
        return Ok(ResolveResponse { name, chain, platforms: Vec::new() });
    }
    let tree = Tree::load(images, &root).await?;
    let found = tree.images();
    let platforms: Vec<_> = found.iter().filter_map(|image| image.platform()).collect();
    let chain = if is_root {
        tree.way(&root.digest)
    } else {
        let requested = request.platform.as_ref().map_or_else(Platform::host, platform);
        let Some(image) = tree.image_for(&requested) else {
            let there: Vec<_> = platforms.iter().map(ToString::to_string).collect();
            let hint = format!("it is there for {}", there.join(", "));
            return Err(absent(&format!("image `{}` for {requested}", request.reference), &hint));
        };
        let gone = |what: &str| absent(&format!("{what} of `{}` for {requested}", request.reference), "push it");
        let (_, manifest) = image.manifest.ok_or_else(|| gone("manifest"))?;
        let mut way = tree.way(&image.entry.digest);
        if depth == ResolveDepth::Config {
            way.push(tree.document(&manifest.config.digest).ok_or_else(|| gone("config"))?);
        }
        way
    };
    Ok(ResolveResponse {
        name,
        chain: chain.into_iter().map(|document| resolved(document, &root, request.inline)).collect(),
        platforms: platforms.into_iter().map(platform_message).collect(),
    })
}

/// A document of a chain, with the annotations of the descriptor that names it.
pub(super) fn resolved(document: &Document, root: &Descriptor, inline: bool) -> Resolved {
    let descriptor = if document.descriptor.digest == root.digest { root } else { &document.descriptor };
    let is_small = descriptor.size <= Limits::default().document_bytes;
    let document = if inline && is_small { document.bytes.to_vec() } else { Vec::new() };
    Resolved { descriptor: Some(descriptor_message(descriptor)), document }
}
