//! Exports of an earlier process, found again by their durable leases.

use super::Exports;
use crate::engine::{DurableLease, EngineError};

impl Exports {
    /// Restores the exports that an earlier process left with durable leases, one after the other: `restore` returns whether a
    /// lease belongs to one of `door`. Returns how many do. None of them is needed to serve: an export that cannot be restored
    /// is left to its lease, which expires.
    pub(crate) async fn recover<F>(&self, door: &str, mut restore: impl FnMut(DurableLease) -> F) -> usize
    where
        F: Future<Output = Result<bool, EngineError>>,
    {
        let Some(leases) = self.engine().persistent_leases() else { return 0 };
        let durables = match leases.durable().await {
            Ok(durables) => durables,
            Err(error) => {
                tracing::warn!(%error, door, "the exports of an earlier process cannot be listed; they are lost to their clients");
                return 0;
            }
        };
        let mut found = 0;
        for durable in durables {
            let export = durable.export.clone();
            match restore(durable).await {
                Ok(is_restored) => found += usize::from(is_restored),
                // It has expired meanwhile, or belongs to a daemon that is not at its end.
                Err(EngineError::LeaseLost { lease }) => {
                    tracing::info!(export, lease, door, "ended while it was restored");
                }
                Err(error) => {
                    tracing::warn!(export, %error, door, "an export of an earlier process cannot be restored; it is left until it expires");
                }
            }
        }
        found
    }
}
