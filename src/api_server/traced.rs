//! Calls as spans: each lasts until its response has ended, and says how that was.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{self, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tracing::field::Empty;
use tracing::{Span, debug_span};

use crate::trace_context;

/// The span of `call`, in the trace that this names.
pub(super) fn span_of<B>(call: &Request<B>) -> Span {
    let span = debug_span!("call", path = call.uri().path(), export = Empty, digest = Empty);
    trace_context::follow_headers(&span, call.headers());
    span
}

/// The response to the call of `span`.
pub(super) fn traced(span: Span, response: Response<Body>) -> Response<Body> {
    if span.is_disabled() {
        return response;
    }
    // A call that fails before its first message has its status there.
    if let Some(status) = trace_context::grpc_status(response.headers()) {
        trace_context::answered(&span, &status);
        return response;
    }
    response.map(|inner| Body::new(TracedBody { inner, span }))
}

/// A body at whose end is the status of a call.
struct TracedBody {
    inner: Body,
    span: Span,
}

impl body::Body for TracedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = body::Body::poll_frame(Pin::new(&mut self.inner), context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(status) = frame.trailers_ref().and_then(trace_context::grpc_status) {
                    trace_context::answered(&self.span, &status);
                }
            }
            Poll::Ready(Some(Err(status))) => trace_context::answered(&self.span, status),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        body::Body::is_end_stream(&self.inner)
    }

    fn size_hint(&self) -> SizeHint {
        body::Body::size_hint(&self.inner)
    }
}
