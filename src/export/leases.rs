//! The leases of exports, counted.

use std::sync::Arc;

use super::Exports;
use crate::engine::{EngineError, Lease, Lifetime, Origin};
use crate::image::Graph;

impl Exports {
    /// [`Engine::lease`](crate::engine::Engine::lease), counted.
    ///
    /// # Errors
    /// As that.
    pub async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        let lease = self.engine().lease(origin, lifetime).await?;
        self.leases().add(&lease);
        Ok(lease)
    }

    /// [`Engine::read_lease`](crate::engine::Engine::read_lease), counted.
    ///
    /// # Errors
    /// As that.
    pub async fn read_lease(&self, origin: &Origin, graph: &Arc<Graph>) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        let lease = self.engine().read_lease(origin, graph).await?;
        lease.iter().for_each(|lease| self.leases().add(lease));
        Ok(lease)
    }
}
