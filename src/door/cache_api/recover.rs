//! Exports of an earlier process, found again after a restart.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::lifetime::Lifetime;
use super::record::Record;
use super::session::Session;
use super::sessions::Sessions;
use crate::content_server::{Contents, Labels, Times};
use crate::engine::{self, DurableLease, EngineError};
use crate::image::Digest;

/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;

impl Sessions {
    /// Restores the exports of an earlier process with the same name. None of them is needed to serve: an export that cannot
    /// be restored is left to its lease, which expires.
    pub(super) async fn recover(&self) -> usize {
        let Some(leases) = self.exports.engine().persistent_leases() else { return 0 };
        let durables = match leases.durable().await {
            Ok(durables) => durables,
            Err(error) => {
                tracing::warn!(%error, "it cannot be told which exports of caches an earlier process left; they are lost to their clients");
                return 0;
            }
        };
        let mut found = 0;
        for durable in durables {
            let export = durable.export.clone();
            match self.restore(durable).await {
                Ok(taken) => found += usize::from(taken),
                Err(error) => {
                    tracing::warn!(export, %error, "an export of a cache of an earlier process cannot be restored; it is left until it expires");
                }
            }
        }
        found
    }

    /// Restores one export; `false` if it is none of this server's, or has ended.
    async fn restore(&self, DurableLease { export, record, created }: DurableLease) -> Result<bool, EngineError> {
        let Some(record) = Record::read(&record).filter(|record| record.server == self.name) else { return Ok(false) };
        let (origin, engine) = (Session::origin(&export, &record, &record.principal), self.exports.engine());
        let lease = engine.lease(&origin, engine::Lifetime::Durable { record: "" }).await?;
        let session = Session::restored(export.clone(), record, (lease, engine.images()?), Lifetime::since(created));
        match restore_scope(&session.contents).await {
            // It has expired meanwhile, or belongs to a daemon that is not at its end.
            Err(EngineError::LeaseLost { lease }) => {
                tracing::info!(export, lease, "ended while it was restored");
                return Ok(false);
            }
            restored => restored?,
        }
        session.list(self.exports.live(), &origin);
        self.insert(Arc::new(session));
        Ok(true)
    }
}

/// Restores the scope of an export of an earlier process: what its lease pins, one by one, and the ingests of it.
async fn restore_scope(contents: &Contents) -> Result<(), EngineError> {
    let look = async |digest: Digest| Ok::<_, EngineError>((contents.images.size(&digest).await?, digest));
    let looked: Vec<_> = contents.lease.pinned().await?.into_iter().map(look).collect();
    let blobs: Vec<_> = stream::iter(looked).buffered(LOOKUPS).try_collect().await?;
    let ingests = contents.ingests()?.statuses().await?;
    let mut scope = contents.scope();
    for (size, digest) in blobs {
        if let Some(size) = size {
            // More than the limit was never let in.
            let _ = scope.add(digest, size, Labels::new());
        }
    }
    for status in ingests {
        scope.set_times(&status.reference, Times { started: status.started, updated: status.updated });
    }
    Ok(())
}
