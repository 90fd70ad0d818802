//! Reading a part of a blob.

use std::ops::Range;

use futures_util::{StreamExt, stream};

use super::{Chunks, Source, SourceError};
use crate::image::Descriptor;

/// Opens the bytes `range` of a blob, which must lie within it.
///
/// # Errors
/// When the source does not hold the blob. The stream ends with [`SourceError::Length`] when the source sends fewer
/// bytes than its descriptor says.
pub async fn read_range(source: &dyn Source, blob: &Descriptor, range: Range<u64>) -> Result<Chunks, SourceError> {
    let chunks = source.open(blob, range.start).await?;
    let short = SourceError::Length {
        name: source.name().to_owned(),
        digest: blob.digest.clone(),
        expected: blob.size,
        actual: range.start,
    };
    let left = range.end.saturating_sub(range.start);
    Ok(stream::unfold((chunks, left, short), |(mut chunks, left, mut short)| async move {
        if left == 0 {
            return None;
        }
        Some(match chunks.next().await {
            Some(Ok(mut chunk)) => {
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let length = chunk.len() as u64;
                if let SourceError::Length { actual, .. } = &mut short {
                    *actual += length;
                }
                (Ok(chunk), (chunks, left - length, short))
            }
            // Nothing follows an error.
            Some(Err(error)) => (Err(error), (chunks, 0, short)),
            None => (Err(short.clone()), (chunks, 0, short)),
        })
    })
    .boxed())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use futures_util::TryStreamExt;

    use super::*;
    use crate::image::Digest;

    /// A blob in chunks of three bytes.
    #[derive(Debug)]
    struct Threes(&'static [u8]);

    #[async_trait]
    impl Source for Threes {
        fn name(&self) -> &str {
            "threes"
        }

        async fn open(&self, _: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
            let chunks: Vec<_> =
                self.0[offset as usize..].chunks(3).map(|chunk| Ok(Bytes::from_static(chunk))).collect();
            Ok(stream::iter(chunks).boxed())
        }
    }

    async fn read(bytes: &'static [u8], size: u64, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        let blob = Descriptor::new("", Digest::sha256(bytes), size);
        let chunks = read_range(&Threes(bytes), &blob, range).await.unwrap();
        Ok(chunks.try_collect::<Vec<_>>().await?.concat())
    }

    #[tokio::test]
    async fn every_range_is_exact() {
        let bytes = b"0123456789";
        for start in 0..=bytes.len() {
            for end in start..=bytes.len() {
                let read = read(bytes, 10, start as u64..end as u64).await.unwrap();
                assert_eq!(read, bytes[start..end], "{start}..{end}");
            }
        }
    }

    #[tokio::test]
    async fn a_blob_that_is_too_short_is_no_success() {
        let error = read(b"0123", 10, 2..7).await.unwrap_err();
        assert!(matches!(error, SourceError::Length { expected: 10, actual: 4, .. }), "{error}");
    }
}
