//! What caches take, and one of them looked into.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{CacheError, CacheRef, Caches, Usage, VersionUsage};
use crate::engine::caches::CacheVersion;
use crate::image::Descriptor;
use crate::image::cache::CacheConfig;
use crate::source::read_document;

/// How many roots are read at once.
const READS: usize = 16;

/// A version, and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// What it takes.
    pub usage: VersionUsage,
    /// What is in it; `None` if it cannot be read any more.
    pub details: Option<Details>,
}

/// What is in a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Its cache config.
    pub config: Descriptor,
    /// How many records (cache keys) it has.
    pub records: usize,
    /// How many of them have a result.
    pub results: usize,
    /// How many of its layers the engine has lost.
    pub missing: usize,
}

impl Caches {
    /// What the caches take. A version whose root cannot be read counts with the bytes that it had when it was stored.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn usage(&self) -> Result<Usage, CacheError> {
        let versions = self.versions(None).await?;
        let blobs = |version: CacheVersion| async move {
            let blobs = match self.root(&version.root).await {
                Ok(root) => root.blobs().iter().map(|blob| (blob.digest.clone(), blob.size)).collect(),
                Err(error) => {
                    tracing::warn!(%error, id = version.id, "the root of a cache cannot be read");
                    vec![(version.root.digest.clone(), version.bytes)]
                }
            };
            Ok::<_, CacheError>((version, blobs))
        };
        let reads: Vec<_> = versions.into_iter().map(blobs).collect();
        Ok(Usage::of(stream::iter(reads).buffered(READS).try_collect().await?))
    }

    /// The versions of a cache, the newest first; none if there is no such cache.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn inspect(&self, reference: &CacheRef) -> Result<Vec<Inspected>, CacheError> {
        let mut inspected = Vec::new();
        let usage = self.usage().await?;
        for usage in usage.versions.into_iter().filter(|usage| usage.version.reference == reference.as_str()) {
            let details = match self.details(&usage).await {
                Ok(details) => Some(details),
                Err(error) => {
                    tracing::warn!(%error, id = usage.version.id, "a version of a build cache cannot be read");
                    None
                }
            };
            inspected.push(Inspected { usage, details });
        }
        Ok(inspected)
    }

    /// What is in one version, and its layers, each once.
    ///
    /// # Errors
    /// [`CacheError::Unusable`] says why it cannot be used.
    pub async fn inspect_version(&self, version: &CacheVersion) -> Result<(Details, Vec<Descriptor>), CacheError> {
        let part = self.open(version.clone()).await?;
        let config = self.read_config(&part.listed.config).await;
        let config = config.map_err(|error| CacheError::unusable(version, error))?;
        let details = Details {
            config: part.listed.config.clone(),
            records: config.records,
            results: config.results,
            missing: part.missing,
        };
        let mut seen = HashSet::new();
        let layers = part.listed.layers.iter().filter(|layer| seen.insert(&layer.digest));
        Ok((details, layers.cloned().collect()))
    }

    async fn read_config(&self, config: &Descriptor) -> Result<CacheConfig, CacheError> {
        CacheConfig::check_size(config)?;
        let bytes = read_document(&self.store.blobs(), config).await?;
        Ok(CacheConfig::parse(config, &bytes)?)
    }

    async fn details(&self, usage: &VersionUsage) -> Result<Details, CacheError> {
        let listed = self.root(&usage.version.root).await?;
        let config = self.read_config(&listed.config).await?;
        let present = self.present(&listed).await?;
        let layers: HashSet<_> = listed.layers.iter().map(|layer| &layer.digest).collect();
        let missing = layers.len() - present.len();
        Ok(Details { config: listed.config.clone(), records: config.records, results: config.results, missing })
    }
}
