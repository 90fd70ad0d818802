//! One side of a relay: a stream, and the bytes that were read from it and not forwarded yet.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};

use super::buffer::Buffer;

/// A stream whose two directions are used concurrently.
#[derive(Debug)]
pub(super) struct BufferedIo<S> {
    pub(super) source: Source<S>,
    pub(super) writer: WriteHalf<S>,
}

/// The read direction.
#[derive(Debug)]
pub(super) struct Source<S> {
    pub(super) reader: ReadHalf<S>,
    /// Bytes that were read and not forwarded yet.
    pub(super) unread: Buffer,
    /// Whether the end was read.
    pub(super) ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> BufferedIo<S> {
    pub(super) fn new(stream: S) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { source: Source { reader, unread: Buffer::default(), ended: false }, writer }
    }

    /// The whole stream, with the unread bytes put back in front.
    pub(super) fn into_stream(self) -> PrefixedIo<S> {
        let Source { reader, unread, .. } = self.source;
        PrefixedIo { front: Bytes::copy_from_slice(unread.bytes()), stream: reader.unsplit(self.writer) }
    }
}

impl<S: AsyncRead> Source<S> {
    /// Reads more into `unread`; `false` at the end. A read error counts as the end; the bytes before it are used.
    pub(super) async fn fill(&mut self) -> bool {
        if !self.ended {
            self.ended = !matches!(self.unread.fill(&mut self.reader).await, Ok(1..));
        }
        !self.ended
    }

    /// Reads and drops bytes, and never returns.
    pub(super) async fn discard(&mut self) {
        loop {
            self.unread.consume(self.unread.len());
            if !self.fill().await {
                return pending().await;
            }
        }
    }
}

/// A stream with bytes put back in front.
#[derive(Debug)]
pub struct PrefixedIo<S> {
    front: Bytes,
    stream: S,
}

impl<S> PrefixedIo<S> {
    /// A stream that reads `front` first, then `stream`.
    pub fn new(front: Bytes, stream: S) -> Self {
        Self { front, stream }
    }

    /// The bytes in front that have not been read yet, and the stream.
    pub fn into_parts(self) -> (Bytes, S) {
        (self.front, self.stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefixedIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.front.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let count = self.front.len().min(into.remaining());
        into.put_slice(&self.front[..count]);
        self.front.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefixedIo<S> {
    forward!(write stream);
}
