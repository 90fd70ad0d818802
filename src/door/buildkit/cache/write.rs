//! What a builder's exporter writes into a store of ours.
//!
//! It writes each layer with the ref `layer-<digest>` and then the documents, whose refs are their bare digests (BuildKit
//! `cache/remotecache/export.go`, containerd `core/remotes/handlers.go`). Each message is responded to before the next one comes
//! (containerd `core/content/proxy/content_writer.go`).

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::builder_export::Layer;
use super::error::failure;
use super::exports::ShownExport;
use crate::caches::CacheError;
use crate::content_server::{Ingester, Labels, Times, Writer, exists};
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestWriter};
use crate::image::cache::MAX_CACHE_CONFIG;
use crate::image::{Descriptor, Digest};

impl ShownExport {
    /// Does `work`, unless the build ends before it is done.
    async fn until_end<T>(&self, work: impl Future<Output = Result<T, CacheError>>) -> Result<T, Status> {
        let done = self.end().run_until_cancelled(work).await;
        Ok(done.ok_or_else(|| self.ended())?.map_err(failure)?)
    }
}

#[async_trait::async_trait]
impl Ingester for ShownExport {
    fn end(&self) -> &CancellationToken {
        self.export.end()
    }

    fn ended(&self) -> Status {
        Status::aborted("linkspan: the build has ended")
    }

    fn writers(&self) -> &TaskTracker {
        self.export.writers()
    }

    async fn writer<'a>(&'a self, name: &'a str, expected: &Expected) -> Result<Box<dyn Writer + 'a>, Status> {
        let Expected { digest: Some(digest), size: Some(size) } = expected else {
            return Err(Status::invalid_argument("the first message of a write has no digest or no total"));
        };
        let blob = Descriptor::new("", digest.clone(), *size);
        // Documents have their bare digest for a ref.
        let sink = if name == digest.as_str() {
            if *size > MAX_CACHE_CONFIG {
                let message = format!("the document {digest} has {size} bytes; at most {MAX_CACHE_CONFIG} are taken");
                return Err(Status::resource_exhausted(format!("linkspan: {message}")));
            }
            if self.until_end(self.export.has_document(digest)).await? {
                self.show();
                return Err(exists(digest));
            }
            Sink::Document(BytesMut::new())
        } else {
            match self.until_end(self.export.layer(&blob)).await? {
                Layer::Present => return Err(exists(digest)),
                Layer::Missing(writer) => Sink::Engine(writer),
            }
        };
        Ok(Box::new(BlobWriter { export: self, blob, sink, opened: SystemTime::now() }))
    }
}

/// One blob on its way.
struct BlobWriter<'a> {
    export: &'a ShownExport,
    blob: Descriptor,
    sink: Sink,
    opened: SystemTime,
}

enum Sink {
    Engine(Box<dyn IngestWriter>),
    /// Documents are collected, and verified here.
    Document(BytesMut),
    Done,
}

fn committed() -> Status {
    Status::failed_precondition("the write has been committed")
}

#[async_trait::async_trait]
impl Writer for BlobWriter<'_> {
    fn offset(&self) -> u64 {
        match &self.sink {
            Sink::Engine(writer) => writer.offset(),
            Sink::Document(bytes) => bytes.len() as u64,
            Sink::Done => self.blob.size,
        }
    }

    fn times(&self) -> Times {
        Times { started: self.opened, updated: self.opened }
    }

    async fn digest(&mut self) -> Result<Digest, Status> {
        match &mut self.sink {
            Sink::Engine(writer) => Ok(writer.digest().await.map_err(|error| failure(error.into()))?),
            Sink::Document(bytes) => Ok(Digest::sha256(bytes)),
            Sink::Done => Ok(self.blob.digest.clone()),
        }
    }

    async fn expect(&mut self, digest: &Digest) -> Result<(), Status> {
        if *digest == self.blob.digest {
            return Ok(());
        }
        Err(Status::invalid_argument(format!("{digest} in a write of {}", self.blob.digest)))
    }

    async fn restart(&mut self) -> Result<(), Status> {
        match &mut self.sink {
            Sink::Engine(writer) => Ok(writer.restart().await.map_err(|error| failure(error.into()))?),
            Sink::Document(bytes) => {
                bytes.clear();
                Ok(())
            }
            Sink::Done => Err(committed()),
        }
    }

    async fn write(&mut self, data: Bytes) -> Result<(), Status> {
        if self.offset().saturating_add(data.len() as u64) > self.blob.size {
            let Descriptor { digest, size, .. } = &self.blob;
            return Err(Status::out_of_range(format!("{digest} has more than its {size} bytes")));
        }
        match &mut self.sink {
            Sink::Engine(writer) => Ok(writer.write(data).await.map_err(|error| failure(error.into()))?),
            Sink::Document(bytes) => {
                bytes.extend_from_slice(&data);
                Ok(())
            }
            Sink::Done => Err(committed()),
        }
    }

    async fn commit(&mut self, _: Expected, _: Labels) -> Result<Digest, Status> {
        let (export, blob) = (self.export, &self.blob);
        match std::mem::replace(&mut self.sink, Sink::Done) {
            Sink::Engine(writer) => {
                let expected = Expected { digest: Some(blob.digest.clone()), size: Some(blob.size) };
                match writer.commit(expected).await {
                    Ok(_) => export.export.written(blob),
                    // Another client of the engine was quicker.
                    Err(EngineError::Present { .. }) => export.export.present(blob),
                    Err(error) => return Err(failure(error.into()).into()),
                }
            }
            Sink::Document(bytes) => {
                let bytes = bytes.freeze();
                if bytes.len() as u64 != blob.size || !blob.digest.verify(&bytes) {
                    let message = format!("the document {} is not what its digest says", blob.digest);
                    return Err(Status::failed_precondition(format!("linkspan: {message}")));
                }
                export.until_end(export.export.document(blob, bytes)).await?;
                export.show();
            }
            Sink::Done => return Err(committed()),
        }
        Ok(blob.digest.clone())
    }

    /// What the engine has of a layer ends with the export.
    async fn suspend(self: Box<Self>) {}
}
