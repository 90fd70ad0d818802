//! Draining: signals to a connection that the daemon is stopping, and to the daemon whether to wait for the connection.

use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A tunnel is idle after this long without a byte. BuildKit checks a session's health every five seconds (buildkit
/// `session/grpc.go`), so the session of a running build is never idle.
pub const IDLE: Duration = Duration::from_secs(10);

/// One connection's part in a drain. Dereferences to the token that is cancelled when no new work may begin.
///
/// The daemon waits for every connection except an endless stream. It waits for a tunnel (bytes of an unknown protocol)
/// only while bytes are transferred or counted calls are under way.
#[derive(Debug, Clone)]
pub struct Drain {
    begun: CancellationToken,
    state: Arc<DrainState>,
}

#[derive(Debug)]
struct DrainState {
    kind: AtomicU8,
    /// Calls under way on a connection that carries several.
    calls: AtomicUsize,
    since: Instant,
    /// When the last byte was transferred, in milliseconds after `since`.
    seen: AtomicU64,
    /// Since when the client owes a request, in nanoseconds after `since`, and one more; 0 if it does not.
    waiting: AtomicU64,
    /// When the connection first knew of the drain.
    known: OnceLock<Instant>,
    /// Wakes the one who serves the connection when it is to give way.
    give_way: Notify,
}

const EXCHANGES: u8 = 0;
const TUNNEL: u8 = 1;
const ENDLESS: u8 = 2;

/// Marks a connection as a tunnel or as endless until this is dropped.
#[derive(Debug)]
pub struct KindGuard {
    state: Arc<DrainState>,
    before: u8,
}

/// A call that a drain waits for until this is dropped.
#[derive(Debug)]
pub struct Call(Arc<DrainState>);

impl From<CancellationToken> for Drain {
    fn from(begun: CancellationToken) -> Self {
        let state = DrainState {
            kind: AtomicU8::new(EXCHANGES),
            calls: AtomicUsize::new(0),
            since: Instant::now(),
            seen: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            known: OnceLock::new(),
            give_way: Notify::new(),
        };
        Self { begun, state: Arc::new(state) }
    }
}

impl Deref for Drain {
    type Target = CancellationToken;

    fn deref(&self) -> &CancellationToken {
        &self.begun
    }
}

impl Drain {
    /// The connection relays a stream that does not end by itself.
    pub fn endless(&self) -> KindGuard {
        self.mark(ENDLESS)
    }

    /// The connection relays bytes of an unknown protocol, or calls that are counted with [`Drain::call`].
    pub fn tunnel(&self) -> KindGuard {
        self.mark(TUNNEL)
    }

    /// Counts a call of a tunnel, which ends by itself.
    pub fn call(&self) -> Call {
        self.state.calls.fetch_add(1, Ordering::Relaxed);
        Call(Arc::clone(&self.state))
    }

    /// Whether a drain has to wait for the connection.
    pub fn must_wait(&self) -> bool {
        let state = &self.state;
        match state.kind.load(Ordering::Relaxed) {
            ENDLESS => false,
            TUNNEL => state.calls.load(Ordering::Relaxed) > 0 || state.silence() < IDLE,
            _ => true,
        }
    }

    /// Whether no byte was transferred for `time`.
    pub fn is_silent_for(&self, time: Duration) -> bool {
        self.state.silence() >= time
    }

    /// From now on nothing is done for the client, until it sends something. If there is no room for others, its connection may
    /// be closed.
    pub(crate) fn waits(&self) {
        let now = self.state.nanoseconds();
        let _ = self.state.waiting.compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// From now on something is done for the client, and its connection is not closed to make room.
    pub(crate) fn works(&self) {
        self.state.waiting.store(0, Ordering::Relaxed);
    }

    /// How long nothing has been done for the client; `None` if something is.
    pub(crate) fn waiting(&self) -> Option<Duration> {
        let since = self.state.waiting.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_nanos(self.state.nanoseconds().saturating_sub(since)))
    }

    /// How long the connection has known of the drain: since this was first called after its beginning. `None` before.
    pub(crate) fn known_for(&self) -> Option<Duration> {
        self.begun.is_cancelled().then(|| self.state.known.get_or_init(Instant::now).elapsed())
    }

    /// Asks for the connection's room.
    pub(crate) fn give_way(&self) {
        self.state.give_way.notify_one();
    }

    /// Resolves when the connection is to be closed, for there is no room for others and nothing is done for its client.
    pub(crate) async fn gives_way(&self) {
        loop {
            self.state.give_way.notified().await;
            if self.waiting().is_some() {
                return;
            }
        }
    }

    /// Wraps `stream` so that each byte counts as activity.
    pub fn metered<S>(&self, stream: S) -> Metered<S> {
        self.state.record_activity();
        Metered { stream, state: Arc::clone(&self.state) }
    }

    fn mark(&self, kind: u8) -> KindGuard {
        // A tunnel on an endless connection is endless, too.
        let before = self.state.kind.fetch_max(kind, Ordering::Relaxed);
        KindGuard { state: Arc::clone(&self.state), before }
    }
}

impl DrainState {
    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }

    fn record_activity(&self) {
        self.seen.store(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.seen.load(Ordering::Relaxed)))
    }
}

impl Drop for KindGuard {
    fn drop(&mut self) {
        self.state.kind.store(self.before, Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that records when the last byte was transferred.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    state: Arc<DrainState>,
}

impl<S: Unpin> Metered<S> {
    fn counted(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = write(Pin::new(&mut self.stream), context);
        if let Poll::Ready(Ok(1..)) = written {
            self.state.record_activity();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.state.record_activity();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    forward!(write stream through counted);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_waited_for_while_something_passes() {
        let drain = Drain::from(CancellationToken::new());
        let (near, mut far) = duplex(64);
        let mut near = drain.metered(near);
        tokio::time::advance(2 * IDLE).await;
        assert!(drain.must_wait(), "an exchange is waited for, however silent");
        let tunnel = drain.tunnel();
        assert!(!drain.must_wait());
        far.write_all(b"x").await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        assert!(drain.must_wait());
        tokio::time::advance(IDLE - Duration::from_millis(1)).await;
        assert!(drain.must_wait());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!drain.must_wait());
        near.write_all(b"x").await.unwrap();
        assert!(drain.must_wait());
        tokio::time::advance(IDLE).await;
        assert!(!drain.must_wait());
        drop(tunnel);
        assert!(drain.must_wait());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_waited_for_however_silent_until_it_has_ended() {
        let drain = Drain::from(CancellationToken::new());
        let _tunnel = drain.tunnel();
        let call = drain.call();
        tokio::time::advance(100 * IDLE).await;
        assert!(drain.must_wait());
        drop(call);
        assert!(!drain.must_wait());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_never_waited_for() {
        let drain = Drain::from(CancellationToken::new());
        let (near, _far) = duplex(64);
        let mut near = drain.metered(near);
        let endless = drain.endless();
        near.write_all(b"x").await.unwrap();
        assert!(!drain.must_wait());
        drop(drain.tunnel());
        assert!(!drain.must_wait());
        drop(endless);
        assert!(drain.must_wait());
    }
}
