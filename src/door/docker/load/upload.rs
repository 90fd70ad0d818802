//! An archive on its way from the client to dockerd.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::BodyDataStream;
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::filter::{self, Broken};
use super::ledger::Spared;
use super::outer::{self, Outer};
use super::pipe::{Output, Piece};
use crate::engine::Hold;

/// How many pieces may be on their way. The largest is what a connection reads at once, less than half a megabyte.
const PIECES: usize = 4;

/// What became of an archive.
#[derive(Debug)]
pub(super) enum Uploaded {
    /// All of it was sent, as far as dockerd wanted it.
    Whole,
    /// It broke off.
    Broken(Broken),
    /// It is compressed, and not as it should be.
    Undecodable(&'static str, io::Error),
}

/// An archive that is being filtered, until this is dropped.
#[derive(Debug)]
pub(super) struct Upload(AbortOnDropHandle<Uploaded>);

impl Upload {
    /// Begins to filter `body`. `spared` is set when it is known what was left out.
    pub(super) fn start(hold: Arc<dyn Hold>, body: Incoming, spared: Arc<OnceLock<Spared>>) -> (Self, Archive) {
        let (sender, pieces) = mpsc::channel(PIECES);
        // A task of its own: reading, comparing and decompressing go on beside what the two connections do.
        let running = tokio::spawn(run(hold, body, spared, Output::new(sender)));
        (Self(AbortOnDropHandle::new(running)), Archive { pieces, is_complete: false })
    }

    /// Waits for the end of it.
    pub(super) async fn outcome(self) -> Uploaded {
        self.0.await.unwrap_or_else(|error| Uploaded::Broken(Broken::Input(io::Error::other(error))))
    }
}

async fn run(hold: Arc<dyn Hold>, body: Incoming, spared: Arc<OnceLock<Spared>>, output: Output) -> Uploaded {
    let chunks = BodyDataStream::new(body).map_err(io::Error::other);
    let (outer, chunks) = match outer::open(chunks).await {
        Ok(opened) => opened,
        Err(error) => return Uploaded::Broken(Broken::Input(error)),
    };
    let outcome = match outer {
        Outer::Unfit => filter::pass(chunks, output).await,
        _ => filter::run(hold, chunks, output, &spared).await,
    };
    match (outcome, outer.compression()) {
        (Ok(()), _) => Uploaded::Whole,
        (Err(Broken::Input(error)), Some(compression)) if !is_clients(&error) => {
            debug!(%error, kind = compression.name(), "an archive cannot be decompressed");
            Uploaded::Undecodable(compression.name(), error)
        }
        (Err(error), _) => {
            debug!(%error, "an archive was not sent to its end");
            Uploaded::Broken(error)
        }
    }
}

/// Whether an archive broke off because the client did.
pub(super) fn is_clients(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<hyper::Error>())
}

/// The archive as dockerd gets it.
#[derive(Debug)]
pub(super) struct Archive {
    pieces: mpsc::Receiver<Piece>,
    is_complete: bool,
}

/// The archive ended before its end; dockerd is told by a body that breaks off.
#[derive(Debug, thiserror::Error)]
#[error("the archive broke off")]
pub(super) struct BrokenOff;

impl hyper::body::Body for Archive {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.is_complete {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Bytes(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Piece::End) => {
                self.is_complete = true;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(BrokenOff))),
        }
    }
}
