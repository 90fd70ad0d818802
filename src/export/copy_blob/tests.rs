use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;

use super::super::single_flight::SingleFlight;
use super::*;
use crate::engine::EngineError;
use crate::image::Digest;
use crate::source;

/// Hands out these chunks, whatever is requested.
#[derive(Debug)]
struct Chunks(Vec<&'static [u8]>);

/// What was written, and whether it was committed.
#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<(Vec<u8>, bool)>>, u64);

#[async_trait]
impl Source for Chunks {
    fn name(&self) -> &str {
        "chunks"
    }

    async fn open(&self, _: &Descriptor, offset: u64) -> Result<source::Chunks, SourceError> {
        let mut skip = offset as usize;
        let rest = |chunk: &&'static [u8]| {
            let from = skip.min(chunk.len());
            skip -= from;
            Ok(Bytes::from_static(&chunk[from..]))
        };
        let chunks: Vec<_> = self.0.iter().map(rest).collect();
        Ok(stream::iter(chunks).boxed())
    }
}

#[async_trait]
impl BlobWriter for Written {
    fn offset(&self) -> u64 {
        self.1
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        self.0.lock().unwrap().0.extend_from_slice(&bytes);
        Box::pin(async { Ok(()) })
    }

    async fn commit(self: Box<Self>) -> Result<(), EngineError> {
        self.0.lock().unwrap().1 = true;
        Ok(())
    }
}

/// Copies `chunks` as a blob of six bytes, of which the engine has `offset`. What was written, and whether it was
/// committed.
async fn copied(offset: u64, chunks: &[&'static [u8]]) -> (Result<(), ExportError>, Vec<u8>, bool) {
    let blob = Descriptor::new("", Digest::sha256(b"abcdef"), 6);
    let written = Written(Arc::default(), offset);
    let source = Chunks(chunks.to_vec());
    let flight = SingleFlight::default().acquire(&blob.digest).await;
    let result = copy_blob(&source, &blob, Box::new(written.clone()), None, &flight, &Events::none()).await;
    let (bytes, committed) = written.0.lock().unwrap().clone();
    (result, bytes, committed)
}

#[tokio::test]
async fn a_blob_of_another_length_is_not_committed() {
    for chunks in [&[b"abc" as &[u8]][..], &[b"abcdef", b"g"], &[]] {
        let (result, _, committed) = copied(0, chunks).await;
        assert!(matches!(result, Err(ExportError::Source(SourceError::Length { expected: 6, .. }))), "{chunks:?}");
        assert!(!committed, "{chunks:?}");
    }
}

#[tokio::test]
async fn what_the_engine_has_is_not_written_again() {
    for offset in 0..=6 {
        let (result, written, committed) = copied(offset, &[b"abc", b"", b"def"]).await;
        result.unwrap();
        assert!(committed);
        assert_eq!(written, b"abcdef"[offset as usize..], "{offset}");
    }
}
