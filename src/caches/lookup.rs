//! Cache configs to be looked up in, read once as long as their indexes are kept.

use std::sync::Arc;

use super::{CacheError, CacheIndex, Caches, InlineCache};
use crate::image::Descriptor;
use crate::image::cache::{CacheConfig, CacheRecords};
use crate::source::read_document;

impl Caches {
    /// What a cache config has, to be looked up.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn index(&self, config: &Descriptor) -> Result<Arc<CacheIndex>, CacheError> {
        if let Some(index) = self.indexes.get(config) {
            return Ok(index);
        }
        CacheConfig::check_size(config)?;
        let bytes = read_document(&self.store.blobs(), config).await?;
        let index = Arc::new(CacheIndex::new(CacheRecords::parse(config, &bytes)?));
        self.indexes.put(config, &index);
        Ok(index)
    }

    /// What the inline cache of an image has, to be looked up.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn inline_index(&self, cache: &InlineCache) -> Result<Arc<CacheIndex>, CacheError> {
        if let Some(index) = self.indexes.get(&cache.config) {
            return Ok(index);
        }
        // It was within the limit of an image config when it was found.
        let bytes = read_document(&self.store.blobs(), &cache.config).await?;
        let index = Arc::new(CacheIndex::new(CacheRecords::inline(&cache.config, &bytes, &cache.layers)?));
        self.indexes.put(&cache.config, &index);
        Ok(index)
    }
}
