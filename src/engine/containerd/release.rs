//! The end of leases: our own, and those of processes that are gone.

use super::client::Client;
use super::content;
use super::lease_calls::{self, Collect};
use crate::engine::EngineError;

/// Aborts what the lease `id` was still writing, then deletes it. An ingest that cannot be aborted loses the lease all
/// the same, and is garbage from then on.
pub(crate) async fn release(client: &Client, id: &str, collect: Collect) -> Result<(), EngineError> {
    abort_ingests(client, id).await?;
    lease_calls::delete(client, id, collect).await
}

/// Aborts what the lease `id` was still writing.
pub(super) async fn abort_ingests(client: &Client, id: &str) -> Result<(), EngineError> {
    for resource in lease_calls::resources(client, id).await? {
        if resource.r#type != lease_calls::INGESTS {
            continue;
        }
        if let Err(error) = content::abort(client, &resource.id).await {
            tracing::debug!(%error, ingest = resource.id, "left to the garbage collector");
        }
    }
    Ok(())
}

/// Releases leases of processes that are gone: all that can be. The error is the first one's that cannot.
pub(crate) async fn release_all(client: &Client, abandoned: &[String]) -> Result<(), EngineError> {
    let mut outcome = Ok(());
    for id in abandoned {
        tracing::info!(lease = id, "releasing the lease of an export that a former process left behind");
        let released = release(client, id, Collect::Later).await;
        if let Err(error) = &released {
            tracing::debug!(lease = id, %error, "it stays until the next start, or until it expires");
        }
        outcome = outcome.and(released);
    }
    outcome
}
