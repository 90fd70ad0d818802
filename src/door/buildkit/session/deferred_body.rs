//! One direction of a session: buffered until it is decided how the session is handled, then forwarded or split.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use tokio::sync::oneshot;

use super::pipe::PipeBody;
use super::registry::{Session, SessionMode};
use super::source::Source;
use crate::http2::{Body, BodyError};

/// A body that waits until its session is settled.
pub(super) struct UndecidedBody {
    session: Arc<Session>,
    state: DirectionState,
}

enum DirectionState {
    Undecided { mode: BoxFuture<'static, SessionMode>, source: Source, split: Split },
    Bytes(Source),
    Split(PipeBody),
    Over,
}

/// The ends that replace a body when its session is split.
#[derive(Debug)]
pub(super) struct Split {
    /// Gets the original body.
    pub(super) give: oneshot::Sender<Source>,
    /// The body that is forwarded in its place.
    pub(super) take: PipeBody,
}

impl UndecidedBody {
    /// Holds `body`, of `session`.
    pub(super) fn new(session: Arc<Session>, body: Body, split: Split) -> Self {
        let mode = Arc::clone(&session).mode().boxed();
        Self { session, state: DirectionState::Undecided { mode, source: Source::new(body), split } }
    }

    /// Ready once the handling of the session is decided and the body has changed accordingly.
    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let DirectionState::Undecided { mode, source, .. } = &mut self.state else { return Poll::Ready(()) };
        let mode = match mode.poll_unpin(context) {
            Poll::Ready(mode) => mode,
            // A session that has ended has nothing in it that could be ours.
            Poll::Pending => match source.poll_ahead(context) {
                Poll::Ready(()) => self.session.settle(SessionMode::Bytes),
                Poll::Pending => return Poll::Pending,
            },
        };
        if let DirectionState::Undecided { source, split, .. } =
            std::mem::replace(&mut self.state, DirectionState::Over)
        {
            self.state = match mode {
                SessionMode::Bytes => DirectionState::Bytes(source),
                // Nobody takes it if the session is over.
                SessionMode::Split => {
                    split.give.send(source).map_or(DirectionState::Over, |()| DirectionState::Split(split.take))
                }
            };
        }
        Poll::Ready(())
    }
}

impl HttpBody for UndecidedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        std::task::ready!(self.poll_settled(context));
        match &mut self.state {
            DirectionState::Bytes(source) => source.poll_next(context),
            DirectionState::Split(body) => Pin::new(body).poll_frame(context),
            DirectionState::Undecided { .. } => Poll::Pending,
            DirectionState::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            DirectionState::Undecided { source, .. } | DirectionState::Bytes(source) => source.is_end_stream(),
            DirectionState::Split(_) => false,
            DirectionState::Over => true,
        }
    }
}
