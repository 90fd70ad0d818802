//! What the archive of a load and dockerd's response to it have in common.

use std::time::Duration;

use crate::engine::EngineError;
use crate::image::Digest;

/// How long dockerd may take no bytes, or say nothing while it loads, before it counts as stuck. It says something for
/// each half megabyte that it unpacks, and nothing while a graph driver without sharing copies a layer.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// That the load did not go as the protocol has it.
pub(super) fn broken(reason: String) -> EngineError {
    EngineError::Protocol { operation: "loading the image into docker".to_owned(), reason }
}

/// Where a blob is in the archive. Digests of other algorithms are too long for a tar's name; their beginning will do.
pub(super) fn place(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("blobs/{}/{}", digest.algorithm().name(), &hex[..hex.len().min(64)])
}
