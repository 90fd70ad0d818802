//! What is done in the name of a lease.

use super::client::Client;
use super::discover::Server;
use super::lease_calls;
use super::unpack::Snapshots;
use crate::engine::EngineError;
use crate::image::Digest;

/// The services of a containerd in the name of a lease: what they create belongs to it.
#[derive(Debug)]
pub(super) struct LeasedClient {
    pub(super) client: Client,
    /// The lease.
    pub(super) id: String,
    pub(super) snapshots: Snapshots,
    /// Whether layers can be unpacked in parallel.
    pub(super) parallel: bool,
}

impl LeasedClient {
    /// `client` must act in the name of the lease `id`.
    pub(super) fn new(client: Client, id: String, server: &Server) -> Self {
        let snapshots = Snapshots::new(client.clone(), server);
        Self { client, id, snapshots, parallel: server.parallel_unpack }
    }

    /// Makes a blob, and what it refers to, resources of the lease.
    pub(super) async fn add(&self, digest: &Digest) -> Result<(), EngineError> {
        lease_calls::add(&self.client, &self.id, lease_calls::CONTENT, digest.as_str()).await
    }
}
