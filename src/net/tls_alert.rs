//! Reads the TLS alert behind a failed write.
//!
//! In TLS 1.3 a client finishes its handshake before the server verifies the client certificate (RFC 8446, section 2).
//! A server that rejects the certificate sends an alert and closes. A client that is writing then gets a broken pipe,
//! and the alert, which has the reason, stays unread.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose failed writes return the peer's alert, if there is one.
#[derive(Debug)]
pub(super) struct TlsAlertStream<S> {
    pub(super) stream: S,
}

impl<S: AsyncRead + Unpin> TlsAlertStream<S> {
    /// The alert behind `error`, if there is one; else `error`.
    fn explain(&mut self, context: &mut Context<'_>, error: io::Error) -> io::Error {
        if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            return error;
        }
        let mut bytes = [0; 1];
        match Pin::new(&mut self.stream).poll_read(context, &mut ReadBuf::new(&mut bytes)) {
            // rustls reports alerts and other protocol errors with this kind.
            Poll::Ready(Err(alert)) if alert.kind() == ErrorKind::InvalidData => alert,
            _ => error,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TlsAlertStream<S> {
    forward!(read stream);
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsAlertStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(written.map_err(|error| self.explain(context, error)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, parts));
        Poll::Ready(written.map_err(|error| self.explain(context, error)))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(context));
        Poll::Ready(flushed.map_err(|error| self.explain(context, error)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
