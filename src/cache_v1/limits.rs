//! The numbers of this server: `proto/README.md`, "linkspan.cache.v1". Those of blobs and of times are the exporter API's.

/// Refs in a message of Resolve.
pub(crate) const RESOLVE_REFS: usize = 16;
/// Platforms in a message of Resolve.
pub(crate) const RESOLVE_PLATFORMS: usize = 64;
/// Ids of versions in a message of Resolve: as many as there can be of its refs.
pub(crate) const RESOLVE_VERSIONS: usize = 1024;
/// Watches at once.
pub(crate) const WATCHES: usize = 64;
/// Holds at once.
pub(crate) const HOLDS: usize = 1024;
/// Exports that have not ended.
pub(crate) const OPEN_EXPORTS: usize = 256;
/// Exports that have ended and are remembered. The oldest are forgotten first.
pub(crate) const ENDED_EXPORTS: usize = 1024;
pub(crate) const TARGETS: usize = 16;
/// Versions of a part that can be kept.
pub(crate) const KEEP: usize = 64;
/// Bytes of each name of a part.
pub(crate) const PART_BYTES: usize = 200;
/// Bytes of the title of a part that is copied.
pub(crate) const TITLE_BYTES: usize = 512;
pub(crate) const REF_BYTES: usize = 200;
pub(crate) const BUILDER_BYTES: usize = 128;
/// Patterns in a message of Prune.
pub(crate) const PATTERNS: usize = 64;
/// Versions on a page of List.
pub(crate) const PAGE: usize = 1000;
/// Lookups in a message of Query, keys in one of Records.
pub(crate) const LOOKUPS: usize = 1000;
/// Keys in a response of Query, results in one of Records.
pub(crate) const FOUND: usize = 10_000;
/// Versions of a hold that Query looks into.
pub(crate) const QUERIED_PARTS: usize = 32;
/// Layers of all results in a response of Records.
pub(crate) const QUERIED_LAYERS: usize = 1_000_000;
/// Records of an export that were put.
pub(crate) const PUT_RECORDS: usize = 50_000;
/// Layers of the results of these.
pub(crate) const PUT_LAYERS: usize = 10_000;
/// Alternatives for inputs, and layers of results, of these all together.
pub(crate) const PUT_POSITIONS: usize = 500_000;
