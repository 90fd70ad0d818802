//! Lazy imports: a registry of a few routes on the builder's own loopback.
//!
//! A builder that imports with `type=local` reads and extracts the layers of a hit at once, and locks its whole cache
//! meanwhile (BuildKit `cache/manager.go`, `unlazy`). With `type=registry` it reads a layer only when something needs it. So a
//! builder on this host gets its imports from an address that only its own network namespace has. Steps of a build may run in
//! the same namespace; so the registry requires a password, which the builder requests from its client's session, where we respond.

mod credentials;
mod namespace;
mod serve;

use std::any::Any;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::stored::Stored;
use crate::caches::{CacheRef, ResolvedPart};
use crate::http2::ConnectionPool;
use crate::image::Digest;
pub(super) use credentials::CREDENTIALS;
use credentials::Password;
use namespace::Namespace;

/// How long imports stay readable after their build: a concurrent build may share its steps.
const GRACE: Duration = Duration::from_secs(600);

/// The interval at which imports of builds that have ended are dropped.
const SWEEP: Duration = Duration::from_secs(30);

/// The largest document that a builder imports from a registry (BuildKit `cache/remotecache/import.go`, `readBlob`).
const MAX_DOCUMENT_BYTES: u64 = 1 << 20;

/// How many imports can be read. Beyond that the oldest goes whose build has ended; none of a build that runs.
const MAX_OFFERS: usize = 256;

/// The address, as builders name it. They speak HTTP without TLS to it, and use no proxy (containerd
/// `core/remotes/docker`, `MatchLocalhost`).
const LOOPBACK: &str = "127.0.0.1";

/// The registry of one builder.
#[derive(Debug)]
pub(super) struct Loopback {
    connections: Arc<ConnectionPool>,
    /// Why the last import was not lazy: a reason is logged once.
    refusal: Mutex<Option<String>>,
    offers: Offers,
    listener: Arc<AsyncMutex<Option<Listener>>>,
}

/// What can be read.
type Offers = Arc<Mutex<Vec<Offer>>>;

/// Can be upgraded as long as the build runs.
type RunningBuild = Weak<dyn Any + Send + Sync>;

/// What one build imports of one cache.
#[derive(Debug)]
struct Offer {
    repository: String,
    /// The session of the build's client, in which the builder may request the password.
    session: String,
    stored: Arc<Stored>,
    build: RunningBuild,
    ended: Option<Instant>,
}

/// The socket in a builder's network namespace, and what serves it.
#[derive(Debug)]
struct Listener {
    namespace: Namespace,
    port: u16,
    password: Arc<Password>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Loopback {
    /// A registry for the builder behind `connections`. It listens from the first import on.
    pub(super) fn new(connections: Arc<ConnectionPool>) -> Self {
        let (refusal, offers, listener) = Default::default();
        Self { connections, refusal, offers, listener }
    }

    /// Lets the builder read `parts` of the cache `name` from `stored`, while `build`, of the client's session `session`, runs and a
    /// while longer. Returns the repository, as in `127.0.0.1:40001/<cache>`; `None` if the builder cannot import them from a registry.
    pub(super) async fn offer(
        &self,
        name: &CacheRef,
        parts: &[ResolvedPart],
        stored: &Arc<Stored>,
        session: &str,
        build: RunningBuild,
    ) -> Option<String> {
        let is_small =
            |part: &ResolvedPart| part.listed.config.size.max(part.root.descriptor.size) <= MAX_DOCUMENT_BYTES;
        if parts.is_empty() || !parts.iter().all(is_small) {
            return None;
        }
        let port = self.port().await?;
        // The same for every build, because a builder notes with each blob the repositories that have it. The name of a cache
        // may have characters that a repository's has not.
        let repository = Digest::sha256(name.as_str().as_bytes()).short().to_owned();
        // By its number: another process could listen on the same port of `::1`, which `localhost` may be as well.
        let address = format!("{LOOPBACK}:{port}/{repository}");
        let mut offers = lock(&self.offers);
        if offers.len() >= MAX_OFFERS
            && let Some(oldest) = offers.iter().position(|offer| offer.build.strong_count() == 0)
        {
            offers.remove(oldest);
        }
        offers.push(Offer { repository, session: session.to_owned(), stored: stored.clone(), build, ended: None });
        Some(address)
    }

    /// The port on the builder's loopback; `None` if the builder is not on this host or its network cannot be entered.
    async fn port(&self) -> Option<u16> {
        let process = self.connections.process().await;
        let mut listener = self.listener.lock().await;
        let opened = async {
            let process = process.ok_or_else(|| io::Error::other("it is not known to run on this host"))?;
            let namespace = Namespace::of_builder(process)?;
            match &*listener {
                // A builder that was restarted may have another one.
                Some(open) if open.namespace == namespace => Ok(open.port),
                _ => Ok(listener.insert(self.listen(namespace).await?).port),
            }
        };
        let refused = |error: &io::Error| {
            let reason = Some(error.to_string());
            let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            if *refusal != reason {
                tracing::warn!(%error, builder = self.connections.name(), "cache imports are not lazy for this builder");
                *refusal = reason;
            }
        };
        opened.await.inspect_err(refused).ok()
    }

    async fn listen(&self, namespace: Namespace) -> io::Result<Listener> {
        let password = Arc::new(Password::new()?);
        let socket = namespace.listen().await?;
        let port = socket.local_addr()?.port();
        tracing::info!(port, "lazy cache imports: listening on the builder's loopback");
        let serve = tokio::spawn(serve::serve(socket, password.clone(), self.offers.clone()));
        let sweep = tokio::spawn(sweep(self.offers.clone()));
        Ok(Listener { namespace, port, password, _tasks: [serve, sweep].map(AbortOnDropHandle::new) })
    }
}

fn lock(offers: &Offers) -> MutexGuard<'_, Vec<Offer>> {
    offers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops what was imported by builds that ended a while ago.
async fn sweep(offers: Offers) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let now = Instant::now();
        lock(&offers).retain_mut(|offer| {
            if offer.build.strong_count() > 0 {
                return true;
            }
            now - *offer.ended.get_or_insert(now) < GRACE
        });
    }
}
