//! Layers that are there in another form.

use std::collections::HashMap;

use crate::image::Digest;

/// A blob that holds the same layer as an uncompressed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SameLayer {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its first bytes, by which it is known what it is compressed with: [`SameLayer::MARK_BYTES`], or all of it.
    pub mark: Vec<u8>,
}

impl SameLayer {
    /// How many bytes containerd's importer looks at (`core/images/archive/importer.go`, `detectLayerMediaType`).
    pub const MARK_BYTES: usize = 10;
}

/// Such blobs, by the digest of the uncompressed layer.
pub type SameLayers = HashMap<Digest, SameLayer>;
