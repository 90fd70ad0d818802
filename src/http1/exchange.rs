//! A request that its handler can relay, upgrade, take over or reject.

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::body::Body;
use super::buffered::{BufferedIo, PrefixedIo};
use super::connection::ClientConnection;
use super::head::{RequestHead, ResponseHead};
use super::relay::{RelayOutcome, Request, Response, TappedExchange, exchange};
use super::splice::splice;
use super::{RelayError, own_response};
use crate::net::{Drain, Stream};

/// The most bytes that are read for a body of `limit` bytes: `limit` times this factor, and [`CODING_BYTES`]. Only a
/// client that sends tiny chunks exceeds this.
const CODING_FACTOR: usize = 2;
const CODING_BYTES: usize = 4096;

/// A request whose head was read, and its connection. Nothing of it has been forwarded yet.
///
/// The handler calls exactly one of the methods that consume it.
#[derive(Debug)]
pub struct Exchange<C> {
    connection: ClientConnection<C>,
    head: RequestHead,
}

/// The outcome of an [`Exchange::upgrade`].
#[derive(Debug)]
pub enum Upgrade<C> {
    /// The upstream has switched to a byte stream.
    Switched(Box<Switched<C>>),
    /// It sent another response, which was forwarded as by [`Exchange::pass`].
    Declined(Option<ClientConnection<C>>),
}

/// A connection that has become a pair of byte streams; the head of the response is not yet forwarded.
#[derive(Debug)]
pub struct Switched<C> {
    head: ResponseHead,
    client: BufferedIo<C>,
    upstream: BufferedIo<Box<dyn Stream>>,
    drain: Drain,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Exchange<C> {
    pub(super) fn new(connection: ClientConnection<C>, head: RequestHead) -> Self {
        Self { connection, head }
    }

    /// The head of the request.
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// Relays the exchange unchanged. Returns the connection if another request can follow on it. A connection that
    /// becomes a byte stream, by an upgrade or because only its end ends the response, is relayed to its end.
    ///
    /// # Errors
    /// When the connection cannot continue, see [`RelayError`].
    pub async fn pass(self) -> Result<Option<ClientConnection<C>>, RelayError> {
        self.relay(None, drop).await
    }

    /// Relays the exchange unchanged, and calls `seen` with it before the response's last bytes are forwarded, so
    /// before the client can act on the response. Bodies longer than `limit` bytes are left out. `seen` is not called
    /// for an exchange that is incomplete or becomes a byte stream.
    ///
    /// # Errors
    /// As [`Exchange::pass`].
    pub async fn watch(
        self,
        limit: usize,
        seen: impl FnOnce(TappedExchange),
    ) -> Result<Option<ClientConnection<C>>, RelayError> {
        self.relay(Some(limit), seen).await
    }

    /// Relays the request and returns the byte streams if the upstream switches to them: with a 101, or with a response
    /// that only the connection's end ends, which is how Docker streams without an upgrade.
    ///
    /// # Errors
    /// As [`Exchange::pass`].
    pub async fn upgrade(mut self) -> Result<Upgrade<C>, RelayError> {
        let (outcome, response) = self.run(None, drop).await?;
        let ClientConnection { client, upstream, drain, .. } = match outcome {
            RelayOutcome::Raw => self.connection,
            RelayOutcome::Complete => return Ok(Upgrade::Declined(Some(self.connection))),
            RelayOutcome::Over => return Ok(Upgrade::Declined(None)),
        };
        let Some(mut upstream) = upstream else { return Ok(Upgrade::Declined(None)) };
        match response.into_head() {
            Some(head) => Ok(Upgrade::Switched(Box::new(Switched { head, client, upstream, drain }))),
            None => {
                let mut client = client;
                let _tunnel = drain.tunnel();
                splice(&mut client, &mut upstream).await;
                Ok(Upgrade::Declined(None))
            }
        }
    }

    /// Returns the client's stream, with the bytes that were read put back, for another server.
    pub fn take(self) -> PrefixedIo<C> {
        self.connection.client.into_stream()
    }

    /// Peeks at the content of the request, which is still relayed (or returned to the caller) in full afterwards.
    /// `None` if it is longer than `limit` bytes, if the client ends first, or if the client sends it only after a
    /// `100 Continue` (`Expect: 100-continue`).
    ///
    /// # Errors
    /// When its transfer coding is broken; the client has got a 400 response.
    pub async fn body(&mut self, limit: usize) -> Result<Option<Bytes>, RelayError> {
        if self.head.headers().get("expect").is_some() || self.head.framing().is_longer_than(limit) {
            return Ok(None);
        }
        let mut body = Body::new(self.head.framing()).copied(limit);
        let most = self.head.raw().len() + CODING_FACTOR * limit + CODING_BYTES;
        let mut seen = self.head.raw().len();
        loop {
            match body.advance(&self.connection.client.source.unread.bytes()[seen..]) {
                Ok(count) => seen += count,
                Err(broken) => return Err(self.connection.reject(StatusCode::BAD_REQUEST, broken).await),
            }
            if body.is_done() {
                return Ok(body.copy());
            }
            if seen > most || !self.connection.client.source.fill().await {
                return Ok(None);
            }
        }
    }

    /// Sends the bytes of `response` as the response, without the upstream, and returns the client's stream after the
    /// request. The content of the request is dropped.
    ///
    /// # Errors
    /// When the request is broken or the client disconnects.
    pub async fn respond(mut self, response: &[u8]) -> Result<PrefixedIo<C>, RelayError> {
        let BufferedIo { source, writer } = &mut self.connection.client;
        source.unread.consume(self.head.raw().len());
        let mut body = Body::new(self.head.framing());
        loop {
            match body.advance(source.unread.bytes()) {
                Ok(count) => source.unread.consume(count),
                Err(broken) => return Err(self.connection.reject(StatusCode::BAD_REQUEST, broken).await),
            }
            if body.is_done() || !source.fill().await {
                break;
            }
        }
        writer.write_all(response).await.map_err(RelayError::Client)?;
        Ok(self.connection.client.into_stream())
    }

    /// Sends an error response in Docker's form, whose message begins with our name, and closes the connection.
    pub async fn reject(mut self, status: StatusCode, message: &str) {
        let response = own_response::error(status, message, self.head.method() == "HEAD");
        own_response::last(&mut self.connection.client, &response).await;
    }

    /// Sends a document as the response, without the upstream, and closes the connection.
    pub async fn finish(mut self, content_type: &str, document: &[u8]) {
        own_response::last(&mut self.connection.client, &own_response::document(content_type, document)).await;
    }

    async fn relay(
        mut self,
        limit: Option<usize>,
        seen: impl FnOnce(TappedExchange),
    ) -> Result<Option<ClientConnection<C>>, RelayError> {
        let (outcome, _) = self.run(limit, seen).await?;
        match outcome {
            RelayOutcome::Complete => return Ok(Some(self.connection)),
            RelayOutcome::Raw => {
                let ClientConnection { client, upstream, drain, .. } = &mut self.connection;
                let _tunnel = drain.tunnel();
                if let Some(upstream) = upstream {
                    splice(client, upstream).await;
                }
            }
            RelayOutcome::Over => {}
        }
        Ok(None)
    }

    async fn run(
        &mut self,
        limit: Option<usize>,
        seen: impl FnOnce(TappedExchange),
    ) -> Result<(RelayOutcome, Response), RelayError> {
        let (mut request, mut response) = (Request::new(&self.head, limit), Response::new(&self.head, limit));
        let (client, upstream) = match self.connection.dial().await {
            Ok(sides) => sides,
            Err(error) => {
                let (status, is_head) = (StatusCode::SERVICE_UNAVAILABLE, self.head.method() == "HEAD");
                let response = own_response::error(status, &error.to_string(), is_head);
                own_response::last(&mut self.connection.client, &response).await;
                return Err(error.into());
            }
        };
        let outcome = exchange(client, upstream, &mut request, &mut response, seen).await?;
        Ok((outcome, response))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Switched<C> {
    /// The head of the response that switched.
    pub fn head(&self) -> &ResponseHead {
        &self.head
    }

    /// The client's stream and the upstream's, after the response's head, which has not been sent to the client.
    pub fn into_streams(mut self) -> (PrefixedIo<C>, PrefixedIo<Box<dyn Stream>>) {
        self.upstream.source.unread.consume(self.head.raw().len());
        (self.client.into_stream(), self.upstream.into_stream())
    }

    /// Forwards the response and joins the streams until both directions have ended.
    pub async fn splice(mut self) {
        let _tunnel = self.drain.tunnel();
        splice(&mut self.client, &mut self.upstream).await;
    }
}
