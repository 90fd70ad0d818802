//! The leases of this process.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};

use super::lease::ObjectLease;
use super::stores::Stores;
use crate::engine::EngineError;

/// The leases that are open: what opens one again shares it, with its ingests.
#[derive(Debug, Default)]
pub(super) struct OpenLeases(std::sync::Mutex<HashMap<String, Weak<ObjectLease>>>);

impl OpenLeases {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Weak<ObjectLease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, export: &str) -> Option<Arc<ObjectLease>> {
        self.known().get(export).and_then(Weak::upgrade).filter(|lease| !lease.pins.is_released())
    }

    /// The lease of `export`, which ends with this process, or is durable if there is a `record`.
    pub(super) async fn open(
        &self,
        stores: &Arc<Stores>,
        export: &str,
        record: Option<String>,
    ) -> Result<Arc<ObjectLease>, EngineError> {
        if let Some(lease) = self.find(export) {
            return Ok(lease);
        }
        let lease = Arc::new(ObjectLease::open(stores, export, record).await?);
        // Another task may have opened it meanwhile.
        if let Some(first) = self.find(export) {
            return Ok(first);
        }
        let mut known = self.known();
        known.retain(|_, lease| lease.strong_count() > 0);
        known.insert(export.to_owned(), Arc::downgrade(&lease));
        Ok(lease)
    }
}
