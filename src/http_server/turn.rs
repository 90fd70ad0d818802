//! Whose turn it is on a connection of HTTP/1.1: the client's, to send a request, or ours, to respond.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Limits;
use crate::net::Drain;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No byte of a next request has come.
    Quiet,
    /// A part of a request's head has come.
    Head,
    /// There is a request, and its response is not complete.
    Busy,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) kind: Kind,
    since: Instant,
    /// When the last request came; `None` before the first.
    asked: Option<Instant>,
    /// Whether bytes of a response wait for the client to read.
    is_unsent: bool,
}

/// Changes a connection's [`Turn`]. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    turn: Arc<watch::Sender<Turn>>,
    drain: Drain,
}

impl Turn {
    /// Whether nothing is done on the connection, so that it can be closed.
    pub(super) fn is_quiet(&self) -> bool {
        self.kind == Kind::Quiet && !self.is_unsent
    }

    /// When the turn has lasted too long; `None` if there is no such time.
    pub(super) fn end(&self, limits: &Limits, drained: Option<Instant>) -> Option<Instant> {
        let late =
            |usual: Instant, limit: Duration| drained.map_or(usual, |begun| usual.min(begun.max(self.since) + limit));
        Some(match (self.kind, self.asked) {
            (Kind::Busy, Some(asked)) => asked + limits.response?,
            (Kind::Quiet, Some(asked)) if self.is_unsent => asked + limits.response?,
            (Kind::Head, _) => late(self.since + limits.head, super::LAST_HEAD),
            (_, None) => late(self.since + limits.first, super::LAST_REQUEST),
            (_, Some(_)) => late(self.since + limits.idle, super::LAST_REQUEST),
        })
    }

    /// What is said of a connection whose turn has lasted too long.
    pub(super) fn fault(&self) -> Option<&'static str> {
        match (self.kind, self.asked) {
            (Kind::Head, _) => Some("the head of its request did not come in time"),
            (Kind::Quiet, None) => Some("it sent no request in time"),
            (Kind::Busy, _) => Some("its response was not read in time"),
            (Kind::Quiet, Some(_)) => self.is_unsent.then_some("its response was not read in time"),
        }
    }
}

impl Turns {
    pub(super) fn new(drain: Drain) -> (Self, watch::Receiver<Turn>) {
        drain.waits();
        let turn = Turn { kind: Kind::Quiet, since: Instant::now(), asked: None, is_unsent: false };
        let (turn, changes) = watch::channel(turn);
        (Self { turn: Arc::new(turn), drain }, changes)
    }

    fn become_kind(&self, kind: Kind) {
        match kind {
            Kind::Busy => self.drain.works(),
            Kind::Quiet | Kind::Head => self.drain.waits(),
        }
        self.turn.send_modify(|turn| {
            turn.kind = kind;
            turn.since = Instant::now();
            if kind == Kind::Busy {
                turn.asked = Some(turn.since);
            }
        });
    }

    /// A request has come. Its response is complete when what this returns is dropped.
    pub(super) fn request(&self) -> Responding {
        self.become_kind(Kind::Busy);
        Responding(self.clone())
    }

    fn read(&self) {
        if self.turn.borrow().kind == Kind::Quiet {
            self.become_kind(Kind::Head);
        }
    }

    fn unsent(&self, is_unsent: bool) {
        self.turn.send_if_modified(|turn| {
            let is_changed = std::mem::replace(&mut turn.is_unsent, is_unsent) != is_unsent;
            let is_told = is_changed && turn.kind == Kind::Quiet;
            if is_told {
                turn.since = Instant::now();
            }
            is_told
        });
    }
}

/// A request is responded to until this is dropped.
#[derive(Debug)]
pub(super) struct Responding(Turns);

impl Drop for Responding {
    fn drop(&mut self) {
        self.0.become_kind(Kind::Quiet);
    }
}

/// The body of a response, at whose end the turn is the client's.
#[derive(Debug)]
pub(super) struct Responded<B> {
    pub(super) body: B,
    pub(super) _responding: Responding,
}

impl<B: Body + Unpin> Body for Responded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream of a connection, whose bytes change its turn.
#[derive(Debug)]
pub(super) struct Noted<S> {
    pub(super) stream: S,
    pub(super) turns: Turns,
}

impl<S: Unpin> Noted<S> {
    fn noted(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.turns.unsent(true);
        write(Pin::new(&mut self.stream), context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.turns.read();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.noted(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.noted(context, |stream, context| stream.poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The server flushes once it has written all that it has.
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.turns.unsent(false);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
