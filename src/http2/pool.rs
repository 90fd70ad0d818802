//! The connections to one upstream: one for each client, or one that all of them share.
//!
//! A socket costs nothing, so each client gets a connection of its own and the upstream sees it come and go. A process in a
//! container costs a tenth of a second to start, so there one connection serves everybody, and waits for the next a while.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::body::BodyError;
use super::connection::{ProxyError, UpstreamConnection, Windows};
use super::health;
use crate::net::{Dial, Stream};

/// Who uses a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// PerClient client has its own; our own calls share another, which stays open.
    PerClient,
    /// Clients and our own calls share one, which is closed when nobody has used it for `idle`.
    Shared {
        /// How long it waits for the next use.
        idle: Duration,
    },
}

/// How soon a connection over a socket has to answer; otherwise a new one is made, which is quick.
const PROMPT: Duration = Duration::from_millis(500);

/// The connections to one upstream.
#[derive(Debug)]
pub struct ConnectionPool {
    dial: Box<dyn Dial>,
    sharing: Sharing,
    /// Locked while it is being made: whoever comes meanwhile waits for the same.
    shared: Mutex<Option<UpstreamConnection>>,
    /// How many hold the shared connection.
    users: watch::Sender<usize>,
}

/// A connection in use.
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
    /// A link to where `dial` leads. Connects when first needed, and again when the upstream was restarted.
    pub fn new(dial: Box<dyn Dial>, sharing: Sharing) -> Arc<Self> {
        let (shared, users) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { dial, sharing, shared, users })
    }

    /// A connection for a client. One that is there already is asked first whether it still leads anywhere.
    ///
    /// # Errors
    /// When the upstream is not reachable or does not speak HTTP/2.
    pub async fn connect(self: &Arc<Self>) -> Result<PooledConnection, ProxyError> {
        match self.sharing {
            Sharing::PerClient => {
                let connection = UpstreamConnection::open(&*self.dial).await?;
                Ok(PooledConnection { connection, user: None })
            }
            Sharing::Shared { .. } => self.usable().await,
        }
    }

    /// Connects once, to see whether that is possible, and keeps nothing.
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

    /// The shared connection, which has just been seen to lead somewhere: one that has waited may be dead without our
    /// having been told (a NAT or a load balancer forgot it, a machine slept), and a call on it would wait in vain.
    async fn usable(self: &Arc<Self>) -> Result<PooledConnection, ProxyError> {
        let Some(held) = self.living().await else { return self.shared(None).await };
        if held.is_fresh() {
            return Ok(held);
        }
        let answers = match self.sharing {
            // A new connection costs less than waiting for an answer that does not come.
            Sharing::PerClient => tokio::time::timeout(PROMPT, health::answers(&held)).await.unwrap_or(false),
            Sharing::Shared { .. } => health::answers(&held).await,
        };
        if answers { Ok(held) } else { self.shared(Some(held)).await }
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

    /// The shared connection, if there is one and it answers.
    pub async fn present(self: &Arc<Self>) -> Option<PooledConnection> {
        let held = self.living().await?;
        health::answers(&held).await.then_some(held)
    }

    /// The shared connection, if there is one that has not ended.
    async fn living(self: &Arc<Self>) -> Option<PooledConnection> {
        lives(&*self.shared.lock().await).map(|connection| self.held(connection.clone()))
    }

    /// Shares a connection over `stream`, which leads to the same upstream, from now on. Whoever holds the one before
    /// keeps it.
    ///
    /// # Errors
    /// When it does not speak HTTP/2.
    pub async fn adopt(self: &Arc<Self>, stream: Box<dyn Stream>) -> Result<PooledConnection, ProxyError> {
        let connection = UpstreamConnection::over(self.dial.name(), stream, self.windows()).await?;
        Ok(self.keep(&mut *self.shared.lock().await, connection))
    }

    /// Whether there is a shared connection that lives, or one is being made.
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
        if let Sharing::Shared { idle } = self.sharing {
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
            Sharing::PerClient => Windows::OneClient,
            Sharing::Shared { .. } => Windows::ManyClients,
        }
    }
}

/// The connection, unless it has ended.
fn lives(shared: &Option<UpstreamConnection>) -> Option<&UpstreamConnection> {
    shared.as_ref().filter(|connection| !connection.ended().is_cancelled())
}

/// Forgets the connection of `ended` when nobody has used it for `idle`, or when it has ended by itself.
async fn close_when_idle(
    link: Weak<ConnectionPool>,
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
                // The link is gone, and with it the connection.
                Err(_) => return,
            },
        }
        let Some(link) = link.upgrade() else { return };
        let mut shared = link.shared.lock().await;
        // New users come only under the lock.
        if !ended.is_cancelled() && *users.borrow() > 0 {
            continue;
        }
        if shared.as_ref().is_some_and(|connection| connection.is(&ended)) {
            tracing::debug!(upstream = %link.dial.name(), ended = ended.is_cancelled(), "shared connection closed");
            *shared = None;
        }
        return;
    }
}

/// Our own gRPC calls on the shared connection of a link: a service for tonic's clients.
#[derive(Debug, Clone)]
pub struct Calls(Arc<ConnectionPool>);

impl Calls {
    /// Calls to where `link` leads.
    pub fn new(link: Arc<ConnectionPool>) -> Self {
        Self(link)
    }
}

impl tower::Service<Request<tonic::body::Body>> for Calls {
    type Response = Response<Incoming>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let link = Arc::clone(&self.0);
        Box::pin(async move {
            let held = link.usable().await.map_err(|error| error.status())?;
            let request = request.map(|body| body.map_err(BodyError::from).boxed_unsync());
            held.send(request).await.map_err(|error| error.status())
        })
    }
}

#[cfg(test)]
mod tests;
