//! The stream that a blob is written through: messages are sent without waiting for their responses.
//!
//! It speaks containerd's Content service, which two kinds of server offer: containerd, and a Linkspan daemon within an
//! export ([`Store`]).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::EngineError;

/// How long a call may take that does no bulk work.
pub(crate) const UNARY: Duration = Duration::from_secs(30);
/// How long a call that does bulk work may be silent. Long, because containerd says nothing while it syncs a large
/// blob to a slow disk or unpacks a large layer.
pub(crate) const SILENCE: Duration = Duration::from_secs(600);

/// How many bytes go into a message. Larger ones gain nothing once they are pipelined.
const CHUNK: usize = 1 << 20;
/// How many messages wait to be sent. With the one that is being filled and the one that is being encoded, at most
/// 4 MiB of a blob are in memory.
const QUEUE: usize = 1;
/// How often to try again when the ref is still locked by a stream of ours that containerd has not seen end.
const LOCKED_TRIES: u32 = 8;

/// A server of the Content service.
pub(crate) trait Store: Clone + Send + Sync + 'static {
    /// Its stub.
    fn content(&self) -> ContentClient<Channel>;

    /// `message` with the headers that say where its blob belongs.
    fn request<T>(&self, message: T) -> Request<T>;

    /// What a status of its means. A refusal that says no more than its code is an [`EngineError::Rpc`].
    fn failure(&self, operation: String, status: Status) -> EngineError;

    /// How long a call may take that does no bulk work.
    fn patience(&self) -> Duration {
        UNARY
    }

    /// There was no response to `operation` within `after`.
    fn late(&self, operation: String, after: Duration) -> EngineError {
        EngineError::Timeout { operation, after }
    }
}

/// How a stream ended.
#[derive(Debug)]
pub(crate) struct End {
    /// The digest of what the store had when it responded last, as it reported it.
    pub(crate) digest: String,
    /// The response to the commit; `None` if the stream was closed without one.
    pub(crate) outcome: Result<Option<WriteContentResponse>, EngineError>,
}

/// An open stream.
pub(crate) struct Stream {
    operation: String,
    messages: mpsc::Sender<WriteContentRequest>,
    /// What the next message will carry.
    buffer: Vec<u8>,
    /// Bytes handed to the stream so far, those of an earlier stream included.
    sent: u64,
    end: oneshot::Receiver<End>,
    /// Why it ended before it was told to: `end` says so only once.
    failure: Option<EngineError>,
    /// Responses about how far the store is.
    stats: mpsc::Receiver<WriteContentResponse>,
    _drain: AbortOnDropHandle<()>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("operation", &self.operation).field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Stream {
    /// Opens the ingest that `first` names, and gives the store's response. A ref is locked in containerd's memory as long
    /// as its stream lives (`core/content` local `locks.go`), so one that was just dropped may take a moment.
    pub(crate) async fn open(
        client: &impl Store,
        operation: &str,
        first: WriteContentRequest,
    ) -> Result<(Self, WriteContentResponse), EngineError> {
        let mut tries = 0;
        loop {
            match Self::open_once(client, operation, first.clone()).await {
                Err(error) if tries < LOCKED_TRIES && is_locked(&error) => {
                    tries += 1;
                    sleep(Duration::from_millis(10 << tries)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn open_once(
        client: &impl Store,
        operation: &str,
        first: WriteContentRequest,
    ) -> Result<(Self, WriteContentResponse), EngineError> {
        let (messages, outgoing) = mpsc::channel(QUEUE);
        // There is room: nothing has been sent yet.
        let _ = messages.try_send(first);
        let mut stub = client.content();
        let call = async {
            let mut responses = stub.write(client.request(ReceiverStream::new(outgoing))).await?.into_inner();
            let response = responses.message().await?;
            Ok::<_, Status>((responses, response))
        };
        let operation = operation.to_owned();
        let (responses, response) = match timeout(client.patience(), call).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return Err(client.failure(operation, status)),
            Err(_) => return Err(client.late(operation, client.patience())),
        };
        let Some(response) = response else {
            return Err(EngineError::Protocol { operation, reason: "the stream ended without a response".to_owned() });
        };
        let (report, end) = oneshot::channel();
        let (stat, stats) = mpsc::channel(1);
        let drain = drain(client.clone(), operation.clone(), responses, response.digest.clone(), (stat, report));
        let stream = Self {
            operation,
            messages,
            buffer: Vec::new(),
            sent: 0,
            end,
            failure: None,
            stats,
            _drain: AbortOnDropHandle::new(tokio::spawn(drain)),
        };
        Ok((stream, response))
    }

    /// Goes on at `offset`; what waits to be sent is forgotten. containerd goes on where its ingest ends, or, when told
    /// to write at 0, truncates it.
    pub(crate) fn seek(&mut self, offset: u64) {
        self.buffer.clear();
        self.sent = offset;
    }

    /// How many bytes were pushed, those of an earlier stream included.
    pub(crate) fn length(&self) -> u64 {
        self.sent + self.buffer.len() as u64
    }

    /// Sends `bytes`, or keeps them for the next message. `left` is how many more can come at most, as far as known.
    pub(crate) async fn push(&mut self, mut bytes: Bytes, left: Option<u64>) -> Result<(), EngineError> {
        // A chunk that makes a message of its own, as a builder sends them, goes as it came.
        if self.buffer.is_empty() && (CHUNK / 2..=2 * CHUNK).contains(&bytes.len()) {
            self.buffer = bytes.into();
            return self.flush().await;
        }
        let left = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(CHUNK);
        while !bytes.is_empty() {
            if self.buffer.is_empty() {
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

    /// Sends what waits to be sent.
    pub(crate) async fn flush(&mut self) -> Result<(), EngineError> {
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

    /// The digest of what the store has, once that is all that was pushed.
    pub(crate) async fn digest(&mut self) -> Result<String, EngineError> {
        self.flush().await?;
        self.send(WriteContentRequest { action: WriteAction::Stat.into(), ..WriteContentRequest::default() }).await?;
        let end = tokio::select! {
            biased;
            Some(response) = self.stats.recv() => return Ok(response.digest),
            end = &mut self.end => end,
        };
        Err(self.failed(end))
    }

    fn offset(&self) -> Result<i64, EngineError> {
        i64::try_from(self.sent).map_err(|_| EngineError::Protocol {
            operation: self.operation.clone(),
            reason: "more bytes came than containerd can count".to_owned(),
        })
    }

    /// Queues a message; fails as soon as the store has refused anything sent so far.
    async fn send(&mut self, message: WriteContentRequest) -> Result<(), EngineError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let end = tokio::select! {
            biased;
            end = &mut self.end => end,
            sent = self.messages.send(message) => match sent {
                Ok(()) => return Ok(()),
                // The stream ended; why is about to be reported.
                Err(_) => (&mut self.end).await,
            },
        };
        Err(self.failed(end))
    }

    /// Why the stream ended before it was told to.
    fn failed(&mut self, end: Result<End, oneshot::error::RecvError>) -> EngineError {
        let failure = too_early(&self.operation, end);
        self.failure = Some(failure.clone());
        failure
    }

    /// Commits what was sent, and waits for the response: only then is the blob in the store. `message` says what is
    /// expected.
    pub(crate) async fn commit(mut self, message: WriteContentRequest) -> Result<End, EngineError> {
        self.flush().await?;
        let message = WriteContentRequest { action: WriteAction::Commit.into(), offset: self.offset()?, ..message };
        self.send(message).await?;
        self.ended().await
    }

    /// Closes the stream without a commit; the store has kept what was sent when this returns.
    pub(crate) async fn close(mut self) -> Result<(), EngineError> {
        self.flush().await?;
        self.messages = mpsc::channel(1).0;
        self.ended().await?.outcome.map(|_| ())
    }

    async fn ended(self) -> Result<End, EngineError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let operation = self.operation;
        self.end.await.map_err(|_| EngineError::Protocol { operation, reason: "its reader broke off".to_owned() })
    }
}

/// Whether the ref is in use by another stream.
pub(crate) fn is_locked(error: &EngineError) -> bool {
    matches!(error, EngineError::Rpc { code: Code::Unavailable, message, .. } if message.contains("locked"))
}

/// Why the stream ended before it was told to.
fn too_early(operation: &str, end: Result<End, oneshot::error::RecvError>) -> EngineError {
    match end {
        Ok(End { outcome: Err(error), .. }) => error,
        Ok(_) | Err(_) => {
            EngineError::Protocol { operation: operation.to_owned(), reason: "the stream ended too early".to_owned() }
        }
    }
}

/// Reads the responses, for HTTP/2 flow control stops the stream otherwise, and reports how it ended.
async fn drain(
    client: impl Store,
    operation: String,
    mut responses: Streaming<WriteContentResponse>,
    mut digest: String,
    (stat, report): (mpsc::Sender<WriteContentResponse>, oneshot::Sender<End>),
) {
    let outcome = loop {
        match timeout(SILENCE, responses.message()).await {
            Ok(Ok(Some(response))) if response.action == i32::from(WriteAction::Commit) => break Ok(Some(response)),
            Ok(Ok(Some(response))) => {
                digest.clone_from(&response.digest);
                // One is asked for at a time, so there is room; after a stream was closed the last response comes twice.
                if response.action == i32::from(WriteAction::Stat) {
                    let _ = stat.try_send(response);
                }
            }
            Ok(Ok(None)) => break Ok(None),
            Ok(Err(status)) => break Err(client.failure(operation, status)),
            Err(_) => break Err(client.late(operation, SILENCE)),
        }
    };
    // The receiver is gone when the stream was dropped.
    let _ = report.send(End { digest, outcome });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream whose store has refused it.
    fn refused() -> Stream {
        let ((messages, _), (stat, stats), (report, end)) = (mpsc::channel(1), mpsc::channel(1), oneshot::channel());
        drop(stat);
        let full = EngineError::NoSpace { operation: "writing".to_owned(), message: "full".to_owned() };
        assert!(report.send(End { digest: String::new(), outcome: Err(full) }).is_ok());
        let _drain = AbortOnDropHandle::new(tokio::spawn(async {}));
        Stream {
            operation: "writing".to_owned(),
            messages,
            buffer: Vec::new(),
            sent: 0,
            end,
            failure: None,
            stats,
            _drain,
        }
    }

    #[tokio::test]
    async fn why_the_store_refused_is_returned_by_every_call() {
        let is_full = |error: EngineError| matches!(error, EngineError::NoSpace { .. });
        let bytes = || Bytes::from(vec![0; CHUNK]);
        let mut stream = refused();
        for _ in 0..2 {
            assert!(is_full(stream.push(bytes(), None).await.unwrap_err()));
            assert!(is_full(stream.digest().await.unwrap_err()));
        }
        assert!(is_full(stream.close().await.unwrap_err()));
        let mut stream = refused();
        assert!(is_full(stream.digest().await.unwrap_err()));
        assert!(is_full(stream.commit(WriteContentRequest::default()).await.err().unwrap()));
    }
}
