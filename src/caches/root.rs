//! The roots of versions.

use super::CacheError;
use crate::image::cache::CacheRoot;
use crate::image::{Descriptor, DocumentError, Limits};
use crate::source::{Source, read_document};

/// Reads the root of a version, if it is not longer than one may be.
pub(crate) async fn read_root(source: &dyn Source, descriptor: &Descriptor) -> Result<CacheRoot, CacheError> {
    let (size, limit) = (descriptor.size, Limits::default().document_bytes);
    if size > limit {
        let (digest, media_type) = (descriptor.digest.clone(), descriptor.media_type.clone());
        return Err(CacheError::Document(DocumentError::TooLarge { digest, media_type, size, limit }.into()));
    }
    let bytes = read_document(source, descriptor).await?;
    Ok(CacheRoot::parse(descriptor.clone(), bytes)?)
}
