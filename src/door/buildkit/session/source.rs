//! A body of which the beginning was read ahead.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};

use crate::http2::{Body, BodyError};

/// What is read ahead at most. Until they are connected, builder and client send a few hundred bytes.
const AHEAD: usize = 64 << 10;

pub(super) type Next = Option<Result<Frame<Bytes>, BodyError>>;

/// One direction of a session: what was read ahead, and the rest.
#[derive(Debug)]
pub(super) struct Source {
    ahead: VecDeque<Result<Frame<Bytes>, BodyError>>,
    bytes: usize,
    rest: Body,
    /// Whether all of the rest was read.
    is_read: bool,
}

impl Source {
    pub(super) fn new(rest: Body) -> Self {
        Self { ahead: VecDeque::new(), bytes: 0, rest, is_read: false }
    }

    /// Whether there is nothing but an end, which came with the headers.
    pub(super) fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && (self.is_read || self.rest.is_end_stream())
    }

    /// Reads ahead. Ready when the body has ended.
    pub(super) fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.is_read {
            if self.bytes >= AHEAD {
                // Whoever settles the session wakes us.
                return Poll::Pending;
            }
            match std::task::ready!(Pin::new(&mut self.rest).poll_frame(context)) {
                Some(frame) => {
                    self.is_read = !frame.as_ref().is_ok_and(Frame::is_data);
                    self.bytes += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    self.ahead.push_back(frame);
                }
                None => self.is_read = true,
            }
        }
        Poll::Ready(())
    }

    /// The next frame, first of what was read ahead.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if let Some(frame) = self.ahead.pop_front() {
            return Poll::Ready(Some(frame));
        }
        if self.is_read {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.rest).poll_frame(context)
    }
}
