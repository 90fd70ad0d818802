//! BuildKit's cache documents (buildkit `cache/remotecache/v1`): a root that lists layers, and a config that says which build
//! steps they are the results of.
//!
//! The root is an OCI manifest whose config is the cache config (BuildKit 0.12 and later), or an OCI index whose entries are
//! the layers and the cache config (all versions). Both come from builders and from folders, so both are read within limits.

mod config;
mod document;
mod records;
mod root;
#[cfg(test)]
mod tests;

pub use config::CacheConfig;
pub use records::{CacheRecord, CacheRecords, CacheResult, ResultLayers};
pub use root::CacheRoot;

use super::{Digest, DocumentError};

/// The media type of a cache config (buildkit `cache/remotecache/v1/spec.go`).
pub const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The key of an image config that holds an inline cache (buildkit `cache/remotecache/inline`).
pub const INLINE_CACHE: &str = "moby.buildkit.cache.v0";
/// The longest cache config, in bytes.
pub const MAX_CACHE_CONFIG: u64 = 32 << 20;
/// How many layers a cache may have.
pub const MAX_CACHE_LAYERS: usize = 10_000;
/// How many records a cache config may have.
const MAX_RECORDS: usize = 200_000;
/// How many links, results and positions of chains all records may have together.
const MAX_LINKS: usize = 2_000_000;
/// The longest config that BuildKit imports, by the size in its descriptor (buildkit `cache/remotecache/import.go`,
/// `readBlob`).
const IMPORT_BYTES: u64 = 1 << 20;

/// Why a document is no part of a build cache.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CacheDocumentError {
    /// The root is no document that could be one.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The root lists no cache config, or several.
    #[error("{digest} is no build cache: expected one config of type `{CACHE_CONFIG}`, found {found}")]
    NoConfig {
        /// The root.
        digest: Digest,
        /// How many there are.
        found: usize,
    },
    /// The config cannot be read, or contradicts itself.
    #[error("the cache config {digest} cannot be used: {reason}")]
    Config {
        /// The config.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// There is more than is read.
    #[error("{digest} has {count} {what}, more than {limit}")]
    TooMany {
        /// The document.
        digest: Digest,
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}
