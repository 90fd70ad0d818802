//! Connections to a dockerd on another host that wait for their next request: each costs a handshake of TLS or ssh.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::connection::Connection;

/// The most connections that wait.
const MAX_IDLE: usize = 4;
/// How long a connection waits: as long as the execs in builders, so that a build soon after another one has no handshake.
const IDLE: Duration = Duration::from_secs(120);
/// How long the end of the last response may take until the next request can be sent; it has been read already.
const READY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<(Connection, Instant)>>);

impl Pool {
    /// A connection that is still open, the one that was used last.
    pub(super) async fn take(&self) -> Option<Connection> {
        loop {
            let (mut connection, _) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if let Ok(Ok(())) = timeout(READY, connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    /// Keeps `connection`, whose response has been read whole, for a while.
    pub(super) fn put(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.sender.is_closed() || idle.len() >= MAX_IDLE {
            return;
        }
        idle.push((connection, Instant::now() + IDLE));
        tokio::spawn(expire(Arc::downgrade(self)));
    }
}

/// Closes what has waited for too long, after the wait of a connection that was kept just now.
async fn expire(pool: Weak<Pool>) {
    sleep(IDLE).await;
    if let Some(pool) = pool.upgrade() {
        let now = Instant::now();
        pool.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, until)| *until > now);
    }
}
