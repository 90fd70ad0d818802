//! A source whose blobs are verified while they are read.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};

use super::{Chunks, Source, SourceError};
use crate::image::{Descriptor, Digest, Hasher};

/// A source that fails at the end of a blob, if the blob is not what its digest says. For outputs that do not verify what they
/// are made of.
#[derive(Debug)]
pub(crate) struct Verified(pub(crate) Arc<dyn Source>);

/// A blob that is read.
struct Reading {
    chunks: Chunks,
    hasher: Option<Hasher>,
    read: u64,
}

#[async_trait]
impl Source for Verified {
    fn name(&self) -> &str {
        self.0.name()
    }

    /// Only what is read from the beginning is verified.
    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let chunks = self.0.open(blob, offset).await?;
        if offset > 0 {
            return Ok(chunks);
        }
        let (name, digest, size) = (self.name().to_owned(), blob.digest.clone(), blob.size);
        let begin = Reading { chunks, hasher: Some(Hasher::new(digest.algorithm())), read: 0 };
        let verified = stream::try_unfold(begin, move |mut reading| {
            let (name, digest) = (name.clone(), digest.clone());
            async move {
                let Some(chunk) = reading.chunks.next().await.transpose()? else { return Ok(None) };
                reading.read += chunk.len() as u64;
                if let Some(hasher) = &mut reading.hasher {
                    hasher.update(&chunk);
                }
                // Whoever reads this many bytes does not ask for more.
                if reading.read >= size
                    && let Some(hasher) = reading.hasher.take()
                {
                    check(&name, &digest, hasher.finish())?;
                }
                Ok(Some((chunk, reading)))
            }
        });
        Ok(verified.boxed())
    }
}

fn check(name: &str, digest: &Digest, found: Digest) -> Result<(), SourceError> {
    if found == *digest {
        return Ok(());
    }
    let reason = format!("it is damaged: its bytes have the digest {found}");
    Err(SourceError::Read { name: name.to_owned(), digest: digest.clone(), reason })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::TryStreamExt as _;

    use super::*;

    #[derive(Debug)]
    struct Fixed(&'static [u8]);

    #[async_trait]
    impl Source for Fixed {
        fn name(&self) -> &str {
            "fixed"
        }

        async fn open(&self, _: &Descriptor, _: u64) -> Result<Chunks, SourceError> {
            Ok(stream::iter(self.0.chunks(2).map(|chunk| Ok(Bytes::from_static(chunk))).collect::<Vec<_>>()).boxed())
        }
    }

    #[tokio::test]
    async fn a_blob_with_another_digest_is_refused_before_its_last_bytes_are_given_out() {
        let blob = Descriptor::new("", Digest::sha256(b"hello"), 5);
        let right = Verified(Arc::new(Fixed(b"hello"))).open(&blob, 0).await.unwrap();
        assert_eq!(right.try_collect::<Vec<_>>().await.unwrap().concat(), b"hello");
        let mut wrong = Verified(Arc::new(Fixed(b"hallo"))).open(&blob, 0).await.unwrap();
        assert_eq!(wrong.try_next().await.unwrap().unwrap(), "ha");
        assert_eq!(wrong.try_next().await.unwrap().unwrap(), "ll");
        let error = wrong.try_next().await.unwrap_err();
        assert!(error.to_string().contains("it is damaged"), "{error}");
    }
}
