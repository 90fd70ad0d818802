//! A buffer for bytes that were read and not yet forwarded.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// How much is read at once. System calls are most of a relay's work, so this is more than a unix socket holds by
/// default (208 KiB, `net.core.wmem_default`).
pub(super) const READ_BYTES: usize = 256 << 10;

/// How many spare buffers a thread keeps: more are in use only when peers do not read.
const SPARE: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that has memory only while it holds bytes, so that thousands of idle connections need almost none.
///
/// Every method is cancel-safe: no byte is lost or written twice.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Where the unread bytes begin.
    start: usize,
}

impl Buffer {
    /// The unread bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.is_empty() {
            put_back(std::mem::take(&mut self.bytes));
            self.start = 0;
        }
    }

    /// Appends bytes from `reader` and returns their number: 0 at the end.
    pub(super) async fn fill(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        poll_fn(|context| {
            self.make_room();
            let outcome = poll_read_buf(Pin::new(&mut *reader), context, &mut self.bytes);
            if self.is_empty() {
                // Nothing was read: return the memory to the pool.
                self.consume(0);
            }
            outcome
        })
        .await
    }

    /// Writes the first `count` bytes. `count` is reduced by each byte written, so that a call after a cancelled one
    /// writes the rest.
    pub(super) async fn write(&mut self, count: &mut usize, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        poll_fn(|context| {
            while *count > 0 {
                let bytes = &self.bytes()[..*count];
                match ready!(Pin::new(&mut *writer).poll_write(context, bytes))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => {
                        self.consume(written);
                        *count -= written;
                    }
                }
            }
            // A no-op on sockets; TLS buffers bytes.
            Pin::new(&mut *writer).poll_flush(context)
        })
        .await
    }

    /// Writes everything.
    pub(super) async fn write_all(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut count = self.len();
        self.write(&mut count, writer).await
    }

    fn make_room(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes = take();
        }
        if self.bytes.len() == self.bytes.capacity() {
            if self.start > 0 {
                self.bytes.drain(..self.start);
                self.start = 0;
            } else {
                // A head that is longer than a buffer; callers limit its length.
                self.bytes.reserve(self.bytes.len());
            }
        }
    }
}

fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(READ_BYTES))
}

fn put_back(mut bytes: Vec<u8>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < SPARE && bytes.capacity() == READ_BYTES {
            bytes.clear();
            pool.push(bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_idle_buffer_has_no_memory() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let mut buffer = Buffer::default();
        {
            let mut filling = std::pin::pin!(buffer.fill(&mut near));
            assert!(futures_util::poll!(filling.as_mut()).is_pending());
        }
        assert_eq!(buffer.bytes.capacity(), 0);
        far.write_all(b"abc").await.unwrap();
        assert_eq!(buffer.fill(&mut near).await.unwrap(), 3);
        buffer.consume(1);
        assert_eq!(buffer.bytes(), b"bc");
        buffer.write_all(&mut near).await.unwrap();
        assert_eq!(buffer.bytes.capacity(), 0);
        far.read_exact(&mut [0; 2]).await.unwrap();
    }

    #[tokio::test]
    async fn a_cancelled_write_goes_on_where_it_was() {
        let (mut near, mut far) = tokio::io::duplex(4);
        let (mut buffer, mut count) = (Buffer { bytes: b"0123456789rest".to_vec(), start: 0 }, 10);
        {
            let mut writing = std::pin::pin!(buffer.write(&mut count, &mut near));
            assert!(futures_util::poll!(writing.as_mut()).is_pending());
        }
        assert_eq!((count, buffer.bytes()), (6, b"456789rest".as_slice()));
        let mut read = [0; 10];
        let (written, _) = tokio::join!(buffer.write(&mut count, &mut near), far.read_exact(&mut read));
        written.unwrap();
        assert_eq!((&read, buffer.bytes()), (b"0123456789", b"rest".as_slice()));
    }

    #[tokio::test]
    async fn what_is_longer_than_a_buffer_makes_it_grow() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let long = vec![7; READ_BYTES + 1];
        far.write_all(&long).await.unwrap();
        let mut buffer = Buffer::default();
        while buffer.len() < long.len() {
            buffer.fill(&mut near).await.unwrap();
        }
        assert_eq!(buffer.bytes(), long);
    }
}
