//! A client connection between two requests.

use std::fmt::Display;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::buffered::{BufferedIo, PrefixedIo};
use super::exchange::Exchange;
use super::head::{BadHead, HEAD_BYTES, HTTP2_PREFACE, RequestHead, Scanner};
use super::splice::splice;
use super::{RelayError, own_response};
use crate::net::{Drain, Stream, Upstream, UpstreamError};

/// How long a head may take from its first byte to its last; dockerd's limit (moby `daemon/command/daemon.go`,
/// `ReadHeaderTimeout`).
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a drain waits for the first request of a connection: a client that has just connected is probably sending
/// it.
pub(super) const FIRST: Duration = Duration::from_millis(250);

/// What a connection yields next.
#[derive(Debug)]
pub enum Incoming<C> {
    /// A request.
    Request(Exchange<C>),
    /// HTTP/2 from its first byte on, with nothing consumed. [`ClientConnection::pass`] forwards it unchanged.
    Http2(ClientConnection<C>),
    /// No more requests: the client, the upstream or the drain has ended the connection.
    Nothing,
}

/// A client connection and, from its first request on, its one upstream connection.
///
/// It is passed by value: [`ClientConnection::next`] turns it into an [`Exchange`], whose methods return it when the
/// exchange is complete and another one may follow. Dropping it closes both connections.
#[derive(Debug)]
pub struct ClientConnection<C> {
    pub(super) client: BufferedIo<C>,
    pub(super) upstream: Option<BufferedIo<Box<dyn Stream>>>,
    address: Upstream,
    pub(super) drain: Drain,
}

impl<C: AsyncRead + AsyncWrite + Unpin> ClientConnection<C> {
    /// The connection of `client`, which relays requests to `upstream`, and no more of them once `drain` is cancelled.
    pub fn new(client: C, upstream: Upstream, drain: impl Into<Drain>) -> Self {
        Self { client: BufferedIo::new(client), upstream: None, address: upstream, drain: drain.into() }
    }

    /// Waits for the next request. `None` if the client, the upstream or the drain has ended the connection; a drain
    /// waits briefly for the first request.
    ///
    /// A connection that begins with HTTP/2's preface is forwarded as a whole; this returns `None` when it has ended.
    ///
    /// # Errors
    /// When the client sends something other than a request, for which it has got an error response, or when the
    /// upstream sends bytes without a request.
    pub async fn next(self) -> Result<Option<Exchange<C>>, RelayError> {
        match self.incoming().await? {
            Incoming::Request(exchange) => Ok(Some(exchange)),
            Incoming::Http2(whole) => whole.pass().await.map(|()| None),
            Incoming::Nothing => Ok(None),
        }
    }

    /// Like [`ClientConnection::next`], for callers that handle HTTP/2 themselves.
    ///
    /// # Errors
    /// As [`ClientConnection::next`].
    pub async fn incoming(mut self) -> Result<Incoming<C>, RelayError> {
        let (drain, is_new) = (self.drain.clone(), self.upstream.is_none());
        if drain.is_cancelled() && !is_new {
            return Ok(Incoming::Nothing);
        }
        let over = async {
            drain.cancelled().await;
            if is_new {
                tokio::time::sleep(FIRST).await;
            }
        };
        let mut over = std::pin::pin!(over);
        let mut scanner = Scanner::default();
        let mut late = std::pin::pin!(tokio::time::sleep(HEAD_TIMEOUT));
        let mut begun = false;
        loop {
            let bytes = self.client.source.unread.bytes();
            let end = scanner.end(bytes);
            if end.unwrap_or(bytes.len()) > HEAD_BYTES {
                return Err(self.reject(BadHead::TooLong.status(), BadHead::TooLong).await);
            }
            if let Some(end) = end {
                if self.upstream.is_none() && bytes.starts_with(HTTP2_PREFACE) {
                    return Ok(Incoming::Http2(self));
                }
                return match RequestHead::parse(Bytes::copy_from_slice(&bytes[..end])) {
                    Ok(head) => Ok(Incoming::Request(Exchange::new(self, head))),
                    Err(bad) => Err(self.reject(bad.status(), bad).await),
                };
            }
            if !begun && !bytes.is_empty() {
                begun = true;
                late.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
            }
            let more = tokio::select! {
                more = self.client.source.fill() => more,
                unasked = listen(&mut self.upstream) => {
                    if unasked {
                        return Err(RelayError::Unasked);
                    }
                    false
                }
                () = &mut over, if !begun => false,
                () = &mut late, if begun => false,
            };
            if !more {
                return Ok(Incoming::Nothing);
            }
        }
    }

    /// Returns both sides; connects to the upstream if that is not done yet.
    pub(super) async fn dial(
        &mut self,
    ) -> Result<(&mut BufferedIo<C>, &mut BufferedIo<Box<dyn Stream>>), UpstreamError> {
        let upstream = match self.upstream {
            Some(ref mut upstream) => upstream,
            None => {
                let stream = self.address.connect().await?;
                self.upstream.insert(BufferedIo::new(stream))
            }
        };
        Ok((&mut self.client, upstream))
    }

    /// Forwards all bytes until both directions have ended, without parsing them.
    ///
    /// # Errors
    /// When the upstream cannot be reached.
    pub async fn pass(mut self) -> Result<(), RelayError> {
        let _tunnel = self.drain.tunnel();
        let (client, upstream) = self.dial().await?;
        splice(client, upstream).await;
        Ok(())
    }

    /// Returns the client's stream, with the bytes that were read put back, for another server.
    pub fn take(self) -> PrefixedIo<C> {
        self.client.into_stream()
    }

    /// Sends an error response that says why the request is rejected, and closes the connection.
    pub(super) async fn reject<E: Into<RelayError> + Display>(&mut self, status: StatusCode, error: E) -> RelayError {
        let response = own_response::error(status, &error.to_string(), false);
        own_response::last(&mut self.client, &response).await;
        error.into()
    }
}

/// Waits until an idle upstream sends bytes (`true`) or ends.
async fn listen(upstream: &mut Option<BufferedIo<Box<dyn Stream>>>) -> bool {
    match upstream {
        Some(BufferedIo { source, .. }) => !source.unread.is_empty() || source.fill().await,
        None => pending().await,
    }
}
