//! The stream to the client of an exec, to which Linkspan responds instead of the process.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::stdcopy::{HEADER, Header, Stream};

/// The longest frame: the client buffers a frame until it is complete.
const MAX_FRAME_BYTES: usize = 32 << 10;

/// A client's stream. Reads are raw; writes become frames of standard output, and chunks from `errors` become frames of
/// standard error between them.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    errors: mpsc::Receiver<Bytes>,
    /// Bytes to send first: a header, or a frame of standard error.
    first: BytesMut,
    /// The number of bytes left in the current frame of standard output. After a short write the writer continues with
    /// the remaining bytes, so these are the next ones.
    left: usize,
}

impl<S: AsyncWrite + Unpin> Client<S> {
    /// A client on `stream`, with standard error from `errors`.
    pub fn new(stream: S, errors: mpsc::Receiver<Bytes>) -> Self {
        Self { stream, errors, first: BytesMut::new(), left: 0 }
    }

    /// Sends the pending bytes.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.first.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.first))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.first.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends queued standard error, unless a frame of standard output is incomplete.
    fn poll_errors(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_first(context))?;
            if self.left > 0 {
                return Poll::Ready(Ok(()));
            }
            match self.errors.poll_recv(context) {
                Poll::Ready(Some(bytes)) => self.put(Stream::Error, bytes.len(), &bytes),
                Poll::Ready(None) | Poll::Pending => return Poll::Ready(Ok(())),
            }
        }
    }

    fn put(&mut self, stream: Stream, length: usize, payload: &[u8]) {
        // Both lengths are far below 4 GiB: bounded by a buffer and by MAX_FRAME_BYTES.
        self.first.extend_from_slice(&Header { stream, length: length as u32 }.write());
        self.first.extend_from_slice(payload);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Client<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A reader is also woken by standard error; its result does not depend on sending that.
        if let Poll::Ready(sent) = self.poll_errors(context) {
            sent?;
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Client<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_errors(context))?;
        if self.left == 0 {
            self.left = bytes.len().min(MAX_FRAME_BYTES);
            let length = self.left;
            self.put(Stream::Output, length, &[]);
        }
        let bytes = &bytes[..bytes.len().min(self.left)];
        // Header and payload in one system call.
        while self.first.len() == HEADER && self.stream.is_write_vectored() {
            let this = &mut *self;
            let both = [IoSlice::new(&this.first), IoSlice::new(bytes)];
            let sent = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, &both))?;
            let of_header = sent.min(HEADER);
            this.first.advance(of_header);
            if sent > of_header {
                this.left -= sent - of_header;
                return Poll::Ready(Ok(sent - of_header));
            }
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        ready!(self.poll_first(context))?;
        let sent = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.left -= sent;
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_errors(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_errors(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::tunnel::Output;
    use crate::tunnel::output::MAX_ERRORS_WAITING;

    #[tokio::test]
    async fn what_is_put_together_comes_apart_again() {
        let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_be_bytes).collect();
        for capacity in [1, 7, 1 << 10, 1 << 20] {
            let (near, far) = duplex(capacity);
            let (error_sender, errors) = mpsc::channel(MAX_ERRORS_WAITING);
            let (stderr_sender, mut stderr) = mpsc::channel(MAX_ERRORS_WAITING);
            let sent = bytes.clone();
            let bytes = if capacity < 100 { &bytes[..5000] } else { &bytes };
            let (length, mut client) = (bytes.len(), Client::new(near, errors));
            let writing = tokio::spawn(async move {
                error_sender.send(Bytes::from_static(b"before")).await.unwrap();
                client.write_all(&sent[..length / 2]).await.unwrap();
                error_sender.send(Bytes::from_static(b" between")).await.unwrap();
                client.write_all(&sent[length / 2..length]).await.unwrap();
                client.shutdown().await.unwrap();
            });
            let mut read = Vec::new();
            Output::new(far, Some(stderr_sender)).read_to_end(&mut read).await.unwrap();
            writing.await.unwrap();
            assert!(read == bytes, "capacity {capacity}");
            let mut words = Vec::new();
            while let Some(bytes) = stderr.recv().await {
                words.extend_from_slice(&bytes);
            }
            assert_eq!(words, b"before between");
        }
    }

    #[tokio::test]
    async fn words_on_standard_error_do_not_wait_for_output() {
        let (near, mut far) = duplex(64);
        let (error_sender, errors) = mpsc::channel(1);
        let mut client = Client::new(near, errors);
        let reading = tokio::spawn(async move { client.read(&mut [0; 9]).await.unwrap() });
        error_sender.send(Bytes::from_static(b"oops")).await.unwrap();
        let mut frame = [0; 12];
        far.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame, *b"\x02\0\0\0\0\0\0\x04oops");
        far.write_all(b"raw").await.unwrap();
        assert_eq!(reading.await.unwrap(), 3);
    }
}
