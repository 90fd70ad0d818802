//! One blob under a lease, without an image that it belongs to.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::activity::{Activity, Arrival};
use crate::engine::ingest::{Expected, IngestWriter, OpenedIngest};
use crate::engine::{BlobWriter, EngineError, Lease};
use crate::image::Descriptor;
use crate::progress::{Event, Events};
use crate::source::Source;

use super::copy_blob::copy_blob;
use super::{ExportError, Exports};

/// How the ref of an ingest begins that holds such a blob.
const PREFIX: &str = "linkspan-fetch-";

impl Exports {
    /// Copies `blob` from `source` into the engine, pinned by `lease`. Returns whether its bytes were sent, which is not
    /// necessary where another export or another client brought it in meanwhile.
    ///
    /// # Errors
    /// When the source does not have it or breaks off, or when the engine refuses.
    pub async fn fetch(
        &self,
        lease: &dyn Lease,
        source: &dyn Source,
        blob: &Descriptor,
        events: &Events,
    ) -> Result<bool, ExportError> {
        let flight = self.flights().acquire(&blob.digest).await;
        let expected = Expected { digest: Some(blob.digest.clone()), size: Some(blob.size) };
        let name = format!("{PREFIX}{}", blob.digest);
        let sent = match lease.ingests()?.open(&name, &expected).await? {
            OpenedIngest::Present => false,
            OpenedIngest::Writer(writer) => {
                let writer = Box::new(Fetched { writer, expected });
                copy_blob(source, blob, writer, None, &flight, events).await?;
                true
            }
        };
        events.emit(Event::Stored { digest: blob.digest.clone() });
        let how = if sent { Arrival::Sent } else { Arrival::Present };
        self.activities().emit(Activity::Blobs { door: "cache", how, blobs: 1, bytes: blob.size });
        Ok(sent)
    }
}

/// An ingest as the writer of the blob that it expects.
#[derive(Debug)]
struct Fetched {
    writer: Box<dyn IngestWriter>,
    expected: Expected,
}

#[async_trait]
impl BlobWriter for Fetched {
    fn offset(&self) -> u64 {
        self.writer.offset()
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        self.writer.write(bytes)
    }

    async fn commit(self: Box<Self>) -> Result<(), EngineError> {
        match self.writer.commit(self.expected).await {
            // Another client was quicker; it is pinned all the same.
            Ok(_) | Err(EngineError::Present { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
