//! The leases that this process holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Lease;

/// The leases that were created or opened in this process and are not released. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct OpenLeases(Arc<Mutex<Vec<Weak<dyn Lease>>>>);

impl OpenLeases {
    /// Counts `lease` until it is removed, or nobody has it any more.
    pub fn add(&self, lease: &Arc<dyn Lease>) {
        let mut leases = self.leases();
        leases.retain(|lease| lease.strong_count() > 0);
        leases.push(Arc::downgrade(lease));
    }

    /// Counts `lease` no longer: it is released.
    pub fn remove(&self, lease: &Arc<dyn Lease>) {
        let released = Arc::downgrade(lease);
        self.leases().retain(|lease| !lease.ptr_eq(&released));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.leases().iter().filter(|lease| lease.strong_count() > 0).count()
    }

    fn leases(&self) -> MutexGuard<'_, Vec<Weak<dyn Lease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
