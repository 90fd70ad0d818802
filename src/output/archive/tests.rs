use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::*;
use crate::image::{Algorithm, Limits, Walk};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Blobs in memory, handed out in chunks of 1000 bytes; with `broken`, that one ends early.
#[derive(Debug, Default)]
struct Memory {
    blobs: HashMap<Digest, Bytes>,
    broken: Option<Digest>,
}

#[async_trait]
impl Source for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let mut bytes = self.blobs[&blob.digest].slice(offset as usize..);
        if self.broken.as_ref() == Some(&blob.digest) {
            bytes.truncate(bytes.len() / 2);
        }
        let chunks: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Ok(stream::iter(chunks).boxed())
    }
}

impl Memory {
    fn keep(&mut self, algorithm: Algorithm, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = Digest::of(algorithm, &bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes.into());
        descriptor
    }

    fn image(&mut self, architecture: &str, layers: &[Value]) -> Value {
        let config = json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        let config_type = "application/vnd.oci.image.config.v1+json";
        let config = self.keep(Algorithm::Sha256, config_type, serde_json::to_vec(&config).unwrap());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.keep(Algorithm::Sha256, MANIFEST, serde_json::to_vec(&manifest).unwrap())
    }

    fn index(&mut self, entries: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.keep(Algorithm::Sha256, INDEX, serde_json::to_vec(&index).unwrap())
    }

    fn graph(&self, root: Value) -> Graph {
        let mut walk = Walk::new(serde_json::from_value(root).unwrap(), Limits::default()).unwrap();
        while let Some(pending) = walk.pending().first().map(|pending| pending.digest.clone()) {
            walk.supply(&pending, self.blobs[&pending].clone()).unwrap();
        }
        walk.finish().unwrap()
    }
}

/// An image with a layer that has a long name, one of several chunks, and one that comes twice.
fn sample() -> (Arc<Memory>, Graph) {
    let mut memory = Memory::default();
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let long = memory.keep(Algorithm::Sha512, layer, b"long name".to_vec());
    let large = memory.keep(Algorithm::Sha256, layer, vec![7; 10_240]);
    let root = memory.image("amd64", &[long.clone(), large, long]);
    let graph = memory.graph(root);
    (Arc::new(memory), graph)
}

fn names(names: &[&str]) -> Vec<Reference> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

async fn bytes(archive: &Arc<Archive>, source: Arc<Memory>, offset: u64) -> Vec<u8> {
    archive.clone().read(source, offset).try_collect::<Vec<_>>().await.unwrap().concat()
}

/// What the tar of this machine finds in `archive`.
fn untar(archive: &[u8], args: &[&str]) -> Vec<u8> {
    let mut tar = Command::new("tar").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, archive) = (tar.stdin.take().unwrap(), archive.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&archive));
    let output = tar.wait_with_output().unwrap();
    assert!(output.status.success());
    writer.join().unwrap().unwrap();
    output.stdout
}

fn document(archive: &[u8], name: &str) -> Value {
    serde_json::from_slice(&untar(archive, &["-xO", name])).unwrap()
}

#[tokio::test]
async fn every_blob_is_there_once_under_its_digest() {
    let (memory, graph) = sample();
    let archive = Arc::new(Archive::new(&graph, &names(&["demo"]), ArchiveFormat::Docker, &HashSet::new()).unwrap());
    let bytes = bytes(&archive, memory.clone(), 0).await;
    assert_eq!(bytes.len() as u64, archive.size());
    let listed = String::from_utf8(untar(&bytes, &["-t"])).unwrap();
    let listed: Vec<_> = listed.lines().collect();
    let blobs = graph.descriptors().map(|blob| blob_path(&blob.digest));
    let own = ["oci-layout", "index.json", "manifest.json", "blobs/", "blobs/sha256/", "blobs/sha512/"];
    let own = own.map(str::to_owned);
    assert_eq!(listed, own.into_iter().chain(blobs).collect::<Vec<_>>());
    for blob in graph.descriptors() {
        assert_eq!(untar(&bytes, &["-xO", &blob_path(&blob.digest)]), memory.blobs[&blob.digest]);
    }
    let item = &document(&bytes, "manifest.json")[0];
    assert_eq!(item["RepoTags"], json!(["demo:latest"]));
    assert_eq!(item["Layers"].as_array().unwrap().len(), 3);
    assert_eq!(item["Layers"][0], item["Layers"][2]);
}

#[tokio::test]
async fn reading_begins_anywhere_and_is_always_the_same() {
    let (memory, graph) = sample();
    let plan = || Arc::new(Archive::new(&graph, &names(&["demo"]), ArchiveFormat::Oci, &HashSet::new()).unwrap());
    let whole = bytes(&plan(), memory.clone(), 0).await;
    assert_eq!(whole.len() % tar::BLOCK, 0);
    for offset in (0..whole.len()).step_by(97).chain([whole.len() - 1, whole.len(), whole.len() + 1]) {
        let rest = bytes(&plan(), memory.clone(), offset as u64).await;
        assert_eq!(rest, whole.get(offset..).unwrap_or_default(), "{offset}");
    }
}

#[tokio::test]
async fn names_are_written_for_each_reader() {
    let (memory, graph) = sample();
    let pinned = format!("demo@{}", Digest::sha256(b""));
    let given = names(&["demo:one", "docker.io/localhost/x:1", &pinned]);
    let archive = Arc::new(Archive::new(&graph, &given, ArchiveFormat::Docker, &HashSet::new()).unwrap());
    let bytes = bytes(&archive, memory, 0).await;
    // `localhost/x` would be another image.
    let tags = json!(["demo:one", "docker.io/localhost/x:1"]);
    assert_eq!(document(&bytes, "manifest.json")[0]["RepoTags"], tags);
    let index = document(&bytes, "index.json");
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    for (entry, name) in entries.iter().zip(&given) {
        assert_eq!(entry["digest"], graph.root().digest.as_str());
        assert_eq!(entry["annotations"]["io.containerd.image.name"], name.to_string());
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"].as_str(), name.tag());
    }
}

#[tokio::test]
async fn nothing_follows_an_error() {
    let (memory, graph) = sample();
    let broken = graph.leaves()[0].digest.clone();
    let memory = Memory { blobs: memory.blobs.clone(), broken: Some(broken.clone()) };
    let archive = Arc::new(Archive::new(&graph, &[], ArchiveFormat::Oci, &HashSet::new()).unwrap());
    let chunks: Vec<_> = archive.read(Arc::new(memory), 0).collect().await;
    let (last, before) = chunks.split_last().unwrap();
    assert!(matches!(last, Err(SourceError::Length { digest, .. }) if *digest == broken), "{last:?}");
    assert!(before.iter().all(Result::is_ok));
}

#[test]
fn docker_takes_one_platform_and_all_of_it() {
    let mut memory = Memory::default();
    let layer = memory.keep(
        Algorithm::Sha256,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        b"elsewhere".to_vec(),
    );
    let one = memory.image("amd64", std::slice::from_ref(&layer));
    let other = memory.image("arm64", &[]);
    let mut attestation = memory.image("unknown", &[]);
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});

    let both = memory.index(&[one.clone(), other]);
    let graph = memory.graph(both);
    let error = Archive::new(&graph, &[], ArchiveFormat::Docker, &HashSet::new()).unwrap_err().to_string();
    assert!(error.contains("linux/amd64, linux/arm64"), "{error}");
    Archive::new(&graph, &[], ArchiveFormat::Oci, &HashSet::new()).unwrap();

    let attested = memory.index(&[one, attestation]);
    let graph = memory.graph(attested);
    let whole = Archive::new(&graph, &[], ArchiveFormat::Docker, &HashSet::new()).unwrap();
    let absent = HashSet::from([layer["digest"].as_str().unwrap().parse().unwrap()]);
    assert!(matches!(Archive::new(&graph, &[], ArchiveFormat::Docker, &absent), Err(ArchiveError::Absent { .. })));
    let without = Archive::new(&graph, &[], ArchiveFormat::Oci, &absent).unwrap();
    assert_eq!(without.blobs.len(), whole.blobs.len() - 1);
}

#[test]
fn no_archive_is_larger_than_its_header_can_state() {
    let mut memory = Memory::default();
    let layer = |content: &[u8]| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::sha256(content), "size": i64::MAX});
    let root = memory.image("amd64", &[layer(b"1"), layer(b"2")]);
    let graph = memory.graph(root);
    let error = Archive::new(&graph, &[], ArchiveFormat::Oci, &HashSet::new()).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge), "{error}");
}
