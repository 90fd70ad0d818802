//! How many connections this process has to its builders and engines. Like its memory they belong to the process, whoever
//! opens them.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncWrite};

/// Connections to builders.
pub static BUILDERS: ConnectionCount = ConnectionCount::new();
/// Connections to engines.
pub static ENGINES: ConnectionCount = ConnectionCount::new();

/// Connections to one kind of peer.
#[derive(Debug)]
pub struct ConnectionCount {
    opened: AtomicU64,
    open: AtomicI64,
}

impl ConnectionCount {
    const fn new() -> Self {
        Self { opened: AtomicU64::new(0), open: AtomicI64::new(0) }
    }

    /// How many were ever opened.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// How many are open.
    pub fn open(&self) -> i64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts `stream` until it is dropped.
    pub fn count<S>(&'static self, stream: S) -> Counted<S> {
        Counted { stream, _open: self.enter() }
    }

    /// Counts one more connection until the result is dropped.
    pub fn enter(&'static self) -> OpenConnection {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct OpenConnection(&'static ConnectionCount);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that is counted.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    _open: OpenConnection,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    forward!(read stream);
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    forward!(write stream);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_connection_is_open_until_it_is_dropped() {
        static COUNT: ConnectionCount = ConnectionCount::new();
        let (near, mut far) = duplex(16);
        let mut near = COUNT.count(near);
        let other = COUNT.enter();
        assert_eq!((COUNT.opened(), COUNT.open()), (2, 2));
        near.write_all(b"x").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
        drop((near, other));
        assert_eq!((COUNT.opened(), COUNT.open()), (2, 0));
    }
}
