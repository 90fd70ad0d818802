//! Reading a small document whole.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::{Source, SourceError};
use crate::image::Descriptor;

/// Reads a document into memory; it must have the size that its descriptor says. The caller has checked that size against
/// its limits.
///
/// # Errors
/// When the source does not hold it, fails, or sends another number of bytes.
pub async fn read_document(source: &dyn Source, document: &Descriptor) -> Result<Bytes, SourceError> {
    let mut chunks = source.open(document, 0).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > document.size {
            break;
        }
    }
    if bytes.len() as u64 != document.size {
        return Err(SourceError::Length {
            name: source.name().to_owned(),
            digest: document.digest.clone(),
            expected: document.size,
            actual: bytes.len() as u64,
        });
    }
    Ok(bytes.freeze())
}
