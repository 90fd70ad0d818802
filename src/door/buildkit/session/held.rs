//! A direction of a session until it is known what becomes of it, and then that.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use tokio::sync::oneshot;

use super::pipe::PipeBody;
use super::registry::{Session, Way};
use super::source::Source;
use crate::http2::{Body, BodyError};

/// A body that waits until its session is settled.
pub(super) struct Held {
    session: Arc<Session>,
    state: State,
}

enum State {
    Undecided { way: BoxFuture<'static, Way>, source: Source, split: Split },
    Bytes(Source),
    Split(PipeBody),
    Over,
}

/// What a body that is split is exchanged for.
#[derive(Debug)]
pub(super) struct Split {
    /// Takes what comes.
    pub(super) give: oneshot::Sender<Source>,
    /// What goes on instead.
    pub(super) take: PipeBody,
}

impl Held {
    /// Holds `body`, of `session`.
    pub(super) fn new(session: Arc<Session>, body: Body, split: Split) -> Self {
        let way = Arc::clone(&session).way().boxed();
        Self { session, state: State::Undecided { way, source: Source::new(body), split } }
    }

    /// Ready once it is known what becomes of the session, and the body is that.
    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let State::Undecided { way, source, .. } = &mut self.state else { return Poll::Ready(()) };
        let way = match way.poll_unpin(context) {
            Poll::Ready(way) => way,
            // A session that has ended has nothing in it that could be ours.
            Poll::Pending => match source.poll_ahead(context) {
                Poll::Ready(()) => self.session.settle(Way::Bytes),
                Poll::Pending => return Poll::Pending,
            },
        };
        if let State::Undecided { source, split, .. } = std::mem::replace(&mut self.state, State::Over) {
            self.state = match way {
                Way::Bytes => State::Bytes(source),
                // Nobody takes it if the session is over.
                Way::Split => split.give.send(source).map_or(State::Over, |()| State::Split(split.take)),
            };
        }
        Poll::Ready(())
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        std::task::ready!(self.poll_settled(context));
        match &mut self.state {
            State::Bytes(source) => source.poll_next(context),
            State::Split(body) => Pin::new(body).poll_frame(context),
            State::Undecided { .. } => Poll::Pending,
            State::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Undecided { source, .. } | State::Bytes(source) => source.is_end_stream(),
            State::Split(_) => false,
            State::Over => true,
        }
    }
}
