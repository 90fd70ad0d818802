//! A client's connection between two requests.

use std::fmt::Display;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::exchange::Exchange;
use super::head::{BadHead, HEAD_BYTES, HTTP2_PREFACE, RequestHead, Scanner};
use super::side::Side;
use super::splice::splice;
use super::{RelayError, reply};
use crate::proxy::{Drain, Stream, Upstream, UpstreamError};

/// How long a head may take from its first byte to its last: what dockerd grants
/// (moby `daemon/command/daemon.go`, `ReadHeaderTimeout`).
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// A client's connection and, from its first request on, the one connection to the upstream that belongs to it.
///
/// It is handed on by value: [`Connection::next`] makes it an [`Exchange`], and what is done with that gives it back when
/// the exchange is complete and another one may follow. Dropping it ends both connections.
#[derive(Debug)]
pub struct Connection<C> {
    pub(super) client: Side<C>,
    pub(super) upstream: Option<Side<Box<dyn Stream>>>,
    address: Upstream,
    pub(super) drain: Drain,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Connection<C> {
    /// The connection of `client`, whose requests go to `upstream`. Once `drain` is cancelled it takes no more of them.
    pub fn new(client: C, upstream: Upstream, drain: impl Into<Drain>) -> Self {
        Self { client: Side::new(client), upstream: None, address: upstream, drain: drain.into() }
    }

    /// Waits for the next request. `None`: there will be none, because either side has ended the connection, or
    /// because of the drain.
    ///
    /// A connection that begins as HTTP/2 is passed on as a whole; then this returns `None` when it has ended.
    ///
    /// # Errors
    /// When what comes is not a request; the client has been told.
    pub async fn next(mut self) -> Result<Option<Exchange<C>>, RelayError> {
        if self.drain.is_cancelled() {
            return Ok(None);
        }
        let mut scanner = Scanner::default();
        let mut late = std::pin::pin!(tokio::time::sleep(HEAD_TIMEOUT));
        let mut begun = false;
        loop {
            let bytes = self.client.source.unread.bytes();
            let end = scanner.end(bytes);
            if end.unwrap_or(bytes.len()) > HEAD_BYTES {
                return Err(self.refuse(BadHead::TooLong.status(), BadHead::TooLong).await);
            }
            if let Some(end) = end {
                if self.upstream.is_none() && bytes.starts_with(HTTP2_PREFACE) {
                    return self.pass_whole().await.map(|()| None);
                }
                return match RequestHead::parse(Bytes::copy_from_slice(&bytes[..end])) {
                    Ok(head) => Ok(Some(Exchange::new(self, head))),
                    Err(bad) => Err(self.refuse(bad.status(), bad).await),
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
                () = self.drain.cancelled(), if !begun => false,
                () = &mut late, if begun => false,
            };
            if !more {
                return Ok(None);
            }
        }
    }

    /// Both sides; the upstream is connected to if it is not yet.
    pub(super) async fn dial(&mut self) -> Result<(&mut Side<C>, &mut Side<Box<dyn Stream>>), UpstreamError> {
        let upstream = match self.upstream {
            Some(ref mut upstream) => upstream,
            None => {
                let stream = self.address.connect().await?;
                self.upstream.insert(Side::new(stream))
            }
        };
        Ok((&mut self.client, upstream))
    }

    async fn pass_whole(mut self) -> Result<(), RelayError> {
        let _tunnel = self.drain.tunnel();
        let (client, upstream) = self.dial().await?;
        splice(client, upstream).await;
        Ok(())
    }

    /// Tells the client why its request is not taken, and ends the connection.
    pub(super) async fn refuse<E: Into<RelayError> + Display>(&mut self, status: StatusCode, error: E) -> RelayError {
        let answer = reply::error(status, &error.to_string(), false);
        reply::last(&mut self.client, &answer).await;
        error.into()
    }
}

/// Waits until an idle upstream says something (`true`) or ends.
async fn listen(upstream: &mut Option<Side<Box<dyn Stream>>>) -> bool {
    match upstream {
        Some(Side { source, .. }) => !source.unread.is_empty() || source.fill().await,
        None => pending().await,
    }
}
