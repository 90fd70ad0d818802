//! A relay that counts what reaches dockerd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::relay;

/// A socket in front of dockerd's. Its threads end with their connections.
#[derive(Debug)]
pub(crate) struct Meter {
    path: PathBuf,
    sent: Arc<AtomicU64>,
}

impl Meter {
    pub(crate) fn new(path: PathBuf, docker: &str) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        relay(&path, docker, move |bytes| {
            counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
        Self { path, sent }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that clients sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
