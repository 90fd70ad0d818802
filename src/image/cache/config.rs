//! The config of a cache: which layers it has, and how many records.

use super::document::{Document, Record};
use super::{CacheDocumentError, MAX_CACHE_CONFIG};
use crate::image::{Descriptor, Digest};

/// What is counted of a cache config. BuildKit reads the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// The digests of its layers, in order.
    pub layers: Vec<Digest>,
    /// How many records (cache keys) it has.
    pub records: usize,
    /// How many of them have a result.
    pub results: usize,
}

impl CacheConfig {
    /// Refuses a config that is too long to be read.
    ///
    /// # Errors
    /// When `descriptor` names more than [`MAX_CACHE_CONFIG`] bytes.
    pub fn check_size(descriptor: &Descriptor) -> Result<(), CacheDocumentError> {
        if descriptor.size <= MAX_CACHE_CONFIG {
            return Ok(());
        }
        let reason = format!("it has {} bytes, more than {MAX_CACHE_CONFIG}", descriptor.size);
        Err(CacheDocumentError::Config { digest: descriptor.digest.clone(), reason })
    }

    /// Checks `bytes` against `descriptor` and reads them.
    ///
    /// # Errors
    /// When they are not the bytes that the descriptor names, are too many, or refer to what is not there or to themselves.
    pub fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Self, CacheDocumentError> {
        let Document { layers, records } = Document::parse(descriptor, bytes)?;
        let has_result = |record: &&Record| !record.layers.is_empty() || !record.chains.is_empty();
        let results = records.iter().filter(has_result).count();
        Ok(Self { layers: layers.into_iter().map(|layer| layer.blob).collect(), records: records.len(), results })
    }
}
