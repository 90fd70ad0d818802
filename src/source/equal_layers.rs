//! Layers that an engine has in another compression.

use std::collections::HashMap;

use crate::image::Digest;

/// A blob with the same layer as an uncompressed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EqualLayer {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its first [`EqualLayer::MARK_BYTES`] bytes (all of it if it is shorter), which tell its compression.
    pub mark: Vec<u8>,
}

impl EqualLayer {
    /// How many bytes containerd's importer looks at (`core/images/archive/importer.go`, `detectLayerMediaType`).
    pub const MARK_BYTES: usize = 10;
}

/// Such blobs, by the digest of the uncompressed layer.
pub type EqualLayers = HashMap<Digest, EqualLayer>;
