//! What the buildkit door does to each build: the edit of its request.

use std::hint::black_box;

use bollard_buildkit_proto::moby::buildkit::v1::{Exporter, SolveRequest};
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use linkspan::door::buildkit::rewrite;
use prost::Message;

/// A request as buildx sends it, with a definition of `definition` bytes.
fn request(kind: &str, definition: usize) -> Bytes {
    let attrs = [("prefer-image-digest", "true"), ("name", "docker.io/library/demo:latest,docker.io/library/demo:1")];
    let attrs = attrs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let exporter = Exporter { r#type: kind.to_owned(), attrs: attrs.into() };
    SolveRequest {
        r#ref: "qm8h1q0v2jw5a2xqz8p7d3c4b".to_owned(),
        session: "x7r2k9w4e1t6y3u8i5o0p2a4s".to_owned(),
        exporters: vec![exporter],
        frontend_attrs: [("filler".to_owned(), "x".repeat(definition))].into(),
        ..SolveRequest::default()
    }
    .encode_to_vec()
    .into()
}

fn edits(criterion: &mut Criterion) {
    for (name, kind, definition) in
        [("a load", "oci", 0), ("a load with 1 MiB beside it", "oci", 1 << 20), ("not ours, 1 MiB", "local", 1 << 20)]
    {
        let message = request(kind, definition);
        criterion.bench_function(&format!("rewrite: {name}"), |bencher| {
            bencher.iter(|| rewrite(black_box(message.clone()), false));
        });
    }
}

criterion_group!(benches, edits);
criterion_main!(benches);
