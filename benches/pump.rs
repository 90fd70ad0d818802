//! The export core by itself: how fast blobs go from a source to an engine that both cost nothing.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up must fail loudly")]

use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use linkspan::engine::ingest::IngestManager;
use linkspan::engine::{
    BlobWriter, Engine, EngineError, EngineKind, Identity, ImageTransaction, Lease, Lifetime, Opened, Origin, Pin,
    Plan, Precondition, PreparedImage, Storage, TransactionOptions,
};
use linkspan::export::{Exports, Request};
use linkspan::image::{Descriptor, Digest, Graph, Reference};
use linkspan::progress::Events;
use linkspan::source::{Chunks, Source, SourceError};

const LAYERS: usize = 8;
const LAYER_BYTES: u64 = 64 << 20;
/// What a builder sends at once.
const CHUNK: usize = 1 << 20;

/// Layers of zeros, and the manifest that lists them.
#[derive(Debug)]
struct Zeros {
    documents: Vec<(Descriptor, Bytes)>,
}

/// Takes everything and keeps nothing.
#[derive(Debug)]
struct Void(Identity);

#[derive(Debug)]
struct VoidLease;

#[derive(Debug)]
struct VoidTransaction(Plan);

#[derive(Debug)]
struct VoidWriter;

impl Zeros {
    fn new() -> Self {
        let document = |media_type: &str, json: String| {
            let bytes = Bytes::from(json);
            let descriptor = serde_json::json!({
                "mediaType": media_type, "digest": Digest::sha256(&bytes), "size": bytes.len(),
            });
            (serde_json::from_value::<Descriptor>(descriptor).expect("a descriptor"), bytes)
        };
        let ids: Vec<_> = (0..LAYERS).map(|index| Digest::sha256(&[index as u8])).collect();
        let rootfs = serde_json::json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids } });
        let config = document("application/vnd.oci.image.config.v1+json", rootfs.to_string());
        let layers: Vec<_> = ids
            .iter()
            .map(|id| serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": id, "size": LAYER_BYTES }))
            .collect();
        let manifest = serde_json::json!({ "schemaVersion": 2, "config": config.0, "layers": layers });
        let manifest = document("application/vnd.oci.image.manifest.v1+json", manifest.to_string());
        Self { documents: vec![manifest, config] }
    }

    fn root(&self) -> Descriptor {
        self.documents[0].0.clone()
    }
}

impl Source for Zeros {
    fn name(&self) -> &str {
        "zeros"
    }

    fn open<'a>(&'a self, blob: &'a Descriptor, _: u64) -> BoxFuture<'a, Result<Chunks, SourceError>> {
        let chunks = match self.documents.iter().find(|(descriptor, _)| descriptor.digest == blob.digest) {
            Some((_, bytes)) => vec![bytes.clone()],
            None => vec![Bytes::from_static(&[0; CHUNK]); (blob.size / CHUNK as u64) as usize],
        };
        Box::pin(async move { Ok(stream::iter(chunks.into_iter().map(Ok)).boxed()) })
    }
}

impl Engine for Void {
    fn identity(&self) -> &Identity {
        &self.0
    }

    fn already_complete<'a>(
        &'a self,
        _: &'a Descriptor,
        _: &'a [Reference],
    ) -> BoxFuture<'a, Result<Option<usize>, EngineError>> {
        Box::pin(async { Ok(None) })
    }

    fn lease<'a>(&'a self, _: &'a Origin, _: Lifetime<'a>) -> BoxFuture<'a, Result<Arc<dyn Lease>, EngineError>> {
        Box::pin(async { Ok(Arc::new(VoidLease) as Arc<dyn Lease>) })
    }

    fn recover(&self) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(async { Ok(0) })
    }
}

impl Lease for VoidLease {
    fn pin<'a>(&'a self, _: &'a [Pin]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        unreachable!("an export pins its graph")
    }

    fn pin_graph<'a>(&'a self, _: &'a Arc<Graph>) -> BoxFuture<'a, Result<Vec<Descriptor>, EngineError>> {
        unreachable!("nothing is read")
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        unreachable!("nothing is resumed")
    }

    fn unpin<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        unreachable!("nothing is pinned")
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        unreachable!("blobs are written by the transaction")
    }

    fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        _: TransactionOptions,
    ) -> BoxFuture<'static, Result<Box<dyn ImageTransaction>, EngineError>> {
        let plan = Plan { missing: graph.leaves().to_vec(), ..Plan::default() };
        Box::pin(async { Ok(Box::new(VoidTransaction(plan)) as Box<dyn ImageTransaction>) })
    }

    fn suspend<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        self.release()
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}

impl ImageTransaction for VoidTransaction {
    fn plan(&self) -> &Plan {
        &self.0
    }

    fn writer<'a>(&'a self, _: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>> {
        Box::pin(async { Ok(Opened::Writer(Box::new(VoidWriter))) })
    }

    fn prepare(&self) -> BoxFuture<'_, Result<&dyn PreparedImage, EngineError>> {
        Box::pin(async move { Ok(self as &dyn PreparedImage) })
    }

    fn cancel(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl PreparedImage for VoidTransaction {
    fn commit<'a>(&'a self, _: &'a [Reference], _: &'a [Precondition]) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}

impl BlobWriter for VoidWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        std::hint::black_box(bytes);
        Box::pin(async { Ok(()) })
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}

fn pump(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let exports = Exports::new(Arc::new(Void(Identity {
        kind: EngineKind::Other,
        version: String::new(),
        address: String::new(),
        storage: Storage::Classic { storage_driver: String::new() },
    })));
    let source = Arc::new(Zeros::new());
    let mut group = criterion.benchmark_group("export");
    group.throughput(Throughput::Bytes(LAYERS as u64 * LAYER_BYTES));
    group.bench_function("8 layers of 64 MiB", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let origin = Origin::internal("bench", "bench", "zeros");
            let request = Request::new(source.root(), Vec::new(), origin);
            exports.run(request, source.clone(), Events::none()).await.expect("an export")
        });
    });
    group.finish();
}

criterion_group!(benches, pump);
criterion_main!(benches);
