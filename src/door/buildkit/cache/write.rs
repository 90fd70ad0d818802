//! `Content.Write` of a cache export: containerd's protocol, as far as a builder's exporter speaks it.
//!
//! The exporter writes each layer with the ref `layer-<digest>` and then the documents, whose refs are their bare digests
//! (BuildKit `cache/remotecache/export.go`, containerd `core/remotes/handlers.go`). Each message is responded to before the next
//! one comes (containerd `core/content/proxy/content_writer.go`).

use std::sync::Arc;

use bytes::BytesMut;
use containerd_client::services::v1::{WriteAction, WriteContentResponse};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::build::ShownExport;
use super::builder_export::Layer;
use super::content::{digest, failure};
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestWriter};
use crate::export_v1::proto::WriteContentRequest;
use crate::image::cache::MAX_CACHE_CONFIG;
use crate::image::{Descriptor, Digest};

pub(super) type Responses = ReceiverStream<Result<WriteContentResponse, Status>>;

/// Reads `messages` in a task, which ends with the builder's call.
pub(super) fn start(export: Arc<ShownExport>, messages: Streaming<WriteContentRequest>) -> Responses {
    // The next message comes only when this one has its response.
    let (responses, outgoing) = mpsc::channel(1);
    tokio::spawn(async move {
        let end = responses.clone();
        let served = tokio::select! {
            served = serve(&export, messages, &responses) => served,
            () = end.closed() => return,
        };
        if let Err(status) = served {
            // The builder may have gone.
            let _ = end.send(Err(status)).await;
        }
    });
    ReceiverStream::new(outgoing)
}

async fn serve(
    export: &Arc<ShownExport>,
    mut messages: Streaming<WriteContentRequest>,
    responses: &mpsc::Sender<Result<WriteContentResponse, Status>>,
) -> Result<(), Status> {
    let Some(first) = messages.message().await? else { return Ok(()) };
    let mut write = Write::open(export, &first).await?;
    let mut message = first;
    loop {
        let is_commit = message.action() == WriteAction::Commit;
        let response = write.respond(message).await?;
        if responses.send(Ok(response)).await.is_err() || is_commit {
            return Ok(());
        }
        match messages.next().await {
            Some(next) => message = next?,
            // What the engine has of a layer ends with the export.
            None => return Ok(()),
        }
    }
}

/// One blob on its way.
struct Write<'a> {
    export: &'a Arc<ShownExport>,
    blob: Descriptor,
    sink: Sink,
}

enum Sink {
    Engine(Box<dyn IngestWriter>),
    Document(BytesMut),
    Done,
}

impl<'a> Write<'a> {
    async fn open(export: &'a Arc<ShownExport>, first: &WriteContentRequest) -> Result<Self, Status> {
        let size = u64::try_from(first.total).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| Status::invalid_argument("the first message of a write has no total"))?;
        let blob = Descriptor::new("", digest(&first.expected)?, size);
        // Documents have their bare digest for a ref.
        let sink = if first.r#ref == first.expected {
            if size > MAX_CACHE_CONFIG {
                let message =
                    format!("the document {} has {size} bytes; at most {MAX_CACHE_CONFIG} are taken", blob.digest);
                return Err(Status::resource_exhausted(format!("linkspan: {message}")));
            }
            if export.export.has_document(&blob.digest).await.map_err(failure)? {
                export.show();
                return Err(exists(&blob.digest));
            }
            Sink::Document(BytesMut::new())
        } else {
            match export.export.layer(&blob).await.map_err(failure)? {
                Layer::Present => return Err(exists(&blob.digest)),
                Layer::Wanted(writer) => Sink::Engine(writer),
            }
        };
        Ok(Self { export, blob, sink })
    }

    async fn respond(&mut self, message: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let action = message.action();
        if action != WriteAction::Stat {
            self.take(&message).await?;
        }
        let mut response = WriteContentResponse {
            action: action.into(),
            offset: i64::try_from(self.offset()).unwrap_or(i64::MAX),
            total: i64::try_from(self.blob.size).unwrap_or(i64::MAX),
            ..WriteContentResponse::default()
        };
        if action == WriteAction::Commit {
            self.commit().await?;
            response.digest = self.blob.digest.to_string();
        }
        Ok(response)
    }

    fn offset(&self) -> u64 {
        match &self.sink {
            Sink::Engine(writer) => writer.offset(),
            Sink::Document(bytes) => bytes.len() as u64,
            Sink::Done => self.blob.size,
        }
    }

    async fn take(&mut self, message: &WriteContentRequest) -> Result<(), Status> {
        let (offset, data) = (self.offset(), message.data.clone());
        if message.offset > 0 && u64::try_from(message.offset) != Ok(offset) {
            return Err(Status::out_of_range(format!(
                "write @{} must occur at current offset {offset}",
                message.offset
            )));
        }
        let begin = u64::try_from(message.offset).unwrap_or(0);
        if begin.saturating_add(data.len() as u64) > self.blob.size {
            return Err(Status::out_of_range(format!(
                "{} has more than its {} bytes",
                self.blob.digest, self.blob.size
            )));
        }
        match &mut self.sink {
            Sink::Engine(writer) if !data.is_empty() => {
                // Whoever writes from the beginning does not want what is there.
                if message.offset == 0 && offset > 0 {
                    writer.restart().await.map_err(|error| failure(error.into()))?;
                }
                writer.write(data).await.map_err(|error| failure(error.into()))
            }
            Sink::Document(bytes) if !data.is_empty() => {
                bytes.truncate(usize::try_from(begin).unwrap_or(usize::MAX));
                bytes.extend_from_slice(&data);
                Ok(())
            }
            Sink::Engine(_) | Sink::Document(_) | Sink::Done => Ok(()),
        }
    }

    async fn commit(&mut self) -> Result<(), Status> {
        match std::mem::replace(&mut self.sink, Sink::Done) {
            Sink::Engine(writer) => {
                let expected = Expected { digest: Some(self.blob.digest.clone()), size: Some(self.blob.size) };
                match writer.commit(expected).await {
                    Ok(_) => self.export.export.stored(&self.blob),
                    Err(EngineError::Present { .. }) => {}
                    Err(error) => return Err(failure(error.into())),
                }
                Ok(())
            }
            Sink::Document(bytes) => {
                let bytes = bytes.freeze();
                // Small enough to be verified here.
                if bytes.len() as u64 != self.blob.size || !self.blob.digest.verify(&bytes) {
                    let message = format!("the document {} is not what its digest says", self.blob.digest);
                    return Err(Status::failed_precondition(format!("linkspan: {message}")));
                }
                self.export.export.document(&self.blob, bytes).await.map_err(failure)?;
                self.export.show();
                Ok(())
            }
            Sink::Done => Err(Status::failed_precondition("the write has been committed")),
        }
    }
}

fn exists(digest: &Digest) -> Status {
    Status::already_exists(format!("content {digest}: already exists"))
}
