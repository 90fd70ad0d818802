//! A layer that is to be unpacked.

use std::time::Duration;

use super::super::client::SILENCE;
use crate::engine::EngineError;
use crate::image::{Descriptor, Digest};

/// The slowest unpacking of a blob that is still taken for progress, in bytes per second.
const SLOWEST: u64 = 1 << 20;

/// A layer to unpack.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: Digest,
    /// The id of the chain that ends with this layer: the name of its snapshot.
    pub(crate) chain: Digest,
}

impl Layer {
    /// How long it may take to apply it.
    pub(super) fn apply_timeout(&self) -> Duration {
        SILENCE + Duration::from_secs(self.blob.size / SLOWEST)
    }

    /// `error` with this layer's name, where it is a refusal without one.
    pub(super) fn unpack_error(&self, error: EngineError) -> EngineError {
        match error {
            EngineError::Rpc { message, .. } => {
                EngineError::Unpack { layer: self.blob.digest.clone(), reason: message }
            }
            error => error,
        }
    }
}
