//! The model on what a build exports: how much of a warm export it may take.

#![allow(clippy::expect_used, reason = "a benchmark of what fails measures nothing")]

use std::collections::HashMap;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use linkspan::image::{Descriptor, Digest, Document, Limits, Platform, Reference, Walk};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Documents by digest, as a builder's store holds them.
#[derive(Default)]
struct Store(HashMap<Digest, Bytes>);

impl Store {
    fn put(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = Bytes::from(document.to_string());
        let digest = Digest::sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.0.insert(digest, bytes);
        descriptor
    }

    fn image(&mut self, architecture: &str, layers: usize) -> Value {
        let digest = |what: &str, n: usize| Digest::sha256(format!("{architecture} {what} {n}").as_bytes());
        let diff_ids: Vec<_> = (0..layers).map(|n| digest("diff", n)).collect();
        let history: Vec<_> = (0..layers).map(|n| json!({"created_by": format!("RUN step {n} # buildkit")})).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "history": history,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.put(CONFIG, &config);
        let layers: Vec<_> =
            (0..layers).map(|n| json!({"mediaType": LAYER, "digest": digest("layer", n), "size": 1000 + n})).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut descriptor = self.put(MANIFEST, &manifest);
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        descriptor
    }
}

fn descriptor(value: Value) -> Descriptor {
    serde_json::from_value(value).expect("a descriptor")
}

fn documents(criterion: &mut Criterion) {
    let mut store = Store::default();
    let manifest = descriptor(store.image("amd64", 100));
    let bytes = store.0[&manifest.digest].clone();
    let mut group = criterion.benchmark_group("document");
    group.throughput(Throughput::Bytes(manifest.size));
    group.bench_function("manifest of 100 layers", |bencher| {
        bencher.iter(|| Document::parse(black_box(manifest.clone()), bytes.clone()).expect("a manifest"));
    });
    group.finish();
}

fn graphs(criterion: &mut Criterion) {
    let mut store = Store::default();
    let manifests: Vec<_> = ["amd64", "arm64", "s390x"].map(|architecture| store.image(architecture, 20)).into();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let root = descriptor(store.put(INDEX, &index));
    let host = Platform::host();
    criterion.bench_function("graph/index of 3 platforms", |bencher| {
        bencher.iter(|| {
            let mut walk = Walk::new(black_box(root.clone()), Limits::default()).expect("an index");
            while let Some(pending) = walk.pending().first() {
                let digest = pending.digest.clone();
                walk.supply(&digest, store.0[&digest].clone()).expect("a document");
            }
            let graph = walk.finish().expect("a graph");
            black_box(graph.image_for(&host).is_some())
        });
    });
}

fn references(criterion: &mut Criterion) {
    let name = format!("registry.example.com:5000/team/app:1.2.3@{}", Digest::sha256(b""));
    for (case, name) in [("short", "alpine"), ("full", name.as_str())] {
        criterion.bench_function(&format!("reference/{case}"), |bencher| {
            bencher.iter(|| black_box(name).parse::<Reference>().expect("a name"));
        });
    }
}

fn digests(criterion: &mut Criterion) {
    let bytes = vec![0x5a; 16 << 20];
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(10);
    group.bench_function("sha256 of 16 MiB", |bencher| bencher.iter(|| Digest::sha256(black_box(&bytes))));
    group.finish();
}

criterion_group!(benches, documents, graphs, references, digests);
criterion_main!(benches);
