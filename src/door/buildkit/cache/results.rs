//! `cache.results` in the response to a build: one result for each cache exporter of ours, apart from those of the images.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::super::response::Keys;
use super::KIND;
use super::builder_export::{Exported, Moved};

/// The key. buildx decodes such values in its metadata file (`commands/build.go`, `decodeExporterResponse`).
const RESULTS: &str = "cache.results";

/// The result of one cache exporter under one ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct CacheResult {
    /// The place of its entry among ours.
    id: usize,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "ref")]
    reference: String,
    /// The part of the cache.
    part: String,
    /// The digest of its manifest or index.
    digest: String,
    layers: u64,
    /// Layers that were sent, and their bytes.
    sent: usize,
    sent_bytes: u64,
    unchanged: bool,
}

impl CacheResult {
    pub(super) fn new(id: usize, exported: &Exported, moved: Moved) -> Self {
        let Exported { version, is_unchanged } = exported;
        Self {
            id,
            kind: KIND,
            reference: version.reference.clone(),
            part: version.part.clone(),
            digest: version.root.digest.to_string(),
            layers: version.layers,
            sent: moved.sent,
            sent_bytes: moved.sent_bytes,
            unchanged: *is_unchanged,
        }
    }
}

/// Adds the results to what the client gets.
pub(super) fn add(keys: &mut Keys, results: &[CacheResult]) {
    if let Ok(json) = serde_json::to_vec(results)
        && !results.is_empty()
    {
        keys.insert(RESULTS.to_owned(), BASE64.encode(json));
    }
}
