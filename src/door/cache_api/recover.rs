//! Exports of an earlier process, found again after a restart.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::lifetime::Lifetime;
use super::record::Record;
use super::session::Session;
use super::sessions::Sessions;
use crate::content_server::ExportContent;
use crate::engine::{self, DurableLease, EngineError};
use crate::image::Digest;

/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;

impl Sessions {
    /// Restores the exports of an earlier process with the same name.
    pub(super) async fn recover(&self) -> usize {
        self.exports.recover("cache", |durable| self.restore(durable)).await
    }

    /// Restores one export; `false` if it is none of this server's, or has ended.
    async fn restore(&self, DurableLease { export, record, created }: DurableLease) -> Result<bool, EngineError> {
        let Some(record) = Record::read(&record).filter(|record| record.server == self.name) else { return Ok(false) };
        let (origin, engine) = (Session::origin(&export, &record, &record.principal), self.exports.engine());
        let lease = self.exports.lease(&origin, engine::Lifetime::Durable { record: "" }).await?;
        let session = Session::restored(export, record, (lease, engine.images()?), Lifetime::since(created));
        let session = session.counted(&self.exports);
        restore_scope(&session.contents).await?;
        let session = Arc::new(session);
        session.list(self.exports.live(), &origin);
        self.insert(session);
        Ok(true)
    }
}

/// Restores the scope of an export of an earlier process: what its lease pins, one by one, and the ingests of it.
async fn restore_scope(contents: &ExportContent) -> Result<(), EngineError> {
    let look = async |digest: Digest| Ok::<_, EngineError>((contents.images.size(&digest).await?, digest));
    let looked: Vec<_> = contents.lease.pinned().await?.into_iter().map(look).collect();
    let blobs: Vec<_> = stream::iter(looked).buffered(LOOKUPS).try_collect().await?;
    contents.restore_times().await?;
    if !contents.scope().restore(blobs.into_iter().filter_map(|(size, digest)| Some((digest, size?)))) {
        contents.warn_of_incomplete_scope();
    }
    Ok(())
}
