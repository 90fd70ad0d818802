//! The archive on its way into dockerd: files go in one after the other, as they come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::Response;
use http_body::Frame;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::tar;

/// How long dockerd may take no bytes, or say nothing while it loads, before it counts as stuck. It says something for
/// each half megabyte that it unpacks into a classic store, and nothing while a graph driver without sharing copies a layer,
/// or while containerd unpacks.
pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// The content type of the request: authorization plugins are shown bodies of JSON only (moby `pkg/authorization`).
const TAR: &str = "application/x-tar";
/// How many pieces wait for the connection. The source's pieces are of 1 MiB.
const QUEUE: usize = 2;

/// A load under way.
#[derive(Debug)]
pub(crate) struct Upload {
    body: mpsc::Sender<Option<Bytes>>,
    /// Comes, or breaks, when dockerd begins its response.
    responding: oneshot::Receiver<()>,
    /// The result of dockerd. The task ends with the last of its clones, and the connection with the task.
    outcome: Shared<BoxFuture<'static, Result<Vec<String>, EngineError>>>,
}

impl Upload {
    /// Begins a load at `path`, which breaks off when `released`. `read` reads the whole response. Nothing is known of the
    /// success before [`finish`](Self::finish).
    pub(crate) fn start<F>(
        api: Arc<Api>,
        path: &'static str,
        released: CancellationToken,
        read: impl FnOnce(Arc<Api>, Response<Incoming>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Vec<String>, EngineError>> + Send + 'static,
    {
        let (body, parts) = mpsc::channel(QUEUE);
        let (began, responding) = oneshot::channel();
        let load = async move {
            let (response, _connection) = api.stream(path, TAR, Archive(parts)).await?;
            // There may be no receiver yet, or any more.
            let _ = began.send(());
            read(api.clone(), response).await
        };
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                outcome = load => outcome,
                () = released.cancelled() => Err(broken("the export was cancelled".to_owned())),
            }
        }));
        let outcome = async move { task.await.unwrap_or_else(|error| Err(broken(error.to_string()))) };
        Self { body, responding, outcome: outcome.boxed().shared() }
    }

    /// Sends the next bytes of the archive.
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), EngineError> {
        let early = |outcome| match outcome {
            Err(error) => Err(error),
            Ok(_) => Err(broken("it responded before the archive had ended".to_owned())),
        };
        tokio::select! {
            // First, because dockerd's reason is better than the broken connection that follows from it.
            biased;
            outcome = self.outcome.clone() => early(outcome),
            sent = timeout(LOAD_TIMEOUT, self.body.send(Some(bytes))) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => early(timeout(LOAD_TIMEOUT, self.outcome.clone()).await.unwrap_or_else(|_| Err(stuck()))),
                Err(_) => Err(stuck()),
            },
        }
    }

    /// Sends a whole file.
    pub(crate) async fn file(&self, name: &str, content: Bytes) -> Result<(), EngineError> {
        let size = content.len() as u64;
        self.send(tar::member(name, size)).await?;
        self.send(content).await?;
        self.pad(size).await
    }

    /// Fills the last block of a file of `size` bytes.
    pub(crate) async fn pad(&self, size: u64) -> Result<(), EngineError> {
        match tar::padding(size) {
            0 => Ok(()),
            zeros => self.send(Bytes::from_static(&tar::END).slice(..zeros)).await,
        }
    }

    /// Ends the archive and waits for dockerd's verdict: its words for people.
    pub(crate) async fn finish(self) -> Result<Vec<String>, EngineError> {
        let Self { body, responding, outcome } = self;
        let last = async {
            for part in [Some(Bytes::from_static(&tar::END)), None] {
                if body.send(part).await.is_err() {
                    // The load has ended, with its reason.
                    return;
                }
            }
            let _ = responding.await;
        };
        timeout(LOAD_TIMEOUT, last).await.map_err(|_| stuck())?;
        outcome.await
    }
}

/// That the load did not go as the protocol has it.
pub(crate) fn broken(reason: String) -> EngineError {
    EngineError::Protocol { operation: "loading the image into docker".to_owned(), reason }
}

fn stuck() -> EngineError {
    EngineError::Timeout { operation: "sending the image to docker".to_owned(), after: LOAD_TIMEOUT }
}

/// The body of the request. It ends at an explicit end; a sender that is dropped before breaks it off.
struct Archive(mpsc::Receiver<Option<Bytes>>);

impl http_body::Body for Archive {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match ready!(self.0.poll_recv(context)) {
            Some(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(None) => None,
            None => Some(Err(GivenUp)),
        })
    }
}

/// The export was cancelled.
#[derive(Debug, thiserror::Error)]
#[error("the export was cancelled")]
struct GivenUp;

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn an_archive_without_an_end_breaks_off() {
        let (sender, parts) = mpsc::channel(1);
        sender.send(Some(Bytes::from_static(b"x"))).await.unwrap();
        drop(sender);
        assert!(Archive(parts).collect().await.is_err());

        let (sender, parts) = mpsc::channel(2);
        sender.send(Some(Bytes::from_static(b"x"))).await.unwrap();
        sender.send(None).await.unwrap();
        assert_eq!(Archive(parts).collect().await.unwrap().to_bytes(), "x");
    }
}
