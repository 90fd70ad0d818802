//! One exchange: the request is sent up while its response comes down.
//!
//! Both directions keep their own state, so that their futures can be dropped and made again at any time.

use std::future::pending;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::body::{Body, BrokenChunk, Framing};
use super::buffer::READ_BYTES;
use super::buffered::{BufferedIo, Source};
use super::head::{HEAD_BYTES, RequestHead, ResponseHead, Scanner};
use super::{RelayError, TappedExchange, reply};

/// What a client may send ahead while its request is being answered: the next request, or the first bytes of whatever
/// the connection is about to become. More stays in its socket.
const AHEAD_BYTES: usize = READ_BYTES / 2;

/// How an exchange went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayOutcome {
    /// It is complete; another one may follow.
    Complete,
    /// From here on, beginning with the answer's head (which has not been passed on), both ways are just bytes.
    Raw,
    /// The connection has ended.
    Over,
}

/// A request on its way. Its head is the first thing in the client's source.
#[derive(Debug)]
pub(super) struct Request {
    body: Body,
    /// How many of the bytes at hand belong to it.
    passing: usize,
    state: RequestState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestState {
    Sending,
    Sent,
    /// The client ended before its request did.
    CutOff,
    /// The upstream takes no more; it may have answered.
    Refused,
}

impl Request {
    pub(super) fn new(head: &RequestHead, limit: Option<usize>) -> Self {
        let body = Body::new(head.framing());
        let body = if let Some(limit) = limit { body.copied(limit) } else { body };
        Self { body, passing: head.raw().len(), state: RequestState::Sending }
    }

    /// Sends until it is sent or cannot be. Once the request is sent, reads ahead, and tells the upstream when the client
    /// ends: Go's servers then cancel what they are doing for it.
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
                    // An upstream that has gone is noticed by whoever reads from it.
                    let _ = writer.shutdown().await;
                }
                return pending().await;
            }
            RequestState::CutOff => return pending().await,
            // A client that is busy sending could not read the answer.
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
            // The first time this is behind the head, and later there is nothing at hand when more was waited for.
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

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Response {
    method: String,
    scanner: Scanner,
    /// The head, and the body behind it.
    found: Option<(ResponseHead, Body)>,
    /// How many of the bytes at hand belong to it.
    passing: usize,
    /// Who watches wants this much of the body at most, before its last byte is passed on.
    limit: Option<usize>,
}

/// What [`Response::progress`] stopped for.
enum Received {
    /// Its last bytes are at hand, and somebody wants to know that before they are passed on.
    Last,
    Outcome(RelayOutcome),
}

impl Response {
    pub(super) fn new(head: &RequestHead, limit: Option<usize>) -> Self {
        let method = head.method().to_owned();
        Self { method, scanner: Scanner::default(), found: None, passing: 0, limit }
    }

    /// The head, once it is there.
    pub(super) fn into_head(self) -> Option<ResponseHead> {
        self.found.map(|(head, _)| head)
    }

    /// Passes the answer on, interim ones before it included.
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
                None => match self.look(upstream.unread.bytes())? {
                    Look::Some => {}
                    Look::Raw => return Ok(Received::Outcome(RelayOutcome::Raw)),
                    Look::More => {
                        if !upstream.fill().await {
                            // Half a head is what the client would have seen, too.
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

    /// Looks for a head at the beginning of `bytes`. It is passed on together with what is there of the body: a small
    /// answer is one packet, as it was.
    fn look(&mut self, bytes: &[u8]) -> Result<Look, RelayError> {
        let Some(end) = self.scanner.end(bytes) else {
            return Ok(if bytes.len() < HEAD_BYTES { Look::More } else { Look::Raw });
        };
        let head = ResponseHead::parse(Bytes::copy_from_slice(&bytes[..end]), &self.method);
        let Some(head) = head else { return Ok(Look::Raw) };
        self.passing = end;
        if head.is_interim() {
            return Ok(Look::Some);
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
        Ok(if is_raw { Look::Raw } else { Look::Some })
    }
}

/// What [`Response::look`] found.
enum Look {
    /// Something to pass on.
    Some,
    /// Something that ends with the connection only.
    Raw,
    /// Not enough.
    More,
}

/// Relays a `request` and its `answer`. `seen` is told of both just before the answer's last byte is passed on.
pub(super) async fn exchange<C, U>(
    client: &mut BufferedIo<C>,
    upstream: &mut BufferedIo<U>,
    request: &mut Request,
    answer: &mut Response,
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
                    return Err(reject(client, broken, answer.found.is_some()).await);
                }
            }
            received = answer.progress(&mut upstream.source, &mut client.writer) => match received? {
                Received::Outcome(outcome) => break outcome,
                Received::Last => {
                    if let (Some(seen), Some((head, body))) = (seen.take(), &answer.found) {
                        seen(TappedExchange { response: head.clone(), request_body: request.body.copy(), response_body: body.copy() });
                    }
                }
            },
        }
    };
    if outcome != RelayOutcome::Complete {
        return Ok(outcome);
    }
    // An answer can be complete before its request: then the rest is still taken, unless the upstream ends.
    while request.state == RequestState::Sending {
        tokio::select! {
            sent = request.progress(&mut client.source, &mut upstream.writer) => sent.map_err(RelayError::Body)?,
            unasked = upstream.source.fill() => {
                if unasked {
                    return Err(RelayError::Unasked);
                }
                break;
            }
        }
    }
    if request.state == RequestState::Sent {
        return Ok(RelayOutcome::Complete);
    }
    reply::linger(client).await;
    Ok(RelayOutcome::Over)
}

async fn reject<C>(client: &mut BufferedIo<C>, broken: BrokenChunk, answered: bool) -> RelayError
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    if !answered {
        reply::last(client, &reply::error(StatusCode::BAD_REQUEST, &broken.to_string(), false)).await;
    }
    RelayError::Body(broken)
}
