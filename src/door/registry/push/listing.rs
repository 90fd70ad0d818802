//! How a push is listed among the exports that are under way: from the first upload on, until its images are committed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{MAX_AWAITED, Uploads};
use crate::engine::Origin;
use crate::export::{Listed, LiveExports, Progress};
use crate::image::{Digest, Graph};
use crate::progress::State;

/// What is listed of a push.
#[derive(Debug, Default)]
pub(super) struct Listing {
    listed: Mutex<Option<Listed>>,
    uploaded: Arc<Uploaded>,
}

/// The blobs that were uploaded and belong to no image that was committed, and their bytes.
#[derive(Debug, Default)]
struct Uploaded(Mutex<HashMap<Digest, u64>>);

impl Uploaded {
    fn blobs(&self) -> MutexGuard<'_, HashMap<Digest, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listing {
    fn listed(&self) -> MutexGuard<'_, Option<Listed>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the push of `origin`, unless it is listed. Its open uploads count with what they have.
    pub(super) fn show(&self, exports: &LiveExports, origin: &Origin, uploads: &Uploads) {
        let mut listed = self.listed();
        if listed.is_some() {
            return;
        }
        let new = exports.add(origin, vec![origin.builder.clone()]);
        let (uploaded, uploads) = (self.uploaded.clone(), uploads.clone());
        new.ask(move || {
            let open: Vec<_> = uploads.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            // One that has ended is among the blobs.
            let open: u64 = open.iter().filter(|upload| !upload.has_ended()).map(|upload| upload.offset()).sum();
            let blobs = uploaded.blobs();
            let bytes = blobs.values().sum::<u64>().saturating_add(open);
            Some(Progress { blobs: blobs.len() as u64, bytes, ..Progress::default() })
        });
        *listed = Some(new);
    }

    /// Counts a blob that was uploaded.
    pub(super) fn count(&self, digest: &Digest, bytes: u64) {
        let mut blobs = self.uploaded.blobs();
        if blobs.len() < MAX_AWAITED {
            blobs.insert(digest.clone(), bytes);
        }
    }

    /// The blobs that were uploaded.
    pub(super) fn received(&self) -> HashSet<Digest> {
        self.uploaded.blobs().keys().cloned().collect()
    }

    /// The image of `graph` was committed: its blobs belong to the push no longer.
    pub(super) fn committed(&self, graph: &Graph) {
        let mut blobs = self.uploaded.blobs();
        for blob in graph.descriptors() {
            blobs.remove(&blob.digest);
        }
        drop(blobs);
        // What is still to come of the push is not that image's.
        if let Some(listed) = &*self.listed() {
            listed.enter(State::Open.name());
        }
    }

    /// Lists the push no longer if no image is awaited of what was uploaded, nor an upload's end.
    pub(super) fn hide_if_done(&self, uploads: &Uploads) {
        // Held while both are looked at: a new upload is in the map before it is shown.
        let mut listed = self.listed();
        let is_done =
            uploads.lock().unwrap_or_else(PoisonError::into_inner).is_empty() && self.uploaded.blobs().is_empty();
        if is_done {
            *listed = None;
        }
    }
}
