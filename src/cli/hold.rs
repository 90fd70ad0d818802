//! Holding what a command reads.

use std::sync::{Arc, Mutex, PoisonError};

use super::engine;
use crate::engine::{Engine, Ingest};
use crate::image::Graph;

/// What a command holds of engines, so that nobody deletes it while it is read.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Vec<Arc<dyn Ingest>>>);

impl Held {
    /// Holds `graph` for `command`. Where that cannot be done, as on a disk that cannot be written, it is read all the
    /// same.
    pub(super) async fn add(&self, engine: &dyn Engine, graph: &Arc<Graph>, command: &str) {
        match engine.reading(&engine::origin(command), graph).await {
            Ok(held) => self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(held),
            Err(error) => tracing::debug!(%error, "an image is read without being held"),
        }
    }

    /// Gives up what is held; to be called however the command ends.
    pub(super) async fn end(&self) {
        let held = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for held in held {
            if let Err(error) = held.release().await {
                tracing::debug!(%error, "what was held is released by the next start, or by itself");
            }
        }
    }
}
