//! The connections to one upstream: one per client, or one that all clients share.
//!
//! Connecting to a socket costs nothing, so each client gets a connection of its own, and the upstream sees it come and go.
//! Starting a process in a container takes a tenth of a second, so there all clients share one connection, which stays open
//! for a while after its last use.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::process::Pid;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::body::BodyError;
use super::connection::{ProxyError, UpstreamConnection, Windows};
use super::health;
use crate::net::{BUILDERS, CountedDial, Dial, Stream};
use crate::trace_context;

/// Whether clients share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionSharing {
    /// Each client has its own; our own calls share another, which stays open.
    PerClient,
    /// Clients and our own calls share one, which is closed after `idle` without use.
    Shared {
        /// How long it waits for the next use.
        idle: Duration,
    },
}

/// How soon a connection over a socket has to respond; otherwise a new one is made, which is quick.
const PROMPT: Duration = Duration::from_millis(500);

/// The connections to one upstream.
#[derive(Debug)]
pub struct ConnectionPool {
    dial: Box<dyn Dial>,
    sharing: ConnectionSharing,
    /// Locked while a connection is being made: others wait for the same one.
    shared: Mutex<Option<UpstreamConnection>>,
    /// How many use the shared connection.
    users: watch::Sender<usize>,
}

/// A connection that is in use; dropping it returns a shared one to the pool.
#[derive(Debug)]
pub struct PooledConnection {
    connection: UpstreamConnection,
    /// `None` for a connection of the client's own.
    user: Option<User>,
}

/// Keeps the shared connection from being closed as idle.
#[derive(Debug)]
struct User(Arc<ConnectionPool>);

impl Drop for User {
    fn drop(&mut self) {
        self.0.users.send_modify(|users| *users -= 1);
    }
}

impl std::ops::Deref for PooledConnection {
    type Target = UpstreamConnection;

    fn deref(&self) -> &UpstreamConnection {
        &self.connection
    }
}

impl PooledConnection {
    /// Cancelled at the end of a connection that the client would have had to itself without us: with it, the client's
    /// own must end. Never for a connection that was opened for this client: there, calls end one by one.
    pub fn cut(&self) -> CancellationToken {
        if self.user.is_some() { self.connection.ended().clone() } else { CancellationToken::new() }
    }
}

impl ConnectionPool {
    /// The connections that `dial` opens. Connects when first needed, and again after the upstream was restarted.
    pub fn new(dial: Box<dyn Dial>, sharing: ConnectionSharing) -> Arc<Self> {
        let (shared, users) = (Mutex::default(), watch::Sender::new(0));
        let dial = Box::new(CountedDial::new(dial, &BUILDERS));
        Arc::new(Self { dial, sharing, shared, users })
    }

    /// A connection for a client. A shared one that has been idle is checked first.
    ///
    /// # Errors
    /// When the upstream is not reachable or does not speak HTTP/2.
    pub async fn connect(self: &Arc<Self>) -> Result<PooledConnection, ProxyError> {
        match self.sharing {
            ConnectionSharing::PerClient => {
                let connection = UpstreamConnection::open(&*self.dial).await?;
                Ok(PooledConnection { connection, user: None })
            }
            ConnectionSharing::Shared { .. } => self.usable().await,
        }
    }

    /// The upstream's name, as [`Dial::name`].
    pub fn name(&self) -> String {
        self.dial.name()
    }

    /// The upstream's process, as [`Dial::process`].
    pub async fn process(&self) -> Option<Pid> {
        self.dial.process().await
    }

    /// Checks that the upstream can be connected to; opens nothing that stays open.
    ///
    /// # Errors
    /// As [`ConnectionPool::connect`].
    pub async fn probe(self: &Arc<Self>) -> Result<(), ProxyError> {
        let was_open = self.is_open();
        drop(self.connect().await?);
        if !was_open && *self.users.borrow() == 0 {
            self.close().await;
        }
        Ok(())
    }

    /// The shared connection, after a check that it still works: an idle one may be dead without a sign (a NAT or a load
    /// balancer forgot it, a machine slept), and a call on it would wait in vain.
    async fn usable(self: &Arc<Self>) -> Result<PooledConnection, ProxyError> {
        let Some(held) = self.living().await else { return self.shared(None).await };
        if held.is_fresh() {
            return Ok(held);
        }
        let is_responsive = match self.sharing {
            // A new connection costs less than waiting for a response that does not come.
            ConnectionSharing::PerClient => {
                tokio::time::timeout(PROMPT, health::is_responsive(&held)).await.unwrap_or(false)
            }
            ConnectionSharing::Shared { .. } => health::is_responsive(&held).await,
        };
        if is_responsive { Ok(held) } else { self.shared(Some(held)).await }
    }

    /// The connection that is shared: the one that is there if it still lives and is not `stale`, else a new one.
    async fn shared(self: &Arc<Self>, stale: Option<PooledConnection>) -> Result<PooledConnection, ProxyError> {
        let mut shared = self.shared.lock().await;
        let is_stale =
            |connection: &UpstreamConnection| stale.as_ref().is_some_and(|stale| connection.is(stale.ended()));
        if let Some(connection) = lives(&shared).filter(|connection| !is_stale(connection)) {
            return Ok(self.held(connection.clone()));
        }
        let stream = self.dial.dial().await.map_err(ProxyError::Connect)?;
        let connection = UpstreamConnection::over(self.dial.name(), stream, self.windows()).await?;
        Ok(self.keep(&mut shared, connection))
    }

    /// The shared connection, if there is one and it responds.
    pub async fn present(self: &Arc<Self>) -> Option<PooledConnection> {
        let held = self.living().await?;
        health::is_responsive(&held).await.then_some(held)
    }

    /// The shared connection, if there is one that has not ended.
    async fn living(self: &Arc<Self>) -> Option<PooledConnection> {
        lives(&*self.shared.lock().await).map(|connection| self.held(connection.clone()))
    }

    /// From now on, shares a connection over `stream`, which leads to the same upstream. Users of the previous one keep it.
    ///
    /// # Errors
    /// When it does not speak HTTP/2.
    pub async fn adopt(self: &Arc<Self>, stream: Box<dyn Stream>) -> Result<PooledConnection, ProxyError> {
        let stream = Box::new(BUILDERS.count(stream));
        let connection = UpstreamConnection::over(self.dial.name(), stream, self.windows()).await?;
        Ok(self.keep(&mut *self.shared.lock().await, connection))
    }

    /// Whether a shared connection is open, or is being made.
    pub fn is_open(&self) -> bool {
        let shared = self.shared.try_lock();
        shared.map_or(true, |shared| lives(&shared).is_some())
    }

    /// Closes the shared connection once the calls on it have ended.
    pub async fn close(&self) {
        self.shared.lock().await.take();
    }

    fn keep(
        self: &Arc<Self>,
        shared: &mut Option<UpstreamConnection>,
        connection: UpstreamConnection,
    ) -> PooledConnection {
        *shared = Some(connection.clone());
        let held = self.held(connection.clone());
        if let ConnectionSharing::Shared { idle } = self.sharing {
            let ended = connection.ended().clone();
            tokio::spawn(close_when_idle(Arc::downgrade(self), self.users.subscribe(), ended, idle));
        }
        held
    }

    fn held(self: &Arc<Self>, connection: UpstreamConnection) -> PooledConnection {
        self.users.send_modify(|users| *users += 1);
        PooledConnection { connection, user: Some(User(Arc::clone(self))) }
    }

    fn windows(&self) -> Windows {
        match self.sharing {
            ConnectionSharing::PerClient => Windows::OneClient,
            ConnectionSharing::Shared { .. } => Windows::ManyClients,
        }
    }
}

/// The connection, unless it has ended.
fn lives(shared: &Option<UpstreamConnection>) -> Option<&UpstreamConnection> {
    shared.as_ref().filter(|connection| !connection.ended().is_cancelled())
}

/// Closes the connection of `ended` after `idle` without use, or forgets it when it has ended by itself.
async fn close_when_idle(
    pool: Weak<ConnectionPool>,
    mut users: watch::Receiver<usize>,
    ended: CancellationToken,
    idle: Duration,
) {
    loop {
        let in_use = *users.borrow_and_update() > 0;
        tokio::select! {
            () = ended.cancelled() => {}
            () = tokio::time::sleep(idle), if !in_use => {}
            changed = users.changed() => match changed {
                Ok(()) => continue,
                // The pool is gone, and with it the connection.
                Err(_) => return,
            },
        }
        let Some(pool) = pool.upgrade() else { return };
        let mut shared = pool.shared.lock().await;
        // New users come only under the lock.
        if !ended.is_cancelled() && *users.borrow() > 0 {
            continue;
        }
        if shared.as_ref().is_some_and(|connection| connection.is(&ended)) {
            tracing::debug!(upstream = %pool.dial.name(), ended = ended.is_cancelled(), "shared connection closed");
            *shared = None;
        }
        return;
    }
}

/// Our own gRPC calls on the shared connection of a pool: a service for tonic's clients.
#[derive(Debug, Clone)]
pub struct Calls(Arc<ConnectionPool>);

impl Calls {
    /// Calls on the connections of `pool`.
    pub fn new(pool: Arc<ConnectionPool>) -> Self {
        Self(pool)
    }
}

impl tower::Service<Request<tonic::body::Body>> for Calls {
    type Response = Response<Incoming>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        trace_context::inject(request.headers_mut());
        let pool = Arc::clone(&self.0);
        Box::pin(async move {
            let held = pool.usable().await.map_err(|error| error.status())?;
            let request = request.map(|body| body.map_err(BodyError::from).boxed_unsync());
            held.send(request).await.map_err(|error| error.status())
        })
    }
}

#[cfg(test)]
mod tests;
