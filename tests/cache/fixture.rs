//! Caches made by hand, stored through the library.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use linkspan::caches::{CacheRef, CacheSettings, Caches, Part};
use linkspan::engine::caches::{CacheDocument, CacheVersion};
use linkspan::engine::ingest::{Expected, OpenedIngest};
use linkspan::engine::select::{Selection, select};
use linkspan::engine::{Engine, EngineKind, Lease, Origin};
use linkspan::image::cache::CACHE_CONFIG;
use linkspan::image::{Descriptor, Digest};
use serde_json::json;

use crate::common::Stack;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A namespace of the stack's containerd.
pub(crate) async fn containerd(stack: &Stack, namespace: &str) -> Arc<dyn Engine> {
    let selection = Selection {
        kind: Some(EngineKind::Containerd),
        containerd_address: Some(stack.containerd_address().into()),
        namespace: Some(namespace.to_owned()),
        ..Selection::default()
    };
    select(&selection).await.unwrap().engine
}

pub(crate) async fn docker(stack: &Stack) -> Arc<dyn Engine> {
    let selection = Selection {
        kind: Some(EngineKind::Docker),
        docker_host: Some(stack.docker_host().parse().unwrap()),
        containerd_address: Some(stack.containerd_address().into()),
        ..Selection::default()
    };
    select(&selection).await.unwrap().engine
}

pub(crate) fn caches(engine: &dyn Engine) -> Arc<Caches> {
    Caches::new(engine, CacheSettings::default()).unwrap()
}

pub(crate) fn name(text: &str) -> CacheRef {
    text.parse().unwrap()
}

pub(crate) fn origin() -> Origin {
    Origin::internal("cache-test", "test", "by hand")
}

pub(crate) fn document(media_type: &str, bytes: Vec<u8>) -> CacheDocument {
    let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
    CacheDocument { descriptor, bytes: Bytes::from(bytes) }
}

/// The documents of a cache with these layers: config and root, which is of the type `form`.
pub(crate) fn documents(layers: &[&str], form: &str) -> (CacheDocument, CacheDocument) {
    let listed: Vec<_> =
        layers.iter().map(|text| json!({"blob": Digest::sha256(text.as_bytes()), "parent": -1})).collect();
    listing(layers, &json!({"layers": listed, "records": []}), form)
}

/// The same with this config.
pub(crate) fn listing(layers: &[&str], config: &serde_json::Value, form: &str) -> (CacheDocument, CacheDocument) {
    let layers: Vec<_> =
        layers.iter().map(|text| Descriptor::new(LAYER, Digest::sha256(text.as_bytes()), text.len() as u64)).collect();
    let config = document(CACHE_CONFIG, config.to_string().into_bytes());
    let root = if form == INDEX {
        let entries: Vec<_> = layers.iter().chain([&config.descriptor]).collect();
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    } else {
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor, "layers": layers})
    };
    (config, document(form, root.to_string().into_bytes()))
}

pub(crate) async fn write(lease: &dyn Lease, bytes: &[u8]) {
    let expected = Expected { digest: Some(Digest::sha256(bytes)), size: Some(bytes.len() as u64) };
    let reference = Digest::sha256(bytes).to_string();
    let OpenedIngest::Writer(mut writer) = lease.ingests().unwrap().open(&reference, &expected).await.unwrap() else {
        return;
    };
    // Another namespace may have it already: only its registration is missing then.
    let offset = usize::try_from(writer.offset()).unwrap();
    writer.write(Bytes::copy_from_slice(&bytes[offset..])).await.unwrap();
    writer.commit(expected).await.unwrap();
}

/// Stores a version and returns it with the digests of its blobs.
pub(crate) async fn store(
    caches: &Arc<Caches>,
    reference: &str,
    platform: &str,
    layers: &[&str],
    form: &str,
) -> (CacheVersion, Vec<String>) {
    let part = Part { platform: platform.to_owned(), ..Part::default() };
    let export = caches.begin(&name(reference), &part, "max", 1, &origin()).await.unwrap();
    for layer in layers {
        write(&*export.lease(), layer.as_bytes()).await;
    }
    let (config, root) = documents(layers, form);
    let layers = layers.iter().map(|layer| Digest::sha256(layer.as_bytes()));
    let digests = layers.chain([&config, &root].map(|document| document.descriptor.digest.clone()));
    let digests = digests.map(|digest| digest.to_string()).collect();
    (export.commit(config, root, HashSet::new()).await.unwrap(), digests)
}

/// Which of `digests` a namespace of containerd holds.
pub(crate) fn held(stack: &Stack, namespace: &str, digests: &[String]) -> Vec<bool> {
    let blobs: HashSet<_> = stack.blobs(namespace).into_iter().collect();
    digests.iter().map(|digest| blobs.contains(digest)).collect()
}
