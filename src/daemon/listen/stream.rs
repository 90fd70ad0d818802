//! The byte stream of an accepted connection, over a unix socket or TCP, with or without TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::net::{Connection, enlarge};

/// The byte stream of an accepted connection.
#[derive(Debug)]
pub(in super::super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(super) fn unix(stream: UnixStream) -> io::Result<Connection<Stream>> {
    enlarge(&stream)?;
    let peer = stream.peer_cred()?.into();
    Ok(Connection { io: Stream::Unix(stream), peer })
}

pub(super) fn tcp(stream: TcpStream) -> io::Result<Connection<Stream>> {
    // Small gRPC messages must not wait for an acknowledgement.
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.into();
    Ok(Connection { io: Stream::Tcp(stream), peer })
}

/// Calls a method of the inner stream.
macro_rules! either {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match $stream {
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), poll_read(context, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true // rustls copies the parts into its own buffer
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), poll_shutdown(context))
    }
}
