//! Uploads that another process goes on with: behind the parts that the store has, with the hash of their bytes.

use std::sync::Arc;

use object_store::multipart::PartId;
use tokio::sync::Semaphore;

use super::{Begun, Hashing, MAX_PARTS, PART, Upload};
use crate::engine::EngineError;
use crate::engine::object::bucket::Bucket;
use crate::engine::object::stored_lease::StoredProgress;
use crate::image::{Algorithm, Hasher};

/// The largest part that another process may have begun to send.
const MAX_PART: usize = 1 << 30;

/// How far an upload is: what of [`StoredProgress`] it knows itself.
#[derive(Debug)]
pub(in crate::engine::object) struct Progress {
    pub(in crate::engine::object) part_size: u64,
    pub(in crate::engine::object) parts: Vec<String>,
    pub(in crate::engine::object) hash: String,
}

impl Upload {
    /// The upload that another process began; `None` if what it noted cannot be used.
    pub(in crate::engine::object) fn resumed(
        bucket: &Bucket,
        permits: &Arc<Semaphore>,
        begun: Begun,
        progress: &StoredProgress,
    ) -> Option<Self> {
        let hasher = Hasher::restore(&progress.hash)?;
        let part_size = usize::try_from(progress.part_size).ok().filter(|size| (PART..=MAX_PART).contains(size))?;
        let count = progress.parts.len();
        if count == 0 || count as u64 > MAX_PARTS {
            return None;
        }
        let part = |name: &String| Some(PartId { content_id: name.clone() });
        Some(Self {
            part_size,
            in_parts: progress.part_size * count as u64,
            parts: progress.parts.iter().map(part).collect(),
            noted: count,
            algorithm: hasher.algorithm(),
            hashing: Some(Hashing::Ready(Box::new(hasher))),
            ..Self::new(bucket, permits, begun.key.clone(), Algorithm::Sha256, None).having_begun(begun)
        })
    }

    fn having_begun(self, begun: Begun) -> Self {
        Self { begun: Some(begun), ..self }
    }

    /// How many parts came since the progress was noted.
    pub(in crate::engine::object) fn unnoted(&self) -> usize {
        self.parts.len().saturating_sub(self.noted)
    }

    /// What is to be noted, so that another process can go on behind the parts that the store has. Waits for those on their way.
    /// `None` if there are no new ones.
    pub(in crate::engine::object) async fn progress(&mut self) -> Result<Option<(Begun, Progress)>, EngineError> {
        let Some(begun) = self.begun.clone().filter(|_| self.unnoted() > 0) else { return Ok(None) };
        self.settle().await?;
        // Only the last one may be shorter, and nothing follows it.
        if self.in_parts != (self.part_size * self.parts.len()) as u64 {
            return Ok(None);
        }
        let hasher = self.hasher().await?;
        let hash = hasher.state();
        self.hashing = Some(Hashing::Ready(hasher));
        let parts = self.parts.iter().map(|part| part.as_ref().map(|part| part.content_id.clone()));
        let Some(parts) = parts.collect::<Option<Vec<_>>>() else { return Ok(None) };
        self.noted = parts.len();
        Ok(Some((begun, Progress { part_size: self.part_size as u64, parts, hash })))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::tests::written;
    use super::*;

    /// The memory of the first process is gone, and the store is another client's.
    #[tokio::test]
    async fn another_process_goes_on_behind_the_parts_that_are_stored() {
        let (bucket, mut upload, digest) = written(2 * PART + 5).await;
        let (begun, Progress { part_size, parts, hash }) = upload.progress().await.unwrap().unwrap();
        assert!(upload.progress().await.unwrap().is_none(), "nothing is new");
        let stored = |parts: &[String], hash: &str, part_size| StoredProgress {
            reference: "ref".to_owned(),
            digest: None,
            size: None,
            part_size,
            parts: parts.to_vec(),
            hash: hash.to_owned(),
        };
        let permits = Arc::new(Semaphore::new(1));
        let resumed = |progress: &StoredProgress| Upload::resumed(&bucket, &permits, begun.clone(), progress);
        for unusable in [stored(&[], &hash, part_size), stored(&parts, "x", part_size), stored(&parts, &hash, 1)] {
            assert!(resumed(&unusable).is_none(), "{unusable:?}");
        }
        let mut upload = resumed(&stored(&parts, &hash, part_size)).unwrap();
        assert_eq!(upload.length(), 2 * PART as u64);
        let rest: Vec<u8> = (2 * PART..2 * PART + 5).map(|at| (at / 1000 % 251) as u8).collect();
        assert!(!upload.push(&mut Bytes::from(rest)));
        assert_eq!(upload.digest().await.unwrap(), digest);
        upload.complete().await.unwrap();
        assert!(digest.verify(&bucket.get("key", 1 << 30).await.unwrap().unwrap().bytes));
    }
}
