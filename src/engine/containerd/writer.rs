//! Writing a blob: one stream per blob, messages sent without waiting for their answers.

use std::fmt;

use bytes::Bytes;
use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Streaming};

use super::client::{Client, SILENCE, UNARY};
use super::content;
use super::labels::Labels;
use crate::engine::{BlobWriter, EngineError};
use crate::image::Descriptor;

/// How many bytes go into a message. Larger ones gain nothing once they are pipelined.
const CHUNK: usize = 1 << 20;
/// How many messages wait to be sent. With the one that is being filled and the one that is being encoded, at most
/// 4 MiB of a blob are in memory.
const QUEUE: usize = 1;
/// How often to try again when the ref is still locked by a stream of ours that containerd has not seen end.
const LOCKED_TRIES: u32 = 8;

/// What opening a blob came to.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The store has the blob, and it is leased.
    Present,
    /// It must be written.
    Writer(Box<Writer>),
}

/// Opens `blob` for writing under `lease`. `labels` are what it gets when it is committed.
pub(crate) async fn begin(
    client: &Client,
    lease: &str,
    blob: &Descriptor,
    labels: Labels,
) -> Result<Begun, EngineError> {
    let mut tries = 0;
    loop {
        match open(client, lease, blob, labels.clone()).await {
            // A ref is locked in containerd's memory as long as its stream lives (`core/content` local `locks.go`).
            Err(EngineError::Rpc { code: Code::Unavailable, message, .. })
                if tries < LOCKED_TRIES && message.contains("locked") =>
            {
                tries += 1;
                sleep(std::time::Duration::from_millis(10 << tries)).await;
            }
            Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => {
                content::pin(client, lease, &blob.digest).await?;
                return Ok(Begun::Present);
            }
            outcome => return outcome,
        }
    }
}

async fn open(client: &Client, lease: &str, blob: &Descriptor, labels: Labels) -> Result<Begun, EngineError> {
    let total = content::size(blob)?;
    let name = content::reference(lease, &blob.digest);
    let first = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: name.clone(),
        total,
        expected: blob.digest.to_string(),
        ..WriteContentRequest::default()
    };
    let operation = format!("writing {}", blob.digest);
    let (messages, outgoing) = mpsc::channel(QUEUE);
    // There is room: nothing has been sent yet.
    let _ = messages.try_send(first);
    let mut stub = client.content();
    let call = async {
        let mut answers = stub.write(client.request(ReceiverStream::new(outgoing))).await?.into_inner();
        let answer = answers.message().await?;
        Ok(tonic::Response::new((answers, answer)))
    };
    let (answers, answer) = client.within(UNARY, operation.as_str(), call).await?;
    let Some(answer) = answer else {
        return Err(EngineError::Protocol { operation, reason: "the stream ended without an answer".to_owned() });
    };
    let (report, outcome) = oneshot::channel();
    let drain = drain(client.clone(), operation.clone(), answers, report);
    let mut writer = Writer {
        client: client.clone(),
        lease: lease.to_owned(),
        blob: blob.clone(),
        labels,
        operation,
        messages,
        buffer: Vec::new(),
        sent: 0,
        outcome,
        _drain: AbortOnDropHandle::new(tokio::spawn(drain)),
    };
    // Another namespace of this containerd holds the blob, and the sharing policy lets us have it: a COMMIT without
    // data registers it here (containerd `core/metadata/content.go`, `Writer`). An ingest of ours that was left half
    // done is not resumed, because containerd would hash it again inside a database transaction: the first write has
    // offset 0 and thereby truncates it.
    if total > 0 && answer.offset == total {
        writer.sent = blob.size;
        writer.finish().await?;
        return Ok(Begun::Present);
    }
    Ok(Begun::Writer(Box::new(writer)))
}

/// Reads the answers, for HTTP/2 flow control stops the stream otherwise, and reports how it ended.
async fn drain(
    client: Client,
    operation: String,
    mut answers: Streaming<WriteContentResponse>,
    report: oneshot::Sender<Result<WriteContentResponse, EngineError>>,
) {
    let outcome = loop {
        match timeout(SILENCE, answers.message()).await {
            Ok(Ok(Some(answer))) if answer.action == i32::from(WriteAction::Commit) => break Ok(answer),
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => {
                let reason = "the stream ended before the blob was committed".to_owned();
                break Err(EngineError::Protocol { operation, reason });
            }
            Ok(Err(status)) => break Err(client.failure(operation, status)),
            Err(_) => break Err(EngineError::Timeout { operation, after: SILENCE }),
        }
    };
    // Nobody listens when the writer was dropped.
    let _ = report.send(outcome);
}

/// A blob on its way into the store.
pub(crate) struct Writer {
    client: Client,
    lease: String,
    blob: Descriptor,
    labels: Labels,
    operation: String,
    messages: mpsc::Sender<WriteContentRequest>,
    /// What the next message will carry.
    buffer: Vec<u8>,
    /// Bytes handed to the stream so far.
    sent: u64,
    outcome: oneshot::Receiver<Result<WriteContentResponse, EngineError>>,
    _drain: AbortOnDropHandle<()>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("blob", &self.blob.digest).field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Writer {
    async fn push(&mut self, mut bytes: Bytes) -> Result<(), EngineError> {
        let room = self.blob.size - self.sent - self.buffer.len() as u64;
        if bytes.len() as u64 > room {
            let reason = format!("more than the expected {} bytes came", self.blob.size);
            return Err(EngineError::Corrupt { digest: self.blob.digest.clone(), reason });
        }
        // A chunk that makes a message of its own, as a builder sends them, goes as it came.
        if self.buffer.is_empty() && (CHUNK / 2..=2 * CHUNK).contains(&bytes.len()) {
            self.buffer = bytes.into();
            return self.flush().await;
        }
        while !bytes.is_empty() {
            if self.buffer.is_empty() {
                let left = usize::try_from(self.blob.size - self.sent).unwrap_or(CHUNK);
                self.buffer.reserve_exact(left.min(CHUNK));
            }
            let part = bytes.split_to(bytes.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(&part);
            if self.buffer.len() == CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), EngineError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.buffer);
        let length = data.len() as u64;
        // `expected` only goes with the first and the last message: with each it costs containerd a look-up.
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: self.offset()?,
            data,
            ..WriteContentRequest::default()
        };
        self.send(message).await?;
        self.sent += length;
        Ok(())
    }

    fn offset(&self) -> Result<i64, EngineError> {
        i64::try_from(self.sent).map_err(|_| EngineError::Corrupt {
            digest: self.blob.digest.clone(),
            reason: "its size is out of range".to_owned(),
        })
    }

    /// Queues a message; fails as soon as the store has refused anything sent so far.
    async fn send(&mut self, message: WriteContentRequest) -> Result<(), EngineError> {
        tokio::select! {
            biased;
            outcome = &mut self.outcome => Err(self.ended(outcome)),
            sent = self.messages.send(message) => match sent {
                Ok(()) => Ok(()),
                // The stream ended; why is about to be reported.
                Err(_) => {
                    let outcome = (&mut self.outcome).await;
                    Err(self.ended(outcome))
                }
            },
        }
    }

    /// Why the stream ended before it was told to.
    fn ended(
        &self,
        outcome: Result<Result<WriteContentResponse, EngineError>, oneshot::error::RecvError>,
    ) -> EngineError {
        match outcome {
            Ok(Err(error)) => content::refused(error, &self.blob.digest),
            Ok(Ok(_)) | Err(_) => EngineError::Protocol {
                operation: self.operation.clone(),
                reason: "the stream ended too early".to_owned(),
            },
        }
    }

    /// Commits what was sent and waits for the answer: only then is the blob in the store.
    async fn finish(mut self) -> Result<(), EngineError> {
        self.flush().await?;
        if self.sent != self.blob.size {
            let reason = format!("{} bytes came, expected {}", self.sent, self.blob.size);
            return Err(EngineError::Corrupt { digest: self.blob.digest.clone(), reason });
        }
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: content::size(&self.blob)?,
            expected: self.blob.digest.to_string(),
            offset: self.offset()?,
            labels: std::mem::take(&mut self.labels),
            ..WriteContentRequest::default()
        };
        self.send(message).await?;
        match (&mut self.outcome).await {
            Ok(Ok(answer)) => content::verify(&self.operation, &self.blob, answer.offset, &answer.digest),
            // Another client was faster. The bytes are the same; only our lease may not have them yet.
            Ok(Err(EngineError::Rpc { code: Code::AlreadyExists, .. })) => {
                content::pin(&self.client, &self.lease, &self.blob.digest).await
            }
            outcome => {
                let error = self.ended(outcome);
                if matches!(error, EngineError::Corrupt { .. }) {
                    // containerd keeps the bytes of a refused ingest.
                    let name = content::reference(&self.lease, &self.blob.digest);
                    if let Err(error) = content::abort(&self.client, &name).await {
                        tracing::debug!(%error, name, "a corrupt ingest stays until its lease goes");
                    }
                }
                Err(error)
            }
        }
    }
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.push(bytes))
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        Box::pin(self.finish())
    }
}
