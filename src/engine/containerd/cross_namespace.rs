//! Blobs of other namespaces of the same containerd.
//!
//! Where the sharing policy is `shared`, which is the default, an ingest that expects a blob of another namespace begins with
//! all of it there (containerd `core/metadata/content.go`, `Writer`), and its commit only registers the blob here.

use containerd_client::services::v1::ListNamespacesRequest;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::client::Client;
use super::content;
use super::discover::Server;
use crate::engine::EngineError;
use crate::image::Digest;

/// How many namespaces are looked into; more cost more than they would save. What lies in others is shared all the same,
/// only not foretold.
const NAMESPACES: usize = 8;
/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;

impl Server {
    /// Whether a blob of any namespace can be had in any other.
    pub(crate) fn shares(&self) -> bool {
        self.sharing.as_deref() == Some("shared")
    }
}

/// The sizes of those of `digests` that another namespace holds; in the same order.
pub(crate) async fn sizes(client: &Client, own: &str, digests: &[Digest]) -> Result<Vec<Option<u64>>, EngineError> {
    let mut namespaces = client.namespaces();
    let call = namespaces.list(client.request(ListNamespacesRequest::default()));
    let found = client.unary("listing namespaces", call).await?.namespaces.into_iter();
    let others = found.filter(|found| found.name != own).take(NAMESPACES);
    let others: Vec<_> = others.filter_map(|found| client.elsewhere(&found.name)).collect();
    let look = async |digest: &Digest| {
        for other in &others {
            if let Some(info) = content::info(other, digest).await? {
                return Ok::<_, EngineError>(u64::try_from(info.size).ok());
            }
        }
        Ok(None)
    };
    let lookups: Vec<_> = digests.iter().map(look).collect();
    stream::iter(lookups).buffered(LOOKUPS).try_collect().await
}
