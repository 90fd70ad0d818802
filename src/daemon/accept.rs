//! Accepts connections, and drains them at shutdown.

mod permits;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info, info_span, warn};

use permits::{Parts, Permit, Permits};

use super::error::DaemonError;
use super::listen::{Listener, ListenerTls, Stream, Transport};
use crate::activity::{Activities, Activity, Refused};
use crate::net::{Connection, Drain, Metered, Occasional};

/// The pause after an accept that failed for lack of resources: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often a drain checks whether it still has to wait for a connection.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What clients whose work is several calls have after a drain has begun: a call is made on the same connection within the first
/// time after the one before it, and all is over after the second one.
const SETTLED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long a connection that waits for room waits until another one is asked to give way.
const ROOM: Duration = Duration::from_secs(1);

/// Those that gave way, in the log.
static GAVE_WAY: Occasional = Occasional::new();

/// A client's connection, as doors get it.
pub(super) type Client = Connection<Metered<Stream>>;

/// The listening sockets of all doors, and the connections that they accepted.
#[derive(Debug)]
pub(super) struct Listeners {
    doors: TaskTracker,
    connections: TaskTracker,
    open: OpenConnections,
    permits: Permits,
    /// Cancelled at the beginning of a drain: no new connections, no new requests.
    drain: CancellationToken,
    /// Cancelled at the end of a drain: every connection is dropped.
    cut: CancellationToken,
    activities: Activities,
}

/// The open connections, by number; each [`Drain`] says whether a drain has to wait for its connection.
#[derive(Debug, Clone, Default)]
struct OpenConnections(Arc<Mutex<OpenByNumber>>);

/// The next number, and the open connections.
type OpenByNumber = (u64, HashMap<u64, Open>);

/// An open connection.
#[derive(Debug)]
struct Open {
    door: &'static str,
    transport: Transport,
    peer: String,
    drain: Drain,
}

/// An entry of [`OpenConnections`]; dropping it removes it.
#[derive(Debug)]
struct OpenConnection {
    open: OpenConnections,
    number: u64,
}

impl OpenConnections {
    fn with<T>(&self, work: impl FnOnce(&mut OpenByNumber) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self, connection: Open) -> OpenConnection {
        let number = self.with(|(next, open)| {
            *next += 1;
            open.insert(*next, connection);
            *next
        });
        OpenConnection { open: self.clone(), number }
    }

    /// Waits until no connection is left that a drain has to wait for.
    async fn all_may_end(&self) {
        while self.with(|(_, open)| open.values().any(|open| open.drain.must_wait())) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Asks the connection for its room whose client has owed a request for the longest time, of those for which `is_of_use` is
    /// true. Says whose it is, and for how long.
    fn make_room(
        &self,
        is_of_use: impl Fn(&'static str, Transport) -> bool,
    ) -> Option<(&'static str, String, Duration)> {
        self.with(|(_, open)| {
            let waiting = open.values().filter(|open| is_of_use(open.door, open.transport));
            let waiting = waiting.filter_map(|open| Some((open, open.drain.waiting()?)));
            let (longest, waited) = waiting.max_by_key(|(_, waited)| *waited)?;
            longest.drain.give_way();
            Some((longest.door, longest.peer.clone(), waited))
        })
    }

    /// Waits until no client of `door` is between two calls.
    async fn settled(&self, door: &'static str) {
        let is_busy = |open: &Open| open.door == door && !open.drain.is_silent_for(SETTLED.0);
        while self.with(|(_, open)| open.values().any(is_busy)) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.with(|(_, open)| open.remove(&self.number));
    }
}

impl Listeners {
    /// No doors yet. At most `connections` are served at once; others wait in the sockets' queues.
    /// Tells `activities` of them.
    pub(super) fn new(connections: usize, activities: Activities) -> Self {
        Self {
            activities,
            doors: TaskTracker::new(),
            connections: TaskTracker::new(),
            open: OpenConnections::default(),
            permits: Permits::new(connections),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Opens `door`: calls `serve` with each connection that `listener` accepts, and with its part in the drain.
    pub(super) fn open<S, F>(&self, door: &'static str, listener: Listener, serve: S)
    where
        S: Fn(Client, Drain) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.open_for(None, door, listener, serve);
    }

    /// The same, for `most` connections at once.
    pub(super) fn open_for<S, F>(&self, most: Option<usize>, door: &'static str, listener: Listener, serve: S)
    where
        S: Fn(Client, Drain) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let accept = AcceptLoop {
            door,
            activities: self.activities.clone(),
            connections: self.connections.clone(),
            open: self.open.clone(),
            parts: self.permits.of(listener.transport(), most),
            drain: self.drain.clone(),
            cut: self.cut.clone(),
            tls: listener.tls(),
            serve: Arc::new(serve),
        };
        self.doors.spawn(accept.run(listener));
    }

    /// The token that is cancelled when no new calls may begin.
    pub(super) fn drain(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// The token that is cancelled when a drain has begun and no client of `door` is between two calls any more, or the time for
    /// that is over. Until then connections of a door whose clients need several calls go on, so that an export that is nearly
    /// done is done, and not broken off before its commit.
    pub(super) fn settled(&self, door: &'static str) -> CancellationToken {
        let (settled, drain, open) = (CancellationToken::new(), self.drain.clone(), self.open.clone());
        let cancelled = settled.clone();
        tokio::spawn(async move {
            drain.cancelled().await;
            // Those that are still busy then are told to connect again.
            let _ = tokio::time::timeout(SETTLED.1, open.settled(door)).await;
            cancelled.cancel();
        });
        settled
    }

    /// How many connections are open.
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Drains: stops listening at once, then waits for the connections for which [`Drain::must_wait`]. After `timeout`, or
    /// when `force` resolves (to the reason), the remaining connections are dropped.
    pub(super) async fn close(self, timeout: Duration, force: impl Future<Output = String>) -> Result<(), DaemonError> {
        self.drain.cancel();
        self.doors.close();
        self.doors.wait().await;
        self.connections.close();
        let reason = tokio::select! {
            biased;
            () = self.connections.wait() => return Ok(()),
            () = self.open.all_may_end() => {
                let connections = self.connections();
                if connections > 0 {
                    info!(connections, "streams that do not end by themselves, and idle tunnels, are ended");
                }
                self.cut.cancel();
                self.connections.wait().await;
                return Ok(());
            }
            reason = force => reason,
            () = tokio::time::sleep(timeout) => format!("within {} s", timeout.as_secs()),
        };
        let connections = self.connections();
        self.cut.cancel();
        // Short: the tasks only drop their connections.
        self.connections.wait().await;
        Err(DaemonError::Cut { connections, reason })
    }
}

/// The accept loop of one door.
struct AcceptLoop<S> {
    door: &'static str,
    activities: Activities,
    connections: TaskTracker,
    open: OpenConnections,
    parts: Parts,
    drain: CancellationToken,
    cut: CancellationToken,
    tls: Option<ListenerTls>,
    serve: Arc<S>,
}

/// A client's connection, counted until this is dropped.
struct CountedClient {
    door: &'static str,
    activities: Activities,
}

impl CountedClient {
    fn new(door: &'static str, activities: &Activities) -> Self {
        activities.emit(Activity::Connected { door });
        Self { door, activities: activities.clone() }
    }
}

impl Drop for CountedClient {
    fn drop(&mut self) {
        self.activities.emit(Activity::Disconnected { door: self.door });
    }
}

impl<S, F> AcceptLoop<S>
where
    S: Fn(Client, Drain) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    /// Accepts until the drain begins, then closes the socket and removes its file. Connections in its queue are still
    /// served while permits are left: a drain waits for the first request of each.
    async fn run(self, listener: Listener) {
        let mut held = None;
        tokio::select! {
            () = self.drain.cancelled() => {}
            never = self.accept(&listener, &mut held) => match never {},
        }
        for stream in held.map(Ok).into_iter().chain(listener.close()) {
            match (stream, self.parts.try_acquire()) {
                (Ok(stream), Some(permit)) => self.serve(stream, Some(permit)),
                (Ok(_), None) => debug!("a queued connection was dropped: the connection limit is reached"),
                (Err(error), _) if is_the_clients(&error) => debug!(%error, "a connection was not accepted"),
                (Err(error), _) => return debug!(%error, "connections that waited were not accepted"),
            }
        }
    }

    /// Accepts for ever. A connection that waits for room is in `held`.
    async fn accept(&self, listener: &Listener, held: &mut Option<Connection<Stream>>) -> Infallible {
        let mut pause = PAUSES.0;
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    pause = PAUSES.0;
                    *held = Some(stream);
                    let permit = self.permit().await;
                    if let Some(stream) = held.take() {
                        self.serve(stream, permit);
                    }
                }
                Err(error) if is_the_clients(&error) => debug!(%error, "a connection was not accepted"),
                Err(error) => {
                    // Probably EMFILE (no descriptors left). The connection stays in the queue, so an immediate retry
                    // would spin.
                    warn!(%error, ?pause, "connections cannot be accepted");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Waits for a permit; a connection whose client owes a request gives way. `None` only if the semaphore were closed, which it
    /// never is.
    async fn permit(&self) -> Option<Permit> {
        if let Some(permit) = self.parts.try_acquire() {
            return Some(permit);
        }
        let mut permit = std::pin::pin!(self.parts.acquire());
        loop {
            let made = self.open.make_room(|door, transport| self.parts.gain_by(self.door, (door, transport)));
            let (listener, open) = (self.door, self.connections.len());
            if let Some(unsaid) = GAVE_WAY.due() {
                match made {
                    Some((of, peer, waited)) => warn!(
                        listener,
                        open,
                        of,
                        peer,
                        unsaid,
                        "the connection limit is reached: a connection on which no request has come for {} s is closed",
                        waited.as_secs()
                    ),
                    None => warn!(listener, open, unsaid, "the connection limit is reached; new connections wait"),
                }
            }
            if let Ok(permit) = tokio::time::timeout(ROOM, permit.as_mut()).await {
                return permit;
            }
        }
    }

    fn serve(&self, connection: Connection<Stream>, permit: Option<Permit>) {
        let drain = Drain::from(self.drain.clone());
        let entry = self.open.enter(Open {
            door: self.door,
            transport: self.parts.transport,
            peer: connection.peer.to_string(),
            drain: drain.clone(),
        });
        let (cut, gives_way) = (self.cut.clone(), drain.clone());
        let counted = CountedClient::new(self.door, &self.activities);
        let (listener, tls, serve) = (self.door, self.tls.clone(), Arc::clone(&self.serve));
        let (activities, of_closed) = (self.activities.clone(), self.activities.clone());
        let served = async move {
            let address = connection.peer.to_string();
            drain.waits();
            let connection = match &tls {
                Some(tls) => match tls.secure(connection).await {
                    Ok(Some(connection)) => connection,
                    Ok(None) => return debug!(listener, peer = address, "closed before a TLS handshake began"),
                    Err(error) => {
                        activities.emit(Activity::Refused { door: listener, reason: Refused::Tls });
                        return debug!(listener, peer = address, %error, "no TLS connection was made");
                    }
                },
                None => connection,
            };
            // From here on the door says so.
            drain.works();
            let span = info_span!("connection", listener, peer = %connection.peer);
            serve(connection.map(|stream| drain.metered(stream)), drain).instrument(span).await;
        };
        self.connections.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = gives_way.gives_way() => {
                    of_closed.emit(Activity::Refused { door: listener, reason: Refused::Limit });
                }
                () = served => {}
            }
            drop((entry, permit, counted));
        });
    }
}

/// Whether accept(2) failed because of this one connection, such as a client that disconnected while it waited in the
/// queue (accept(2), "Error handling").
fn is_the_clients(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let gone = [Errno::CONNABORTED, Errno::CONNRESET, Errno::NOTCONN, Errno::PROTO, Errno::PERM, Errno::INTR];
    errno.is_some_and(|errno| gone.contains(&errno))
}

#[cfg(test)]
mod tests;
