//! Letting clients in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::listen::{Socket, Stream};
use crate::door::buildkit::Door;

/// The pause after an accept that failed for want of resources: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// One door and all that a connection through it needs.
pub(super) struct Gate {
    pub(super) door: Arc<Door>,
    /// One for each connection that may be open.
    pub(super) permits: Arc<Semaphore>,
    /// Every open connection.
    pub(super) connections: TaskTracker,
    /// No new connections, no new requests.
    pub(super) drain: CancellationToken,
    /// No connections.
    pub(super) cut: CancellationToken,
}

impl Gate {
    /// Accepts connections from `socket` until the drain begins; then the socket is closed.
    pub(super) async fn keep(self, socket: Socket) {
        tokio::select! {
            () = self.drain.cancelled() => {}
            never = self.accept(&socket) => match never {},
        }
    }

    async fn accept(&self, socket: &Socket) -> std::convert::Infallible {
        let mut pause = PAUSES.0;
        loop {
            let permit = self.permit().await;
            match socket.accept().await {
                Ok(stream) => {
                    pause = PAUSES.0;
                    self.serve(stream, permit);
                }
                // The client was gone before we turned to it.
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

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        warn!(open = self.connections.len(), "as many connections as can be are open; new ones wait");
        // Fails only on a closed semaphore, and this one is never closed.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    fn serve(&self, stream: Stream, permit: Option<OwnedSemaphorePermit>) {
        let (door, drain, cut) = (Arc::clone(&self.door), self.drain.clone(), self.cut.clone());
        self.connections.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = async {
                    match stream {
                        Stream::Unix(stream) => door.serve(stream, drain).await,
                        Stream::Tcp(stream) => door.serve(stream, drain).await,
                    }
                } => {}
            }
            drop(permit);
        });
    }
}

/// Whether an accept failed for a reason that lies in the one connection: see accept(2), "Error handling".
fn is_the_clients(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::CONNABORTED | Errno::CONNRESET | Errno::PROTO | Errno::PERM | Errno::INTR))
}
