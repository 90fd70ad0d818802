//! How many connections a daemon serves.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// The most connections that are served at once, over all doors. A build has two or three; more connections wait in the
/// sockets' queues.
const MAX_CONNECTIONS: usize = 4096;

/// File descriptors of one client connection: its own, and that of the connection to the upstream.
const CONNECTION_DESCRIPTORS: usize = 2;

/// File descriptors that are reserved for everything else: the engine's connections, listeners, the runtime.
const OWN_DESCRIPTORS: usize = 64;

/// Returns how many connections can be served at once. Raises the limit of file descriptors to its maximum: the usual
/// default (1024) is low only because of programs that use select(2), which this one does not.
pub(super) fn capacity() -> usize {
    let Rlimit { mut current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => current = maximum,
        Err(error) => warn!(?current, ?maximum, %error, "the limit of open files cannot be raised"),
    }
    // `None` is no limit.
    let descriptors = current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let capacity = (descriptors.saturating_sub(OWN_DESCRIPTORS) / CONNECTION_DESCRIPTORS).clamp(1, MAX_CONNECTIONS);
    if capacity < MAX_CONNECTIONS {
        info!(capacity, descriptors, "the limit of open files also limits the connections that are served at once");
    }
    capacity
}
