use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use super::*;
use crate::image::{Limits as GraphLimits, Walk};
use crate::output::header::header;
use crate::output::member::{Meta, Mtime};
use crate::source::SourceError;

/// Blobs in memory, and what is returned in their place from the second time on.
#[derive(Debug, Default)]
struct Memory {
    blobs: HashMap<Digest, Bytes>,
    later: HashMap<Digest, Bytes>,
    opened: AtomicUsize,
}

#[async_trait]
impl Source for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let later = self.later.get(&blob.digest).filter(|_| self.opened.fetch_add(1, Ordering::Relaxed) > 0);
        let bytes = later.unwrap_or(&self.blobs[&blob.digest]).slice(offset as usize..);
        let chunks: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Ok(stream::iter(chunks).boxed())
    }
}

fn file(path: &str, size: u64, xattrs: &[(&str, usize)]) -> Member {
    let xattrs = xattrs.iter().map(|(name, size)| ((*name).into(), vec![b'x'; *size].into())).collect();
    let meta = Meta { mode: 0o640, uid: 1, gid: 2, mtime: Mtime { seconds: 5, nanos: 250 }, xattrs: Some(xattrs) };
    Member { path: path.into(), body: Body::File { size }, meta }
}

/// A layer of members, each file full of its first letter.
fn layer(members: &[Member]) -> Bytes {
    let mut tar = Vec::new();
    for member in members {
        let size = if let Body::File { size } = member.body { size } else { 0 };
        tar.extend(header(member).unwrap());
        tar.extend(vec![member.path[0]; size as usize]);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend([0; 1024]);
    tar.into()
}

fn keep(memory: &mut Memory, media_type: &str, bytes: impl Into<Bytes>) -> serde_json::Value {
    let bytes = bytes.into();
    let digest = Digest::sha256(&bytes);
    let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
    memory.blobs.insert(digest, bytes);
    descriptor
}

fn manifest(memory: &mut Memory, architecture: &str, layers: &[Bytes]) -> serde_json::Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let config = json!({"architecture": architecture, "os": "linux", "rootfs": rootfs});
    let config = keep(memory, "application/vnd.oci.image.config.v1+json", config.to_string());
    let layers: Vec<_> =
        layers.iter().map(|layer| keep(memory, "application/vnd.oci.image.layer.v1.tar", layer.clone())).collect();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
    keep(memory, manifest_type, manifest.to_string())
}

fn graph(memory: &Memory, root: serde_json::Value) -> Graph {
    let mut walk = Walk::new(serde_json::from_value(root).unwrap(), GraphLimits::default()).unwrap();
    while let Some(pending) = walk.pending().first().map(|pending| pending.digest.clone()) {
        walk.supply(&pending, memory.blobs[&pending].clone()).unwrap();
    }
    walk.finish().unwrap()
}

fn image(layers: &[Bytes]) -> (Memory, Graph) {
    let mut memory = Memory::default();
    let root = manifest(&mut memory, "amd64", layers);
    let graph = graph(&memory, root);
    (memory, graph)
}

/// An image of one layer for each architecture.
fn index(layers: &[(&str, Bytes)]) -> (Memory, Graph) {
    let mut memory = Memory::default();
    let manifests: Vec<_> = layers
        .iter()
        .map(|(architecture, layer)| manifest(&mut memory, architecture, std::slice::from_ref(layer)))
        .collect();
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests});
    let root = keep(&mut memory, index_type, index.to_string());
    let graph = graph(&memory, root);
    (memory, graph)
}

async fn plan(memory: &Memory, graph: &Graph, limits: Limits) -> Result<Rootfs, RootfsError> {
    Rootfs::new(memory, graph, &HashSet::new(), Options::default(), limits).await
}

#[tokio::test]
async fn the_archive_has_the_size_that_was_announced_and_comes_from_anywhere() {
    // An extended header that is large enough to be passed on by itself, between pieces that are packed.
    let files = [
        file("a", 10, &[]),
        file("b", 40_000, &[("user.large", 50_000), ("user.small", 1)]),
        file("c", 513, &[]),
        file(&format!("d/{}", "n".repeat(200)), 0, &[]),
        file("e", 300_000, &[]),
    ];
    let upper = [file("c", 5, &[]), file("f", 600_000, &[])];
    let (memory, graph) = image(&[layer(&files), layer(&upper)]);
    let memory = Arc::new(memory);
    let rootfs = Arc::new(plan(&memory, &graph, Limits::default()).await.unwrap());
    let read = |offset| rootfs.clone().read(memory.clone(), offset).try_collect::<Vec<_>>();
    let whole = read(0).await.unwrap().concat();
    assert_eq!(whole.len() as u64, rootfs.size());
    for offset in (0..whole.len()).step_by(9_973) {
        assert!(read(offset as u64).await.unwrap().concat() == whole[offset..], "{offset}");
    }
    // Read back as a layer it is the same file system, and so the same archive but for the order of the layers.
    let (again, graph) = image(&[whole.into()]);
    let again = plan(&again, &graph, Limits::default()).await.unwrap();
    assert_eq!(again.size(), rootfs.size());
    let heads = |rootfs: &Rootfs| rootfs.images[0].head.clone();
    assert_eq!(heads(&again), heads(&rootfs));
    let mut members: Vec<_> =
        rootfs.images[0].layers.iter().flat_map(|layer| &layer.files).map(|file| file.member.clone()).collect();
    let same: Vec<_> = again.images[0].layers[0].files.iter().map(|file| file.member.clone()).collect();
    assert_eq!(same, members);
    members.sort_by(|one, other| one.path.cmp(&other.path));
    assert_eq!(members.iter().map(|member| &*member.path).collect::<Vec<_>>(), [b"a", b"b", b"c", b"e", b"f"]);
}

#[tokio::test]
async fn a_layer_that_changes_between_the_readings_is_no_success() {
    let good = layer(&[file("a", 10, &[]), file("b", 100_000, &[])]);
    for bad in [layer(&[file("a", 10, &[])]), layer(&[file("a", 11, &[])]), good.slice(..60_000), Bytes::new()] {
        let (mut memory, graph) = image(std::slice::from_ref(&good));
        memory.later.insert(Digest::sha256(&good), bad);
        let rootfs = Arc::new(plan(&memory, &graph, Limits::default()).await.unwrap());
        let error = rootfs.read(Arc::new(memory), 0).try_collect::<Vec<_>>().await.unwrap_err();
        assert!(matches!(error, SourceError::Read { .. }), "{error}");
    }
}

#[tokio::test]
async fn limits_are_those_of_the_whole_image() {
    let (memory, graph) = image(&[layer(&[file("a", 1, &[])]), layer(&[file("a", 2, &[]), file("b", 1, &[])])]);
    let limits = Limits { members: 3, names: 2, text_bytes: 2, bytes: 20 * 512, ..Limits::default() };
    let rootfs = plan(&memory, &graph, limits).await.unwrap();
    assert!(rootfs.memory() > 2);
    for (limits, what) in [
        (Limits { members: 2, ..limits }, "the members of all layers"),
        (Limits { names: 1, ..limits }, "the files"),
        (Limits { text_bytes: 1, ..limits }, "the names"),
        (Limits { bytes: 6 * 512, ..limits }, "the layers, decompressed"),
    ] {
        let error = plan(&memory, &graph, limits).await.unwrap_err();
        assert!(matches!(error, RootfsError::Limit { .. }) && error.to_string().contains(what), "{error}");
    }
}

fn link(path: &str, to: &Member) -> Member {
    Member { path: path.into(), body: Body::Link { target: to.path[..].into() }, meta: to.meta.clone() }
}

#[tokio::test]
async fn attributes_of_a_file_with_many_names_count_once_for_every_platform() {
    let first = |xattrs: &[(&str, usize)]| {
        let file = file("a", 1, xattrs);
        let links: Vec<_> = (0..100).map(|number| link(&format!("l{number}"), &file)).collect();
        layer(&[&[file], &links[..]].concat())
    };
    let limits = Limits { text_bytes: 6_000, ..Limits::default() };
    let large = [("user.x", 1_000)];
    let (memory, graph) = index(&[("amd64", first(&large)), ("arm64", first(&large))]);
    plan(&memory, &graph, limits).await.unwrap();
    // What the first one took is not there for the second.
    let (memory, graph) = index(&[("amd64", first(&large)), ("arm64", first(&[("user.x", 3_000)]))]);
    let error = plan(&memory, &graph, limits).await.unwrap_err();
    assert!(error.to_string().contains("the names"), "{error}");
}

#[tokio::test]
async fn what_is_kept_beside_the_tree_counts_too() {
    let empty = file(&"a".repeat(200), 0, &[]);
    let links: Vec<_> = (0..20).map(|number| link(&format!("l{number}"), &empty)).collect();
    let (memory, graph) = image(&[layer(&[&[empty], &links[..]].concat())]);
    let error = plan(&memory, &graph, Limits { text_bytes: 1_000, ..Limits::default() }).await.unwrap_err();
    assert!(error.to_string().contains("the names"), "{error}");
    plan(&memory, &graph, Limits { text_bytes: 5_000, ..Limits::default() }).await.unwrap();
}

/// A file of which only its size is there, in the form of `pax` 0.1.
fn hole(size: u64) -> Bytes {
    let mut tar = Vec::new();
    let mut builder = tar_core::EntryBuilder::new_ustar();
    builder.path(b"hole").entry_type(tar_core::EntryType::Regular).mode(0o644).unwrap().size(0).unwrap();
    builder.add_pax("GNU.sparse.size", size.to_string());
    builder.add_pax("GNU.sparse.map", format!("{size},0"));
    tar.extend(builder.finish_bytes());
    tar.extend([0; 1024]);
    tar.into()
}

#[tokio::test]
async fn holes_count_as_what_they_become() {
    let (memory, graph) = image(&[hole(1 << 20)]);
    assert!(plan(&memory, &graph, Limits::default()).await.unwrap().size() > 1 << 20);
    for size in [1 << 20, 1 << 62] {
        let (memory, graph) = image(&[hole(size)]);
        let error = plan(&memory, &graph, Limits { bytes: 1 << 20, ..Limits::default() }).await.unwrap_err();
        assert!(error.to_string().contains("the files including holes"), "{error}");
    }
}

#[test]
fn folders_are_called_as_buildkit_calls_them() {
    for (platform, expected) in
        [("linux/amd64", "linux_amd64"), ("linux/arm/v7", "linux_arm_v7"), ("linux/arm64/v8", "linux_arm64")]
    {
        let named = named(&platform.parse().unwrap());
        assert_eq!(folder(&named).unwrap(), expected.as_bytes());
    }
    let windows = Platform { os_version: Some("10.0.17763".to_owned()), ..platform("windows", "amd64") };
    assert_eq!(folder(&named(&windows)).unwrap(), b"windows(10.0.17763)_amd64");
    for (os, architecture) in [("a\0", "b"), ("linux", &"x".repeat(300))] {
        assert!(folder(&named(&platform(os, architecture))).is_err());
    }
    // What documents say may be anything, but is one name.
    assert_eq!(folder(&named(&platform("..", "../x"))).unwrap(), b".._.._x");
}

fn platform(os: &str, architecture: &str) -> Platform {
    Platform { os: os.to_owned(), architecture: architecture.to_owned(), ..Platform::default() }
}
