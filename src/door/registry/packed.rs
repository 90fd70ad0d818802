//! The images that were pushed and cannot be unpacked. They are served as others are, and no client is to send them again.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::image::Digest;

/// How many are remembered. A client that pushes one that is not sends its manifest once more.
const MAX_KNOWN: usize = 10_000;

/// Those that this process found.
#[derive(Debug, Default)]
pub(super) struct PackedImages(Mutex<HashSet<Digest>>);

impl PackedImages {
    pub(super) fn add(&self, root: &Digest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_KNOWN {
            known.insert(root.clone());
        }
    }

    pub(super) fn contains(&self, root: &Digest) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(root)
    }
}
