//! A client connection between two requests.

use std::fmt::Display;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffered::{BufferedIo, PrefixedIo};
use super::splice::splice;
use super::{RelayError, own_response};
use crate::net::{Drain, Stream, Upstream, UpstreamError};

/// A client connection and, from its first request on, its one upstream connection.
///
/// It is passed by value: [`ClientConnection::next`] turns it into an [`Exchange`](super::Exchange), whose methods return it when the
/// exchange is complete and another one may follow. Dropping it closes both connections.
#[derive(Debug)]
pub struct ClientConnection<C> {
    pub(super) client: BufferedIo<C>,
    pub(super) upstream: Option<BufferedIo<Box<dyn Stream>>>,
    address: Upstream,
    pub(super) drain: Drain,
}

impl<C: AsyncRead + AsyncWrite + Unpin> ClientConnection<C> {
    /// The connection of `client`, which relays requests to `upstream`. Once `drain` is cancelled, it relays what comes at once, and
    /// ends at the first moment without a request.
    pub fn new(client: C, upstream: Upstream, drain: impl Into<Drain>) -> Self {
        Self { client: BufferedIo::new(client), upstream: None, address: upstream, drain: drain.into() }
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
