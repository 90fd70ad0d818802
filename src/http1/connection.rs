//! A client's connection between two requests.

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
use super::{RelayError, reply};
use crate::net::{Drain, Stream, Upstream, UpstreamError};

/// How long a head may take from its first byte to its last: what dockerd grants
/// (moby `daemon/command/daemon.go`, `ReadHeaderTimeout`).
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a connection on which nothing was asked yet has for its first request once the drain has begun: its client
/// has just come, and what it asks is on its way.
pub(super) const FIRST: Duration = Duration::from_millis(250);

/// What a connection comes with next.
#[derive(Debug)]
pub enum Incoming<C> {
    /// A request.
    Request(Exchange<C>),
    /// HTTP/2 from its first byte on: nothing of it has been read. [`ClientConnection::pass`] passes it on as it is.
    Http2(ClientConnection<C>),
    /// Nothing: either side has ended it, or the drain has.
    Nothing,
}

/// A client's connection and, from its first request on, the one connection to the upstream that belongs to it.
///
/// It is handed on by value: [`ClientConnection::next`] makes it an [`Exchange`], and what is done with that gives it back when
/// the exchange is complete and another one may follow. Dropping it ends both connections.
#[derive(Debug)]
pub struct ClientConnection<C> {
    pub(super) client: BufferedIo<C>,
    pub(super) upstream: Option<BufferedIo<Box<dyn Stream>>>,
    address: Upstream,
    pub(super) drain: Drain,
}

impl<C: AsyncRead + AsyncWrite + Unpin> ClientConnection<C> {
    /// The connection of `client`, whose requests go to `upstream`. Once `drain` is cancelled it takes no more of them.
    pub fn new(client: C, upstream: Upstream, drain: impl Into<Drain>) -> Self {
        Self { client: BufferedIo::new(client), upstream: None, address: upstream, drain: drain.into() }
    }

    /// Waits for the next request. `None`: there will be none, because either side has ended the connection, or
    /// because of the drain, which leaves a moment for the first one.
    ///
    /// A connection that begins as HTTP/2 is passed on as a whole; then this returns `None` when it has ended.
    ///
    /// # Errors
    /// When what comes is not a request; the client has been told.
    pub async fn next(self) -> Result<Option<Exchange<C>>, RelayError> {
        match self.incoming().await? {
            Incoming::Request(exchange) => Ok(Some(exchange)),
            Incoming::Http2(whole) => whole.pass().await.map(|()| None),
            Incoming::Nothing => Ok(None),
        }
    }

    /// The same for whoever has other plans for HTTP/2.
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

    /// Both sides; the upstream is connected to if it is not yet.
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

    /// Passes on everything to the ends of both ways, whatever it is.
    ///
    /// # Errors
    /// When the upstream cannot be reached.
    pub async fn pass(mut self) -> Result<(), RelayError> {
        let _tunnel = self.drain.tunnel();
        let (client, upstream) = self.dial().await?;
        splice(client, upstream).await;
        Ok(())
    }

    /// Gives the client's stream back as if nothing had been read from it, for a server of one's own.
    pub fn take(self) -> PrefixedIo<C> {
        self.client.into_stream()
    }

    /// Tells the client why its request is not taken, and ends the connection.
    pub(super) async fn reject<E: Into<RelayError> + Display>(&mut self, status: StatusCode, error: E) -> RelayError {
        let answer = reply::error(status, &error.to_string(), false);
        reply::last(&mut self.client, &answer).await;
        error.into()
    }
}

/// Waits until an idle upstream says something (`true`) or ends.
async fn listen(upstream: &mut Option<BufferedIo<Box<dyn Stream>>>) -> bool {
    match upstream {
        Some(BufferedIo { source, .. }) => !source.unread.is_empty() || source.fill().await,
        None => pending().await,
    }
}
