//! Letting clients in, and seeing them out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::DaemonError;
use super::listen::{Listener, Stream};
use crate::net::{Connection, Drain, Metered};

/// The pause after an accept that failed for want of resources: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often it is looked whether a connection is left that the end has to wait for.
const LOOK: Duration = Duration::from_millis(100);

/// A client's connection, as doors get it.
pub(super) type Client = Connection<Metered<Stream>>;

/// The open doors, and whoever came through them.
#[derive(Debug)]
pub(super) struct House {
    doors: TaskTracker,
    connections: TaskTracker,
    guests: Guests,
    /// One for each connection that may be open.
    permits: Arc<Semaphore>,
    /// No new connections, no new requests.
    drain: CancellationToken,
    /// No connections.
    cut: CancellationToken,
}

/// What every open connection says of itself, under a number that no other has.
#[derive(Debug, Clone, Default)]
struct Guests(Arc<Mutex<(u64, HashMap<u64, Drain>)>>);

/// A connection that is open; dropping it takes it from the list.
#[derive(Debug)]
struct Guest {
    guests: Guests,
    number: u64,
}

impl Guests {
    fn with<T>(&self, work: impl FnOnce(&mut (u64, HashMap<u64, Drain>)) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self, drain: Drain) -> Guest {
        let number = self.with(|(next, guests)| {
            *next += 1;
            guests.insert(*next, drain);
            *next
        });
        Guest { guests: self.clone(), number }
    }

    /// Returns when nobody is left whom the end has to wait for.
    async fn none_holds(&self) {
        while self.with(|(_, guests)| guests.values().any(Drain::holds)) {
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.with(|(_, guests)| guests.remove(&self.number));
    }
}

impl House {
    /// A house without doors that holds at most `connections` at once; more wait in the sockets' queues.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            doors: TaskTracker::new(),
            connections: TaskTracker::new(),
            guests: Guests::default(),
            permits: Arc::new(Semaphore::new(connections)),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Opens `door`: every connection that `listener` accepts goes to `serve`, with what announces the drain.
    pub(super) fn open<S, F>(&self, door: &'static str, listener: Listener, serve: S)
    where
        S: Fn(Client, Drain) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let gate = Gate {
            door,
            connections: self.connections.clone(),
            guests: self.guests.clone(),
            permits: Arc::clone(&self.permits),
            drain: self.drain.clone(),
            cut: self.cut.clone(),
            serve,
        };
        self.doors.spawn(gate.keep(listener));
    }

    /// Cancelled when no new calls are to be taken.
    pub(super) fn drain(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// How many connections are open.
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Closes the doors at once and waits until the last connection has ended, or only such are left as need not be waited
    /// for: for `timeout` at most, and only until `hurry` (which says why) is there. What is open then is cut.
    pub(super) async fn close(self, timeout: Duration, hurry: impl Future<Output = String>) -> Result<(), DaemonError> {
        self.drain.cancel();
        self.doors.close();
        self.doors.wait().await;
        self.connections.close();
        let reason = tokio::select! {
            biased;
            () = self.connections.wait() => return Ok(()),
            () = self.guests.none_holds() => {
                let connections = self.connections();
                if connections > 0 {
                    info!(connections, "streams that do not end by themselves, and idle tunnels, are ended");
                }
                self.cut.cancel();
                self.connections.wait().await;
                return Ok(());
            }
            reason = hurry => reason,
            () = tokio::time::sleep(timeout) => format!("within {} s", timeout.as_secs()),
        };
        let connections = self.connections();
        self.cut.cancel();
        // What is left is dropping them, which waits for nothing.
        self.connections.wait().await;
        Err(DaemonError::Cut { connections, reason })
    }
}

struct Gate<S> {
    door: &'static str,
    connections: TaskTracker,
    guests: Guests,
    permits: Arc<Semaphore>,
    drain: CancellationToken,
    cut: CancellationToken,
    serve: S,
}

impl<S, F> Gate<S>
where
    S: Fn(Client, Drain) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    /// Accepts until the drain begins; then the socket is closed and its name given up. Who has come until then is let
    /// in, as far as there is room: the drain waits for the first request of a connection.
    async fn keep(self, listener: Listener) {
        tokio::select! {
            () = self.drain.cancelled() => {}
            never = self.accept(&listener) => match never {},
        }
        for stream in listener.close() {
            match (stream, Arc::clone(&self.permits).try_acquire_owned()) {
                (Ok(stream), Ok(permit)) => self.let_in(stream, Some(permit)),
                (Ok(_), Err(_)) => debug!("a connection that waited was not let in: there is no room"),
                (Err(error), _) if is_the_clients(&error) => debug!(%error, "a connection was not accepted"),
                (Err(error), _) => return debug!(%error, "connections that waited were not accepted"),
            }
        }
    }

    async fn accept(&self, listener: &Listener) -> Infallible {
        let mut pause = PAUSES.0;
        loop {
            let permit = self.permit().await;
            match listener.accept().await {
                Ok(stream) => {
                    pause = PAUSES.0;
                    self.let_in(stream, permit);
                }
                Err(error) if is_the_clients(&error) => debug!(%error, "a connection was not accepted"),
                Err(error) => {
                    // Most likely descriptors have run out (EMFILE). The connection stays in the queue, so that trying
                    // again at once would spin.
                    warn!(%error, ?pause, "connections cannot be accepted");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Waits until there is room for one more. `None` only if the semaphore were closed, which it never is.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        warn!(open = self.connections.len(), "as many connections as can be are open; new ones wait");
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    fn let_in(&self, connection: Connection<Stream>, permit: Option<OwnedSemaphorePermit>) {
        let drain = Drain::from(self.drain.clone());
        let span = info_span!("connection", door = self.door, peer = %connection.peer);
        let served = (self.serve)(connection.map(|stream| drain.metered(stream)), drain.clone()).instrument(span);
        let (cut, guest) = (self.cut.clone(), self.guests.enter(drain));
        self.connections.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = served => {}
            }
            drop((guest, permit));
        });
    }
}

/// Whether an accept failed for a reason that lies in the one connection, such as a client that was gone before we
/// turned to it: accept(2), "Error handling".
fn is_the_clients(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let gone = [Errno::CONNABORTED, Errno::CONNRESET, Errno::NOTCONN, Errno::PROTO, Errno::PERM, Errno::INTR];
    errno.is_some_and(|errno| gone.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::{fs, future};

    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::net::Address;

    async fn listener(folder: &TempDir) -> (Listener, PathBuf) {
        let path = folder.path().join("door");
        let gid = rustix::process::getegid().as_raw();
        (Listener::bind(&Address::Unix(path.clone()), gid).await.unwrap(), path)
    }

    /// Serves a connection by sending back one byte for each byte, until its client ends it.
    async fn echo(client: Client) {
        let mut stream = client.io;
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.unwrap();
        }
    }

    async fn talk(client: &mut UnixStream) {
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    }

    async fn greeted(path: &Path) -> UnixStream {
        let mut client = UnixStream::connect(path).await.unwrap();
        talk(&mut client).await;
        client
    }

    #[tokio::test]
    async fn a_drain_ends_when_the_last_client_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = listener(&folder).await;
        let house = House::new(8);
        let (told, mut drains) = mpsc::unbounded_channel();
        house.open("test", listener, move |stream, drain: Drain| {
            let told = told.clone();
            async move {
                tokio::join!(echo(stream), async {
                    drain.cancelled().await;
                    told.send(()).unwrap();
                });
            }
        });
        let mut client = greeted(&path).await;
        assert_eq!(house.connections(), 1);

        let closing = tokio::spawn(house.close(Duration::from_secs(3600), future::pending()));
        drains.recv().await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a successor can have the name");
        talk(&mut client).await;
        assert!(!closing.is_finished());
        drop(client);
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = listener(&folder).await;
        let house = House::new(8);
        house.open("test", listener, |stream, _| echo(stream));
        let mut client = greeted(&path).await;
        let error = house.close(Duration::from_secs(30), future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), "1 of the open connections did not finish within 30 s and were ended");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the connection is cut");
    }

    #[tokio::test]
    async fn a_drain_ends_early_in_a_hurry() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = listener(&folder).await;
        let house = House::new(8);
        house.open("test", listener, |stream, _| echo(stream));
        let _client = greeted(&path).await;
        let hurry = future::ready("before a second signal (SIGINT)".to_owned());
        let error = house.close(Duration::from_secs(3600), hurry).await.unwrap_err();
        assert!(error.to_string().contains("before a second signal (SIGINT)"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_does_not_wait_for_what_is_not_to_be_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = listener(&folder).await;
        let house = House::new(8);
        // What a client is, it says with its first byte: an endless stream, a tunnel, or an exchange.
        house.open("test", listener, |mut stream, drain| async move {
            let mut kind = [0];
            stream.io.read_exact(&mut kind).await.unwrap();
            stream.io.write_all(&kind).await.unwrap();
            let _mark = match kind[0] {
                b'e' => Some(drain.endless()),
                b't' => Some(drain.tunnel()),
                _ => None,
            };
            echo(stream).await;
        });
        let come = async |kind: &[u8]| {
            let mut client = UnixStream::connect(&path).await.unwrap();
            client.write_all(kind).await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
            talk(&mut client).await;
            client
        };
        let (mut endless, mut tunnel, exchange) = (come(b"e").await, come(b"t").await, come(b"x").await);
        let closing = tokio::spawn(house.close(Duration::from_secs(3600), future::pending()));
        tokio::time::sleep(10 * crate::net::IDLE).await;
        // As long as an exchange is under way, nobody is ended.
        talk(&mut endless).await;
        talk(&mut tunnel).await;
        drop(exchange);
        tokio::time::sleep(crate::net::IDLE / 2).await;
        assert!(!closing.is_finished(), "something has passed through the tunnel just now");
        talk(&mut tunnel).await;
        tokio::time::sleep(2 * crate::net::IDLE).await;
        closing.await.unwrap().unwrap();
        for client in [&mut endless, &mut tunnel] {
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn who_has_come_when_a_drain_begins_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = listener(&folder).await;
        let house = House::new(8);
        house.open("test", listener, |stream, _| echo(stream));
        // The door has had no turn yet, so that nobody has accepted it.
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut client = UnixStream::from_std(client).unwrap();
        let served = async {
            talk(&mut client).await;
            drop(client);
        };
        let ((), closed) = tokio::join!(served, house.close(Duration::from_secs(3600), future::pending()));
        closed.unwrap();
    }

    #[tokio::test]
    async fn connections_above_the_limit_wait_for_room() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = listener(&folder).await;
        let house = House::new(2);
        house.open("test", listener, |stream, _| echo(stream));
        let (first, _second) = (greeted(&path).await, greeted(&path).await);
        let mut third = UnixStream::connect(&path).await.unwrap();
        third.write_all(b"x").await.unwrap();
        // The third one is in the queue while the others are served, however often we look.
        for _ in 0..100 {
            tokio::task::yield_now().await;
            assert_eq!(house.connections(), 2);
        }
        drop(first);
        third.read_exact(&mut [0]).await.unwrap();
        assert_eq!(house.connections(), 2);
    }

    #[test]
    fn only_errors_of_one_connection_are_taken_lightly() {
        let lightly = |errno: Errno| is_the_clients(&io::Error::from(errno));
        assert!(lightly(Errno::CONNABORTED) && lightly(Errno::INTR));
        assert!(!lightly(Errno::MFILE) && !lightly(Errno::NFILE) && !lightly(Errno::NOMEM) && !lightly(Errno::BADF));
        assert!(!is_the_clients(&io::Error::other("no errno")));
    }
}
