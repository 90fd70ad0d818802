//! Connections to builders in containers, one for each container and process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use rustix::process::Pid;

use super::Services;
use super::deferred_execs::DeferredExecs;
use super::exec::Process;
use crate::docker_api::Api;
use crate::http2::{BuilderService, ConnectionPool, ConnectionSharing, PooledConnection, ProxyError};
use crate::net::{Dial, DialError, Stream};

/// Each costs a process in its container while it is kept. Further builders are served as without us.
const MAX_ENTRIES: usize = 64;

/// The pool's key: the container's id and the process that runs in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) container: String,
    pub(super) process: Process,
}

/// The builders that are in use, or were a moment ago.
pub(super) struct Pool {
    services: Services,
    keep: Duration,
    docker: Arc<Api>,
    entries: Arc<Entries>,
}

type Entries = Mutex<HashMap<Key, Arc<Entry>>>;

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("keep", &self.keep).field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// One builder. Its service keeps state of running builds, so all clients share it.
#[derive(Debug)]
pub(super) struct Entry {
    connections: Arc<ConnectionPool>,
    pub(super) service: Arc<dyn BuilderService>,
    pub(super) deferred: Arc<DeferredExecs>,
}

impl Pool {
    pub(super) fn new(services: Services, keep: Duration, docker: Arc<Api>) -> Self {
        Self { services, keep, docker, entries: Arc::default() }
    }

    /// The builder of `key`, which clients call `name`; `None` if there are too many.
    pub(super) fn entry(&self, key: &Key, name: &str) -> Option<Arc<Entry>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            return Some(Arc::clone(entry));
        }
        // Entries that never got a connection have no event that would remove them.
        entries.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.connections.is_open());
        if entries.len() >= MAX_ENTRIES {
            tracing::warn!(
                builder = name,
                "more than {MAX_ENTRIES} builders are in use: this one exports as without us"
            );
            return None;
        }
        let dial = NoDial { name: name.to_owned(), container: key.container.clone(), docker: Arc::clone(&self.docker) };
        let connections = ConnectionPool::new(Box::new(dial), ConnectionSharing::Shared { idle: self.keep });
        let service = (self.services)(name.to_owned(), Arc::clone(&connections));
        let entry =
            Arc::new(Entry { connections, service, deferred: Arc::new(DeferredExecs::new(Arc::clone(&self.docker))) });
        entries.insert(key.clone(), Arc::clone(&entry));
        Some(entry)
    }

    /// Makes `entry`'s clients share a connection over `stream`, until it ends or is no longer used.
    pub(super) async fn adopt(
        &self,
        key: Key,
        entry: &Arc<Entry>,
        stream: Box<dyn Stream>,
    ) -> Result<PooledConnection, ProxyError> {
        let held = entry.connections.adopt(stream).await?;
        let (entries, entry, ended) = (Arc::downgrade(&self.entries), Arc::clone(entry), held.ended().clone());
        tokio::spawn(async move {
            ended.cancelled().await;
            entry.forget(&key, &entries);
            entry.deferred.start().await;
        });
        Ok(held)
    }

    /// Closes every connection once its calls have ended, and starts the deferred execs.
    pub(super) async fn close(&self) {
        let entries = std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner));
        join_all(entries.into_values().map(|entry| async move {
            entry.connections.close().await;
            entry.deferred.start().await;
        }))
        .await;
    }
}

impl Entry {
    /// The open connection, if its builder responds.
    pub(super) async fn present(&self) -> Option<PooledConnection> {
        self.connections.present().await
    }

    /// Removes the entry from the pool, unless it has another connection by now.
    fn forget(self: &Arc<Self>, key: &Key, entries: &Weak<Entries>) {
        let Some(entries) = entries.upgrade() else { return };
        let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.connections.is_open() && entries.get(key).is_some_and(|entry| Arc::ptr_eq(entry, self)) {
            entries.remove(key);
        }
    }
}

/// Dials for a builder whose exec has ended: always fails, because only a client's next exec opens a connection.
#[derive(Debug)]
struct NoDial {
    name: String,
    container: String,
    docker: Arc<Api>,
}

#[async_trait]
impl Dial for NoDial {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        Err(format!("{}: the connection has ended", self.name).into())
    }

    async fn process(&self) -> Option<Pid> {
        self.docker.process_of(&self.container).await
    }
}
