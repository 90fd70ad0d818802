//! What the engine hands out as a lease of a daemon.

use std::sync::Arc;

use async_trait::async_trait;

use super::lease::RemoteLease;
use super::transaction::RemoteTransaction;
use crate::engine::error::REMOTE;
use crate::engine::{EngineError, ImageTransaction, Lease, TransactionOptions};
use crate::export_v1::proto::AbortRequest;
use crate::image::{Descriptor, Digest, Graph};

#[async_trait]
impl Lease for RemoteLease {
    fn engine(&self) -> &'static str {
        REMOTE
    }

    /// By an export of its own: one that was left behind is for a client that exports.
    async fn pin_graph(&self, graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        let export = self.read(graph.root()).await?;
        let present = self.negotiate(&export.id, graph).await?;
        Ok(graph.descriptors().filter(|blob| present.contains(&blob.digest)).cloned().collect())
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        let export = self.resume(graph.root()).await?;
        let begun = RemoteTransaction::begin(self, export, &graph, options.events).await?;
        Ok(Box::new(begun))
    }

    /// The export stays open until it expires; a process that resumes it finds all that the daemon has received.
    async fn suspend(&self, _: &Digest) -> Result<(), EngineError> {
        self.forget();
        Ok(())
    }

    async fn release(&self) -> Result<(), EngineError> {
        let Some(export) = self.forget() else { return Ok(()) };
        // The daemon may be there again, or only the way to it was not; what it has received is for the next attempt.
        if export.breaks != self.connection.breaks() {
            tracing::debug!(export = export.id, "the export stays, since its connection broke");
            return Ok(());
        }
        let request = AbortRequest { export_id: export.id.clone() };
        let call = async { self.connection.exports().abort(request).await };
        match self.connection.unary("aborting the export", call).await {
            Ok(_) => Ok(()),
            // It is left to the next attempt, and to its expiry.
            Err(error) if error.is_disconnect() => {
                tracing::debug!(export = export.id, %error, "the export stays");
                Ok(())
            }
            // It has ended, one way or the other.
            Err(EngineError::Daemon { message, .. }) => {
                tracing::debug!(export = export.id, message, "the export had ended");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
