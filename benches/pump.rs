//! The export core by itself: how fast blobs go from a source to an engine that both cost nothing.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up must fail loudly")]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use linkspan::engine::{
    BlobWriter, Engine, EngineError, EngineKind, Identity, ImageTransaction, Lease, Lifetime, Opened, Origin,
    PersistentLeases, Plan, Precondition, PreparedImage, Storage, StoredBlobs, TransactionOptions,
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

#[async_trait]
impl Source for Zeros {
    fn name(&self) -> &str {
        "zeros"
    }

    async fn open(&self, blob: &Descriptor, _: u64) -> Result<Chunks, SourceError> {
        let chunks = match self.documents.iter().find(|(descriptor, _)| descriptor.digest == blob.digest) {
            Some((_, bytes)) => vec![bytes.clone()],
            None => vec![Bytes::from_static(&[0; CHUNK]); (blob.size / CHUNK as u64) as usize],
        };
        Ok(stream::iter(chunks.into_iter().map(Ok)).boxed())
    }
}

#[async_trait]
impl Engine for Void {
    fn identity(&self) -> &Identity {
        &self.0
    }

    async fn already_complete(&self, _: &Descriptor, _: &[Reference]) -> Result<Option<usize>, EngineError> {
        Ok(None)
    }

    async fn lease(&self, _: &Origin, _: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        Ok(Arc::new(VoidLease))
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        Ok(0)
    }

    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        None
    }

    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }
}

#[async_trait]
impl Lease for VoidLease {
    fn engine(&self) -> &'static str {
        "void"
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        _: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        let plan = Plan { missing: graph.leaves().to_vec(), ..Plan::default() };
        Ok(Box::new(VoidTransaction(plan)))
    }

    async fn suspend(&self, _: &Digest) -> Result<(), EngineError> {
        self.release().await
    }

    async fn release(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[async_trait]
impl ImageTransaction for VoidTransaction {
    fn plan(&self) -> &Plan {
        &self.0
    }

    async fn writer(&self, _: &Descriptor) -> Result<Opened, EngineError> {
        Ok(Opened::Writer(Box::new(VoidWriter)))
    }

    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        Ok(self)
    }

    async fn cancel(&self) {}
}

#[async_trait]
impl PreparedImage for VoidTransaction {
    async fn commit(&self, _: &[Reference], _: &[Precondition]) -> Result<(), EngineError> {
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for VoidWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        std::hint::black_box(bytes);
        Box::pin(async { Ok(()) })
    }

    async fn commit(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
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
