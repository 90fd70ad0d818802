//! What can go wrong at an engine.

mod consequence;
mod docker_api;
mod hint;
mod kind;

pub(crate) use hint::BY_DOCKER;

use std::time::Duration;

use crate::image::{Digest, GraphError};
use crate::net::Barrier;

/// An engine's refusal, in a form that callers can act on.
///
/// The message says what happened to which thing; [`EngineError::hint`] says what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine's address refuses connections.
    #[error("{engine} does not respond at {address}: {reason}")]
    Unreachable {
        /// `docker` or `containerd`.
        engine: &'static str,
        /// Where it was expected.
        address: String,
        /// The error of the connection attempt.
        reason: String,
    },
    /// The engine's socket is there, but this process may not use it.
    #[error("no permission to use {engine} at {address}{}", barrier(address))]
    Permission {
        /// `docker` or `containerd`.
        engine: &'static str,
        /// The socket.
        address: String,
    },
    /// The engine's address is of a kind that a direct export cannot use.
    #[error("{engine} at {address} cannot be exported to directly: {reason}")]
    Address {
        /// `docker` or `containerd`.
        engine: &'static str,
        /// The address as configured.
        address: String,
        /// Why it does not do, and what would.
        reason: &'static str,
    },
    /// dockerd keeps images in its classic store, out of reach of containerd.
    #[error("docker {version} at {address} uses the classic image store (`{driver}`), not the containerd image store")]
    ClassicStore {
        /// The Docker socket.
        address: String,
        /// dockerd's version.
        version: String,
        /// The graph driver in use.
        driver: String,
    },
    /// dockerd keeps images in containerd, and not in its classic store.
    #[error("docker {version} at {address} uses the containerd image store (`{snapshotter}`), not the classic one")]
    ContainerdStore {
        /// The Docker socket.
        address: String,
        /// dockerd's version.
        version: String,
        /// The snapshotter in use.
        snapshotter: String,
    },
    /// The image is none that the engine can hold.
    #[error("{root} cannot be loaded: {reason}")]
    Unsuitable {
        /// The image's root.
        root: Digest,
        /// What is wrong with it, what was expected, and what to do.
        reason: String,
    },
    /// No containerd could be shown to be the one that dockerd uses.
    #[error("docker at {docker} says that it uses {expected}, but {found}")]
    NotProven {
        /// The Docker socket.
        docker: String,
        /// What dockerd reports of its containerd.
        expected: String,
        /// What was found at each address that was tried.
        found: String,
    },
    /// The namespace cannot be used.
    #[error("namespace `{namespace}` cannot be used: {reason}")]
    Namespace {
        /// The namespace as configured.
        namespace: String,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// The engine lacks the snapshotter that its images would be unpacked with.
    #[error("{engine} at {address} has no usable snapshotter `{snapshotter}`: {reason}")]
    Snapshotter {
        /// `docker` or `containerd`.
        engine: &'static str,
        /// Its socket.
        address: String,
        /// The requested snapshotter.
        snapshotter: String,
        /// The response of the introspection.
        reason: String,
    },
    /// The engine's disk is full.
    #[error("the engine's disk is full: {operation}: {message}")]
    NoSpace {
        /// What was being done.
        operation: String,
        /// The message of the engine.
        message: String,
    },
    /// The disk of a layout is full.
    #[error("the disk of the layout {path} is full: {operation}: {message}")]
    LayoutFull {
        /// The layout.
        path: String,
        /// What was being done.
        operation: String,
        /// The message of the system.
        message: String,
    },
    /// The bytes are not what their descriptor says.
    #[error("{digest} is corrupt: {reason}")]
    Corrupt {
        /// The digest that was expected.
        digest: Digest,
        /// The message of the store.
        reason: String,
    },
    /// What the store holds under the image is not an image within the limits.
    #[error("the engine's own copy of the image is not usable: {0}")]
    Graph(#[from] GraphError),
    /// A layer cannot be unpacked.
    #[error("layer {layer} cannot be unpacked: {reason}")]
    Unpack {
        /// The layer's blob.
        layer: Digest,
        /// The message of the engine.
        reason: String,
    },
    /// The engine refused to make the image visible.
    #[error("{engine} refused the image: {reason}")]
    Commit {
        /// `docker` or `containerd`.
        engine: &'static str,
        /// The engine's own words.
        reason: String,
    },
    /// Blobs that must be there are not.
    #[error("the engine lacks {}", list(digests))]
    Missing {
        /// Which blobs.
        digests: Vec<Digest>,
    },
    /// Blobs that the engine had when the export was planned have gone since then. Another plan of the same export
    /// takes notice of that.
    #[error("the engine lacks {}, which it had when the export began", list(digests))]
    Vanished {
        /// Which blobs, as far as the engine named them.
        digests: Vec<Digest>,
    },
    /// The lease that protects the export is gone.
    #[error("the lease {lease} is gone: it was deleted from outside, or the engine lost its state")]
    LeaseLost {
        /// The lease's id.
        lease: String,
    },
    /// A build cache cannot be stored, or deleted, as it was requested.
    #[error("the cache `{reference}` is not possible: {reason}")]
    Cache {
        /// Its ref, cut to 80 characters.
        reference: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A layout directory cannot be used, or its file system refuses.
    #[error("layout {path}: {reason}")]
    Layout {
        /// The directory.
        path: String,
        /// What is wrong, what was expected, and what to do.
        reason: String,
    },
    /// An object store refuses, or cannot be reached.
    #[error("{operation} {object}: {reason}")]
    Object {
        /// What was being done, as `writing`.
        operation: &'static str,
        /// The object, as `s3://bucket/key`.
        object: String,
        /// The words of the store.
        reason: String,
        /// What to do about it, where that is known.
        hint: Option<&'static str>,
    },
    /// The nodes of a cluster cannot be found, or not all of them can be used.
    #[error("{cluster}: {reason}")]
    Cluster {
        /// Its address.
        cluster: String,
        /// What is wrong.
        reason: String,
        /// What to do about it, or what there is.
        hint: Option<String>,
        /// Whether it passes by itself where the cluster is just starting.
        is_passing: bool,
    },
    /// One node of a cluster failed, and so nothing is visible on any.
    #[error("node {node}: {error}")]
    Node {
        /// The node.
        node: String,
        /// What happened there.
        error: Box<EngineError>,
    },
    /// A node of a cluster failed while names were set, and some of these could not be taken back.
    #[error("{error}; names of the image may be left on {}", nodes.join(", "))]
    NamedOnSome {
        /// What happened.
        error: Box<EngineError>,
        /// The nodes that may have some of the image's names.
        nodes: Vec<String>,
    },
    /// A commit failed, or was cancelled, after dockerd may have set names, and these could not be given back.
    #[error("{error}; {} may point to {root} now, or be gone", names.join(", "))]
    NamesLeft {
        /// What happened.
        error: Box<EngineError>,
        /// The names, as docker shows them.
        names: Vec<String>,
        /// The root of the image.
        root: Digest,
    },
    /// An engine is installed and not running: its user would not find what was written elsewhere.
    #[error("{engine} is installed here ({trace}), but nothing is at {docker} or {containerd}")]
    Stopped {
        /// `docker` or `containerd`.
        engine: &'static str,
        /// What says so: a program, a unit of systemd, or a socket in another place.
        trace: String,
        /// Where docker was expected.
        docker: String,
        /// Where containerd was expected.
        containerd: String,
    },
    /// The engine has no such ability.
    #[error("{engine} does not offer {what}")]
    NotOffered {
        /// The engine's kind.
        engine: &'static str,
        /// What was requested.
        what: &'static str,
    },
    /// The engine has a collector of its own.
    #[error("{engine} is not collected by `linkspan gc`")]
    Collects {
        /// The engine's kind.
        engine: &'static str,
        /// Who collects there, and what removes images.
        who: &'static str,
    },
    /// Another client writes the same thing at this moment.
    #[error("{what} is being written by another client")]
    Busy {
        /// What is written.
        what: String,
    },
    /// The engine has the blob already, so it need not be written.
    #[error("the engine has {digest} already")]
    Present {
        /// The blob.
        digest: Digest,
    },
    /// What was given cannot be the ref of an ingest.
    #[error("`{reference}` cannot be a ref: expected 1 to {limit} bytes without control characters")]
    IngestRef {
        /// The ref, cut to 80 characters.
        reference: String,
        /// The most bytes of a ref.
        limit: usize,
    },
    /// A name points to something else than was expected when it was to be set or removed. It stays as it is.
    #[error("the name `{name}` {}", current.as_ref().map_or_else(|| "does not exist".to_owned(), |it| format!("points to {it}")))]
    NameMoved {
        /// The name in full.
        name: String,
        /// What it points to now.
        current: Option<Digest>,
    },
    /// The Linkspan daemon in front of the engine refused, or the connection to it was lost.
    #[error("{message}")]
    Daemon {
        /// Its own words, or what happened to the connection.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// Whether it went away: an export that was open is still there when it comes back.
        is_lost: bool,
    },
    /// A daemon's socket accepts connections, and nothing comes from it.
    #[error("the daemon at {address} accepts connections and does not answer: it is stopped or overloaded")]
    NoAnswer {
        /// Its address.
        address: String,
    },
    /// The engine did not respond in time.
    #[error("{operation}: no response within {} s", after.as_secs())]
    Timeout {
        /// The operation.
        operation: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Any other refusal.
    #[error("{operation} failed: {message} ({code:?})")]
    Rpc {
        /// The operation.
        operation: String,
        /// The gRPC status.
        code: tonic::Code,
        /// The message of the engine.
        message: String,
    },
    /// The engine responded with something that its protocol does not allow.
    #[error("{operation}: unexpected response: {reason}")]
    Protocol {
        /// The operation.
        operation: String,
        /// What was wrong with the response.
        reason: String,
    },
}

/// What a store of buckets is called that does not respond.
pub(crate) const OBJECT_STORE: &str = "the object store";

/// What a daemon is called that lacks an ability.
pub(crate) const REMOTE: &str = "the exporter API";

/// What keeps this process from a socket, where that is a folder: whether it is there is not known then.
fn barrier(address: &str) -> String {
    match Barrier::at(address) {
        barrier @ Barrier::Folder(_) => barrier.to_string(),
        _ => String::new(),
    }
}

/// At most five digests, and how many more there are.
fn list(digests: &[Digest]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = digests.iter().take(SHOWN).map(Digest::as_str).collect();
    let rest = digests.len().saturating_sub(SHOWN);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let digests: Vec<_> = (0..7u8).map(|n| Digest::sha256(&[n])).collect();
        let message = EngineError::Missing { digests: digests.clone() }.to_string();
        assert!(message.contains(digests[4].as_str()) && !message.contains(digests[5].as_str()), "{message}");
        assert!(message.ends_with(" and 2 more"), "{message}");
    }
}
