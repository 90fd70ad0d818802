//! How many connections may be open: of all doors, of a transport, and of one door.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::daemon::listen::Transport;

/// One permit for each connection that may be open. Connections over TCP take a quarter of them at most, and those with TLS
/// another quarter: any user of this machine can open the first, and other machines the second, before they have shown who they
/// are. The rest is for unix sockets.
#[derive(Debug, Clone)]
pub(super) struct Permits {
    all: Arc<Semaphore>,
    tcp: Arc<Semaphore>,
    tls: Arc<Semaphore>,
}

/// A permit for one connection.
pub(super) type Permit = (Vec<OwnedSemaphorePermit>, OwnedSemaphorePermit);

/// The limits that the connections of one door are under, beside that of all.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) transport: Transport,
    /// The part of all connections that those of a transport take.
    shared: Option<Arc<Semaphore>>,
    /// The door's own.
    own: Option<Arc<Semaphore>>,
    all: Arc<Semaphore>,
}

impl Permits {
    pub(super) fn new(connections: usize) -> Self {
        let part = || Arc::new(Semaphore::new(connections.div_ceil(4)));
        Self { all: Arc::new(Semaphore::new(connections)), tcp: part(), tls: part() }
    }

    /// The part that connections of a transport take.
    fn part(&self, transport: Transport) -> Option<&Arc<Semaphore>> {
        match transport {
            Transport::Unix => None,
            Transport::Tcp => Some(&self.tcp),
            Transport::Tls => Some(&self.tls),
        }
    }

    pub(super) fn of(&self, transport: Transport, most: Option<usize>) -> Parts {
        Parts {
            transport,
            shared: self.part(transport).cloned(),
            own: most.map(|most| Arc::new(Semaphore::new(most))),
            all: self.all.clone(),
        }
    }
}

impl Parts {
    pub(super) fn try_acquire(&self) -> Option<Permit> {
        let narrow = self.own.iter().chain(&self.shared);
        let narrow = narrow.map(|part| part.clone().try_acquire_owned().ok()).collect::<Option<_>>()?;
        Some((narrow, self.all.clone().try_acquire_owned().ok()?))
    }

    /// `None` only if a semaphore were closed, which none ever is.
    pub(super) async fn acquire(&self) -> Option<Permit> {
        let mut narrow = Vec::new();
        for part in self.own.iter().chain(&self.shared) {
            narrow.push(part.clone().acquire_owned().await.ok()?);
        }
        Some((narrow, self.all.clone().acquire_owned().await.ok()?))
    }

    /// Whether there is room again when a connection of `door`, which is one of `transport`, ends; asked for one of `of`.
    pub(super) fn gain_by(&self, of: &'static str, (door, transport): (&'static str, Transport)) -> bool {
        let is_full = |part: &Option<Arc<Semaphore>>| part.as_ref().is_some_and(|part| part.available_permits() == 0);
        match (is_full(&self.own), is_full(&self.shared)) {
            (true, _) => of == door,
            (false, true) => self.transport == transport,
            (false, false) => true,
        }
    }
}
