//! A Linkspan daemon as an engine: the exporter API (`proto/README.md`), spoken from the client's side.
//!
//! [`connect`] gives an [`Engine`], so that whatever exports into an engine or reads one does the same through a daemon:
//! a plan is Negotiate, a blob is Content.Write within the export, the commit is Commit, and what is read comes from
//! References. An export is opened when its image is known, because one that an earlier process left behind is resumed
//! (`lease.rs`).
//!
//! Build caches have an API of their own, for which the commands have their own client: here are only its connection and
//! the blobs of it (`CacheBlobs`).
//!
//! What differs from an engine at hand: names that the daemon does not allow are refused before anything is sent, because
//! its policy is requested first ([`Connected::allowed_names`]), and once more by the daemon when they are set.

mod address;
mod cache_blobs;
mod claim;
mod connection;
mod failure;
mod images;
mod lease;
mod lease_trait;
mod transaction;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;

use crate::engine::caches::CacheStore;
use crate::engine::error::REMOTE;
use crate::engine::images::{Images, Record};
use crate::engine::{
    Engine, EngineError, EngineKind, Identity, Lease, Lifetime, Origin, PersistentLeases, Storage, StoredBlobs,
};
use crate::export_v1::proto::{CapabilitiesRequest, CapabilitiesResponse};
use crate::image::{Descriptor, Reference};

pub use address::{DaemonAddress, DaemonAddressError};
pub(crate) use cache_blobs::{CacheBlobs, HOLD_TTL};
pub use connection::{Calls, Credentials, Daemon, DaemonConnection, Login};
use images::RemoteImages;
pub(crate) use lease::READS;
use lease::RemoteLease;

/// The feature of servers whose images can be read.
const REFERENCES: &str = "references";

/// A daemon that responded.
#[derive(Debug, Clone)]
pub struct Connected {
    /// Its engine, as one of ours.
    pub engine: Arc<dyn Engine>,
    /// Patterns of the names that it lets clients set; none is all.
    pub allowed_names: Vec<String>,
    /// Whether it lets a name move to another image.
    pub allow_tag_move: bool,
}

/// Connects to the door of the exporter API of `daemon` and queries what is behind it.
///
/// # Errors
/// [`EngineError::Daemon`] when the connection fails, when it is no such door, or when it is on another machine and
/// there is no TLS.
pub async fn connect(daemon: &Daemon) -> Result<Connected, EngineError> {
    let connection = DaemonConnection::open(daemon).await?;
    let call = async { connection.exports().capabilities(CapabilitiesRequest {}).await };
    let capabilities = connection.unary("asking what it can do", call).await?;
    let names = capabilities.names.clone().unwrap_or_default();
    // A server that says nothing about names lets them all be set; `may_move` is then not to be read.
    let allow_tag_move = capabilities.names.is_none() || names.may_move;
    let engine = Arc::new(RemoteEngine::new(connection, &capabilities));
    Ok(Connected { engine, allowed_names: names.allowed, allow_tag_move })
}

/// The engine behind a daemon.
#[derive(Debug)]
struct RemoteEngine {
    connection: DaemonConnection,
    identity: Identity,
    /// How many descriptors go into one message of Negotiate.
    descriptors: usize,
    is_readable: bool,
}

impl RemoteEngine {
    fn new(connection: DaemonConnection, capabilities: &CapabilitiesResponse) -> Self {
        let engine = capabilities.engine.clone().unwrap_or_default();
        let storage = match engine.namespace.is_empty() {
            false => Storage::Containerd {
                namespace: engine.namespace,
                snapshotter: engine.snapshotter,
                parallel_unpack: false,
            },
            true if engine.kind == EngineKind::Object.name() => Storage::Bucket {},
            true => Storage::Directory {},
        };
        let identity = Identity {
            kind: engine.kind.parse().unwrap_or_default(),
            version: engine.version,
            address: connection.address().to_owned(),
            storage,
        };
        let limit = capabilities.limits.as_ref().map_or(0, |limits| limits.negotiate_descriptors);
        let descriptors = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let is_readable = capabilities.features.iter().any(|feature| feature == REFERENCES);
        Self { connection, identity, descriptors: descriptors.min(lease::MAX_DESCRIPTORS), is_readable }
    }

    /// Its images, if the daemon lets them be read.
    fn readable(&self) -> Option<RemoteImages> {
        let is_layout = self.identity.kind == EngineKind::Layout;
        self.is_readable.then(|| RemoteImages::new(self.connection.clone(), is_layout))
    }
}

#[async_trait]
impl Engine for RemoteEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Never known here: the daemon finds out at the commit, which then changes nothing.
    async fn already_complete(&self, _root: &Descriptor, _names: &[Reference]) -> Result<Option<usize>, EngineError> {
        Ok(None)
    }

    /// Nothing is requested from the daemon before the image is known.
    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        if let Lifetime::Durable { .. } = lifetime {
            return Err(EngineError::NotOffered { engine: REMOTE, what: "an export that outlives a restart" });
        }
        let (connection, images) = (self.connection.clone(), self.readable());
        Ok(Arc::new(RemoteLease::new(connection, origin.clone(), self.descriptors, images)))
    }

    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        match self.readable() {
            Some(images) => Ok(Arc::new(images)),
            None => Err(EngineError::NotOffered { engine: self.identity.kind.name(), what: "reading its images" }),
        }
    }

    fn caches(&self) -> Result<Arc<dyn CacheStore>, EngineError> {
        Err(EngineError::NotOffered { engine: REMOTE, what: "build caches" })
    }

    async fn remove(&self, _: &Record, _: bool) -> Result<(), EngineError> {
        Err(EngineError::NotOffered { engine: REMOTE, what: "removing images" })
    }

    /// The daemon does it.
    async fn recover(&self) -> Result<usize, EngineError> {
        Ok(0)
    }

    /// The daemon keeps them.
    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        None
    }

    /// Archives are loaded where the engine is.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }
}
