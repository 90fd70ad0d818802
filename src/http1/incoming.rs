//! What a client connection yields next: a request, or something else.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::RelayError;
use super::buffered::BufferedIo;
use super::connection::ClientConnection;
use super::exchange::Exchange;
use super::head::{BadHead, HEAD_BYTES, HTTP2_PREFACE, RequestHead, Scanner};
use crate::net::Stream;

/// How long a head may take from its first byte to its last; dockerd's limit (moby `daemon/command/daemon.go`,
/// `ReadHeaderTimeout`).
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a drain waits for a request of a quiet connection: a client that has just connected, or that asks one thing after
/// another, has asked by then. A response is passed on as it is, so it cannot say that it is the last one.
const QUIET: Duration = Duration::from_millis(250);
/// After a drain has begun, how long requests are taken of a client that asks one thing after another: a service manager starts the
/// next process after this one. Then its connection ends right behind a response, when it is least likely to send.
const LAST: Duration = Duration::from_secs(2);
/// How often the runtime looks at the sockets before a quiet connection is closed, so that a request that has come is not lost.
const LOOKS: usize = 3;

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

impl<C: AsyncRead + AsyncWrite + Unpin> ClientConnection<C> {
    /// Waits for the next request. `None` if the client, the upstream or the drain has ended the connection; a drain
    /// waits briefly for a request that may be on its way.
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
        let drain = self.drain.clone();
        if drain.known_for().is_some_and(|time| time >= LAST) {
            return Ok(Incoming::Nothing);
        }
        drain.waits();
        let over = async {
            drain.cancelled().await;
            tokio::time::sleep(QUIET).await;
            for _ in 0..LOOKS {
                tokio::task::yield_now().await;
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
                drain.works();
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
                // What has come is looked at before the end.
                biased;
                more = self.client.source.fill() => more,
                is_unsolicited = listen(&mut self.upstream) => {
                    if is_unsolicited {
                        return Err(RelayError::Unsolicited);
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
}

/// Waits until an idle upstream sends bytes (`true`) or ends.
async fn listen(upstream: &mut Option<BufferedIo<Box<dyn Stream>>>) -> bool {
    match upstream {
        Some(BufferedIo { source, .. }) => !source.unread.is_empty() || source.fill().await,
        None => pending().await,
    }
}
