//! Reading manifests and indexes, by tag or digest.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{Method, Response};

use super::Door;
use super::blobs::digest_of;
use super::graph::is_usable;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::response::{empty, is_known_to_client, name_content, not_modified, put};
use crate::http2::{Body, full};
use crate::image::{Descriptor, Kind, Limits, Platform};
use crate::net::Principal;
use crate::source::{OnMissing, SourceError, read_document, read_graph};

impl Door {
    /// The response to a GET or a HEAD of a manifest. What the client accepts is not asked: a manifest has one form.
    pub(super) async fn manifest(
        &self,
        method: &Method,
        headers: &HeaderMap,
        repository: &Repository,
        reference: &str,
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        let unknown = || {
            let message = format!("the engine holds no such image of {}", repository.full);
            Refusal::absent(Code::ManifestUnknown, message).about("reference", reference)
        };
        if !self.may_find(repository, reference, client).await? {
            return Err(unknown());
        }
        let manifest = self.find(repository, reference).await?.filter(is_manifest).ok_or_else(unknown)?;
        if method == Method::HEAD && self.is_to_be_repaired(repository, reference, &manifest, client).await? {
            return Err(unknown());
        }
        let digest = &manifest.digest;
        // What a GET gets is verified.
        if method == Method::HEAD && self.images.intact(digest).await? != Some(manifest.size) {
            return Err(unknown());
        }
        if is_known_to_client(headers, digest) {
            return Ok(not_modified(digest));
        }
        let mut response = if method == Method::HEAD {
            empty(http::StatusCode::OK)
        } else {
            // First the lease: the client reads the blobs next.
            let reading = self.readers.image(client, &self.images, &manifest).await;
            let bytes = match read_document(&self.images, &manifest).await {
                Err(SourceError::NotFound { .. }) => return Err(unknown()),
                read => read?,
            };
            drop(reading);
            if !digest.verify(&bytes) {
                tracing::warn!(%digest, "a manifest of the engine is damaged, and is not given to clients");
                return Err(unknown());
            }
            Response::new(full(bytes))
        };
        let headers = response.headers_mut();
        put(headers, CONTENT_TYPE, &manifest.media_type);
        headers.insert(CONTENT_LENGTH, manifest.size.into());
        name_content(headers, digest);
        Ok(response)
    }

    /// Whether a client that is pushing a tag's image must send the manifest once more: blobs are missing, or an image of this
    /// machine's platform is not unpacked. One that finds its manifest sends nothing, and nothing would be repaired.
    async fn is_to_be_repaired(
        &self,
        repository: &Repository,
        reference: &str,
        manifest: &Descriptor,
        client: &Principal,
    ) -> Result<bool, Refusal> {
        let push = self.pushes.as_ref().and_then(|pushes| pushes.find(repository, client));
        if push.is_none() || reference.contains(':') {
            return Ok(false);
        }
        if !is_usable(&self.images, manifest).await {
            return Ok(true);
        }
        if self.packed.contains(&manifest.digest) {
            return Ok(false);
        }
        // An image of which only a part was pushed is as complete as it was.
        let graph = read_graph(&self.images, manifest.clone(), Limits::default(), OnMissing::Stop).await;
        let is_unpacked_here = graph.is_ok_and(|graph| {
            let image = graph.image_for(&Platform::host());
            image.is_some_and(|(_, image, _, config)| {
                let is_described = image.layers_with_diff_ids(config).is_ok();
                let are_layers = || image.layers.iter().all(|layer| layer.kind() == Kind::Layer);
                is_described && !image.layers.is_empty() && are_layers()
            })
        });
        let names = [repository.tagged(reference)?];
        Ok(is_unpacked_here && self.exports.already_complete(manifest, &names).await?.is_none())
    }

    /// Whether `client` may read what a tag or a digest names.
    async fn may_find(&self, repository: &Repository, reference: &str, client: &Principal) -> Result<bool, Refusal> {
        if reference.contains(':') {
            return self.may_read(repository, &digest_of(reference)?, client).await;
        }
        Ok(self.exports.policy(client).may_pull(&repository.tagged(reference)?.to_string()))
    }

    /// The manifest that a tag or a digest names. A name may stand for an image of which the engine has lost the manifest.
    async fn find(&self, repository: &Repository, reference: &str) -> Result<Option<Descriptor>, Refusal> {
        if reference.contains(':') {
            return Ok(self.images.identify(&digest_of(reference)?).await?);
        }
        let name = repository.tagged(reference)?;
        let is_mirror = repository.mirrored.is_some();
        if is_mirror && !self.mirror_tags {
            return Ok(None);
        }
        let Some(root) = self.images.resolve(&name).await? else { return Ok(None) };
        let is_there = match is_mirror {
            // The client has another registry to ask.
            true => is_usable(&self.images, &root).await,
            false => self.images.size(&root.digest).await? == Some(root.size),
        };
        Ok(is_there.then_some(root))
    }
}

/// Whether a blob is a manifest or an index of a size that clients read.
fn is_manifest(blob: &Descriptor) -> bool {
    matches!(blob.kind(), Kind::Index | Kind::Manifest) && blob.size <= Limits::default().document_bytes
}
