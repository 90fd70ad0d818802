//! A request whose handler has yet to decide: relay, upgrade, take over or reject.

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::body::Body;
use super::buffered::{BufferedIo, PrefixedIo};
use super::connection::ClientConnection;
use super::head::{RequestHead, ResponseHead};
use super::relay::{RelayOutcome, Request, Response, exchange};
use super::splice::splice;
use super::{RelayError, reply};
use crate::net::{Drain, Stream};

/// Around a body of one chunk there is little; a client that sends every byte by itself is not worth more.
const CODING_FACTOR: usize = 2;
const CODING_BYTES: usize = 4096;

/// A request whose head was read, and the connection it came on. Nothing of it has been passed on yet.
///
/// Exactly one of the methods that take it decides what becomes of it.
#[derive(Debug)]
pub struct Exchange<C> {
    connection: ClientConnection<C>,
    head: RequestHead,
}

/// A whole exchange, as [`Exchange::watch`] shows it.
#[derive(Debug, Clone)]
pub struct TappedExchange {
    /// The head of the answer.
    pub response: ResponseHead,
    /// The content of the request, without transfer coding; `None` if it was longer than the limit, or not sent in full.
    pub request_body: Option<Bytes>,
    /// The content of the answer, likewise.
    pub response_body: Option<Bytes>,
}

/// What became of an [`Exchange::upgrade`].
#[derive(Debug)]
pub enum Upgrade<C> {
    /// The upstream has switched: what follows are bytes.
    Switched(Box<Switched<C>>),
    /// It answered something else, which was passed on; as with [`Exchange::pass`].
    Declined(Option<ClientConnection<C>>),
}

/// A connection that has become a pair of byte streams, with the answer that says so not yet passed on.
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

    /// Relays the exchange as it is. Returns the connection if another request can follow on it; connections that
    /// become byte streams, by an upgrade or because the answer has no other end, are relayed to their ends.
    ///
    /// # Errors
    /// When the connection cannot go on, see [`RelayError`].
    pub async fn pass(self) -> Result<Option<ClientConnection<C>>, RelayError> {
        self.relay(None, drop).await
    }

    /// Relays the exchange as it is, and shows it to `seen` before the answer's last byte is passed on: whatever the
    /// client does because of the answer, it does later. Bodies are shown up to `limit` bytes. An exchange that does
    /// not come to its end, or becomes a byte stream, is not shown.
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

    /// Relays the request and, should the upstream switch to a byte stream, hands that over: with a 101, or with an
    /// answer that only the connection's end ends, which is how Docker streams where no upgrade was asked for.
    ///
    /// # Errors
    /// As [`Exchange::pass`].
    pub async fn upgrade(mut self) -> Result<Upgrade<C>, RelayError> {
        let (outcome, answer) = self.run(None, drop).await?;
        let ClientConnection { client, upstream, drain, .. } = match outcome {
            RelayOutcome::Raw => self.connection,
            RelayOutcome::Complete => return Ok(Upgrade::Declined(Some(self.connection))),
            RelayOutcome::Over => return Ok(Upgrade::Declined(None)),
        };
        let Some(mut upstream) = upstream else { return Ok(Upgrade::Declined(None)) };
        match answer.into_head() {
            Some(head) => Ok(Upgrade::Switched(Box::new(Switched { head, client, upstream, drain }))),
            None => {
                let mut client = client;
                let _tunnel = drain.tunnel();
                splice(&mut client, &mut upstream).await;
                Ok(Upgrade::Declined(None))
            }
        }
    }

    /// Gives the client's stream back as if nothing had been read from it, for a server of one's own.
    pub fn take(self) -> PrefixedIo<C> {
        self.connection.client.into_stream()
    }

    /// Reads the content of the request, which stays where it is: it is relayed (or given back) in full afterwards.
    /// `None` if it is longer than `limit` bytes, if the client ends first, or if the client waits to be asked for it
    /// (`Expect: 100-continue`).
    ///
    /// # Errors
    /// When its transfer coding is broken; the client has been told.
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

    /// Answers in the upstream's place with the bytes of `answer`, and gives the client's stream, from behind the
    /// request on. The content of the request is dropped.
    ///
    /// # Errors
    /// When the request is broken or the client goes.
    pub async fn answer(mut self, answer: &[u8]) -> Result<PrefixedIo<C>, RelayError> {
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
        writer.write_all(answer).await.map_err(RelayError::Client)?;
        Ok(self.connection.client.into_stream())
    }

    /// Answers with an error in Docker's form that begins with our name, and ends the connection.
    pub async fn reject(mut self, status: StatusCode, message: &str) {
        let answer = reply::error(status, message, self.head.method() == "HEAD");
        reply::last(&mut self.connection.client, &answer).await;
    }

    /// Answers with a document in the upstream's place, and ends the connection.
    pub async fn finish(mut self, content_type: &str, document: &[u8]) {
        reply::last(&mut self.connection.client, &reply::document(content_type, document)).await;
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
        let (mut request, mut answer) = (Request::new(&self.head, limit), Response::new(&self.head, limit));
        let (client, upstream) = match self.connection.dial().await {
            Ok(sides) => sides,
            Err(error) => {
                let (status, is_head) = (StatusCode::SERVICE_UNAVAILABLE, self.head.method() == "HEAD");
                let answer = reply::error(status, &error.to_string(), is_head);
                reply::last(&mut self.connection.client, &answer).await;
                return Err(error.into());
            }
        };
        let outcome = exchange(client, upstream, &mut request, &mut answer, seen).await?;
        Ok((outcome, answer))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Switched<C> {
    /// The answer that switched.
    pub fn head(&self) -> &ResponseHead {
        &self.head
    }

    /// Both streams, the client's and the upstream's, from behind the answer's head on. The client has not got that head.
    pub fn into_streams(mut self) -> (PrefixedIo<C>, PrefixedIo<Box<dyn Stream>>) {
        self.upstream.source.unread.consume(self.head.raw().len());
        (self.client.into_stream(), self.upstream.into_stream())
    }

    /// Passes the answer on and joins the streams until both ways have ended.
    pub async fn splice(mut self) {
        let _tunnel = self.drain.tunnel();
        splice(&mut self.client, &mut self.upstream).await;
    }
}
