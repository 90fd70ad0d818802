//! The upload of an archive from the client to dockerd.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::BodyDataStream;
use hyper::body::{Frame, Incoming};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, debug};

use super::blobs::EngineBlobs;
use super::encoding::{self, Encoding, Raw};
use super::error::FilterError;
use super::filter;
use super::guard::{Denied, Guard, Watch};
use super::half_close::UploadEnd;
use super::omitted::Savings;
use super::pipe::{Output, Piece};

/// How many pieces may be in flight. The largest is one read of a connection, less than half a megabyte.
const PIECES: usize = 4;

/// Facts about an archive, which are set before dockerd can have responded.
#[derive(Debug, Default)]
pub(super) struct ArchiveFacts {
    /// The savings, once they are certain.
    pub(super) savings: OnceLock<Savings>,
    /// Why dockerd did not get all of it, unless the client disconnected.
    pub(super) trouble: OnceLock<String>,
    /// The kind of that reason, if it is not dockerd's.
    pub(super) kind: OnceLock<&'static str>,
    /// The name that the reason is about, in full.
    pub(super) denied: OnceLock<String>,
    /// Whether the client left before it had sent all of it.
    pub(super) is_left: AtomicBool,
}

/// An upload that runs until this is dropped.
#[derive(Debug)]
pub(super) struct Upload(#[expect(dead_code, reason = "held for what its end does")] AbortOnDropHandle<()>);

impl Upload {
    /// Starts to filter `body`, after `continued` if the client waits for a `100 Continue`. `end` closes the connection's
    /// write side if the archive is truncated and there is no other way to tell dockerd.
    pub(super) fn start(
        blobs: Arc<dyn EngineBlobs>,
        watch: Watch,
        body: Incoming,
        continued: Option<Arc<Notify>>,
        known: Arc<ArchiveFacts>,
        end: UploadEnd,
    ) -> (Self, Archive) {
        let (sender, pieces) = mpsc::channel(PIECES);
        // A separate task: reading, comparing and decompressing run concurrently with the two connections.
        let running = async move {
            if let Some(continued) = continued {
                continued.notified().await;
            }
            run(blobs, watch, body, &known, Output::new(sender)).await;
        };
        // Lines and spans of what it begins, such as unpacking, are those of the load.
        let running = tokio::spawn(running.in_current_span());
        (Self(AbortOnDropHandle::new(running)), Archive { pieces, end, is_complete: false })
    }
}

async fn run(blobs: Arc<dyn EngineBlobs>, watch: Watch, body: Incoming, known: &ArchiveFacts, mut output: Output) {
    let mut raw = Raw::new(BodyDataStream::new(body).map_err(io::Error::other));
    let (compression, outcome) = match encoding::open(raw.clone()).await {
        Ok((Encoding::PassThrough, _)) if watch.guard.as_ref().is_some_and(Guard::is_restrictive) => {
            let denied = Denied::Unreadable("it is compressed in a way that takes much memory to read");
            (None, Err(denied.into()))
        }
        Ok((Encoding::PassThrough, chunks)) => (None, filter::pass(chunks, &mut output).await),
        Ok((encoding, chunks)) => {
            (encoding.compression(), filter::run(blobs, watch, chunks, &mut output, &known.savings).await)
        }
        Err(error) => (None, Err(FilterError::Input(error))),
    };
    let Err(error) = outcome else { return raw.drain().await };
    debug!(%error, "an archive was not sent to its end");
    let trouble = match error {
        // dockerd needs no more bytes, and sends its response.
        FilterError::Output => return,
        FilterError::Input(error) if is_clients(&error) => {
            known.is_left.store(true, Ordering::Relaxed);
            None
        }
        FilterError::Input(error) => Some(match compression {
            Some(compression) => format!("the archive cannot be decompressed ({}): {error}", compression.name()),
            None => format!("{error}; load the archive again"),
        }),
        FilterError::Left => {
            known.is_left.store(true, Ordering::Relaxed);
            None
        }
        FilterError::Denied(denied) => {
            // Set only here.
            let _ = known.kind.set(denied.kind());
            if let Some(name) = denied.name() {
                let _ = known.denied.set(name.to_owned());
            }
            Some(denied.to_string())
        }
        error @ FilterError::Store(_) => Some(error.to_string()),
        error @ FilterError::Lost(_) => Some(format!("{error}; load the archive again")),
    };
    // Set before dockerd's response.
    if let Some(trouble) = trouble {
        // Set only here.
        let _ = known.trouble.set(trouble);
    }
    if let Err(error) = output.truncate().await {
        debug!(%error, "dockerd did not wait for the end of an archive");
    }
    // Drops the sender: an archive that has not ended by now is truncated.
    drop(output);
    raw.drain().await;
}

/// Whether an archive was truncated because the client's body failed, with whatever decompresses it around that.
fn is_clients(error: &io::Error) -> bool {
    let Some(inner) = error.get_ref() else { return false };
    inner.is::<hyper::Error>() || inner.downcast_ref::<io::Error>().is_some_and(is_clients)
}

/// The request body for dockerd.
#[derive(Debug)]
pub(super) struct Archive {
    pieces: mpsc::Receiver<Piece>,
    end: UploadEnd,
    is_complete: bool,
}

impl hyper::body::Body for Archive {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_complete {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Bytes(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Piece::End) => {
                self.is_complete = true;
                Poll::Ready(None)
            }
            None => {
                // Neither bytes nor an end follow: close the connection's write side, and wait for the response.
                self.end.now();
                Poll::Pending
            }
        }
    }
}
