//! Whether a store has preconditions: a store that does not know the headers ignores them.

use bytes::Bytes;
use object_store::UpdateVersion;

use super::bucket::{Bucket, Condition};
use super::keys;
use crate::engine::EngineError;

/// A version that no object has.
const NO_VERSION: &str = "\"00000000000000000000000000000000\"";

/// Writes the same object twice on the condition that it is not there, then on the condition that it is a version that it is
/// not: a store with preconditions refuses all but the very first. That one write remains, for the next probes.
pub(super) async fn is_conditional(bucket: &Bucket) -> Result<bool, EngineError> {
    let content = || Bytes::from_static(b"written to see whether this store has conditional writes\n");
    let create = || bucket.put_if(keys::PROBE, content().into(), Condition::Absent);
    let is_new = match create().await {
        Ok(is_new) => is_new,
        Err(error) if is_unknown(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    if is_new && create().await? {
        return Ok(false);
    }
    let version = UpdateVersion { e_tag: Some(NO_VERSION.to_owned()), version: Some("1".to_owned()) };
    match bucket.put_if(keys::PROBE, content().into(), Condition::Version(version)).await {
        Ok(is_written) => Ok(!is_written),
        Err(error) if is_unknown(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the store, or its client, says that it has no such thing.
fn is_unknown(error: &EngineError) -> bool {
    let text = error.to_string();
    ["NotImplemented", "not yet implemented", "501 "].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_store_with_preconditions_is_known_at_once_and_later() {
        let bucket = Bucket::new(Arc::new(InMemory::new()), "s3://b", "");
        for _ in 0..2 {
            assert!(is_conditional(&bucket).await.unwrap());
        }
        assert!(bucket.size(keys::PROBE).await.unwrap().is_some());
    }
}
