//! One exchange: forwards the request and its response at the same time.
//!
//! Each direction keeps its own state, so that its future can be dropped and recreated at any time.

use std::future::pending;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::body::{Body, BrokenChunk, Framing};
use super::buffer::READ_BYTES;
use super::buffered::{BufferedIo, Source};
use super::head::{HEAD_BYTES, RequestHead, ResponseHead, Scanner};
use super::{RelayError, own_response};

/// How many bytes a client may send ahead before its response is complete: the next request, or the first bytes of an
/// upgraded stream. More stays in its socket.
const AHEAD_BYTES: usize = READ_BYTES / 2;

/// A complete exchange, as [`Exchange::watch`](super::Exchange::watch) reports it.
#[derive(Debug, Clone)]
pub struct TappedExchange {
    /// The head of the response.
    pub response: ResponseHead,
    /// The content of the request, without transfer coding; `None` if it was longer than the limit, or incomplete.
    pub request_body: Option<Bytes>,
    /// The content of the response, likewise.
    pub response_body: Option<Bytes>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayOutcome {
    /// It is complete; another one may follow.
    Complete,
    /// Both directions are byte streams from the response's head on, which has not been forwarded.
    Raw,
    /// The connection has ended.
    Over,
}

/// A request that is being forwarded. The client's source begins with its head.
#[derive(Debug)]
pub(super) struct Request {
    body: Body,
    /// How many of the buffered bytes belong to it and are to be forwarded.
    passing: usize,
    state: RequestState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestState {
    Sending,
    Sent,
    /// The client ended before its request did.
    CutOff,
    /// The upstream accepts no more bytes; it may have sent a response.
    Refused,
}

impl Request {
    pub(super) fn new(head: &RequestHead, limit: Option<usize>) -> Self {
        let body = Body::new(head.framing());
        let body = if let Some(limit) = limit { body.copied(limit) } else { body };
        Self { body, passing: head.raw().len(), state: RequestState::Sending }
    }

    /// Forwards the request until it is complete or cannot be. After a complete request, reads ahead, and forwards the
    /// client's end to the upstream: Go's servers then cancel the request's context.
    async fn progress<C: AsyncRead>(
        &mut self,
        client: &mut Source<C>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), BrokenChunk> {
        match self.state {
            RequestState::Sending => self.state = self.send(client, writer).await?,
            RequestState::Sent => {
                while client.unread.len() < AHEAD_BYTES && client.fill().await {}
                if client.ended && client.unread.is_empty() {
                    // If the upstream is gone, the read from it fails.
                    let _ = writer.shutdown().await;
                }
                return pending().await;
            }
            RequestState::CutOff => return pending().await,
            // A client that is blocked in a write cannot read the response.
            RequestState::Refused => client.discard().await,
        }
        Ok(())
    }

    async fn send<C: AsyncRead>(
        &mut self,
        client: &mut Source<C>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<RequestState, BrokenChunk> {
        loop {
            // Skips bytes that are counted already: the head, or what a cancelled write has left.
            self.passing += self.body.advance(&client.unread.bytes()[self.passing..])?;
            if client.unread.write(&mut self.passing, writer).await.is_err() {
                return Ok(RequestState::Refused);
            }
            if self.body.is_done() {
                return Ok(RequestState::Sent);
            }
            if !client.fill().await {
                let _ = writer.shutdown().await;
                return Ok(RequestState::CutOff);
            }
        }
    }
}

/// A response that is being forwarded.
#[derive(Debug)]
pub(super) struct Response {
    method: String,
    scanner: Scanner,
    /// The head, and the body after it.
    found: Option<(ResponseHead, Body)>,
    /// How many of the buffered bytes belong to it and are to be forwarded.
    passing: usize,
    /// With a tap: the most content to copy, which is reported before the body's last bytes are forwarded.
    limit: Option<usize>,
}

/// Why [`Response::progress`] returned.
enum Received {
    /// Its last bytes are buffered and not forwarded yet, so that the tap can be called first.
    Last,
    Outcome(RelayOutcome),
}

impl Response {
    pub(super) fn new(head: &RequestHead, limit: Option<usize>) -> Self {
        let method = head.method().to_owned();
        Self { method, scanner: Scanner::default(), found: None, passing: 0, limit }
    }

    /// The head, if it has been read.
    pub(super) fn into_head(self) -> Option<ResponseHead> {
        self.found.map(|(head, _)| head)
    }

    /// Forwards the response, and interim responses before it.
    async fn progress<U: AsyncRead>(
        &mut self,
        upstream: &mut Source<U>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<Received, RelayError> {
        loop {
            upstream.unread.write(&mut self.passing, writer).await.map_err(RelayError::Client)?;
            match &mut self.found {
                Some((_, body)) if body.is_done() => return Ok(Received::Outcome(RelayOutcome::Complete)),
                Some((_, body)) => {
                    if !upstream.fill().await {
                        return Ok(Received::Outcome(RelayOutcome::Over));
                    }
                    self.passing = body.advance(upstream.unread.bytes()).map_err(RelayError::Response)?;
                }
                None => match self.read_head(upstream.unread.bytes())? {
                    HeadScan::Some => {}
                    HeadScan::Raw => return Ok(Received::Outcome(RelayOutcome::Raw)),
                    HeadScan::More => {
                        if !upstream.fill().await {
                            // Without a relay, the client would also get this incomplete head.
                            upstream.unread.write_all(writer).await.map_err(RelayError::Client)?;
                            return Ok(Received::Outcome(RelayOutcome::Over));
                        }
                    }
                },
            }
            if self.limit.is_some() && self.found.as_ref().is_some_and(|(_, body)| body.is_done()) {
                self.limit = None;
                return Ok(Received::Last);
            }
        }
    }

    /// Reads a head at the beginning of `bytes`. It is forwarded together with the buffered part of the body, so
    /// that a small response stays one packet.
    fn read_head(&mut self, bytes: &[u8]) -> Result<HeadScan, RelayError> {
        let Some(end) = self.scanner.end(bytes) else {
            return Ok(if bytes.len() < HEAD_BYTES { HeadScan::More } else { HeadScan::Raw });
        };
        let head = ResponseHead::parse(Bytes::copy_from_slice(&bytes[..end]), &self.method);
        let Some(head) = head else { return Ok(HeadScan::Raw) };
        self.passing = end;
        if head.is_interim() {
            return Ok(HeadScan::Some);
        }
        let is_raw = head.framing() == Framing::UntilEnd;
        let mut body = Body::new(head.framing());
        if let Some(limit) = self.limit {
            body = body.copied(limit);
        }
        if !is_raw {
            self.passing += body.advance(&bytes[end..]).map_err(RelayError::Response)?;
        }
        self.found = Some((head, body));
        Ok(if is_raw { HeadScan::Raw } else { HeadScan::Some })
    }
}

/// What [`Response::read_head`] found.
enum HeadScan {
    /// A head to forward.
    Some,
    /// A byte stream: only the end of the connection ends it.
    Raw,
    /// More bytes are needed.
    More,
}

/// Relays a `request` and its response. `seen` is called with both just before the response's last bytes are forwarded.
pub(super) async fn exchange<C, U>(
    client: &mut BufferedIo<C>,
    upstream: &mut BufferedIo<U>,
    request: &mut Request,
    response: &mut Response,
    seen: impl FnOnce(TappedExchange),
) -> Result<RelayOutcome, RelayError>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut seen = Some(seen);
    let outcome = loop {
        tokio::select! {
            sent = request.progress(&mut client.source, &mut upstream.writer) => {
                if let Err(broken) = sent {
                    return Err(reject(client, broken, response.found.is_some()).await);
                }
            }
            received = response.progress(&mut upstream.source, &mut client.writer) => match received? {
                Received::Outcome(outcome) => break outcome,
                Received::Last => {
                    if let (Some(seen), Some((head, body))) = (seen.take(), &response.found) {
                        seen(TappedExchange { response: head.clone(), request_body: request.body.copy(), response_body: body.copy() });
                    }
                }
            },
        }
    };
    if outcome != RelayOutcome::Complete {
        return Ok(outcome);
    }
    // A response can be complete before its request: the rest is still forwarded, unless the upstream ends.
    while request.state == RequestState::Sending {
        tokio::select! {
            sent = request.progress(&mut client.source, &mut upstream.writer) => sent.map_err(RelayError::Body)?,
            is_unsolicited = upstream.source.fill() => {
                if is_unsolicited {
                    return Err(RelayError::Unsolicited);
                }
                break;
            }
        }
    }
    if request.state == RequestState::Sent {
        return Ok(RelayOutcome::Complete);
    }
    own_response::linger(client).await;
    Ok(RelayOutcome::Over)
}

async fn reject<C>(client: &mut BufferedIo<C>, broken: BrokenChunk, is_responded: bool) -> RelayError
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    if !is_responded {
        own_response::last(client, &own_response::error(StatusCode::BAD_REQUEST, &broken.to_string(), false)).await;
    }
    RelayError::Body(broken)
}
