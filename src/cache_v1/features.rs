//! What a server can do beyond the first methods of this version: `proto/README.md`, "linkspan.cache.v1".

/// List and Usage say what versions take, and what the limits would delete.
pub(crate) const USAGE: &str = "usage";
/// Inspect of one version, with its layers.
pub(crate) const INSPECT_VERSION: &str = "inspect-version";
/// Versions are copied as they are: with their parts, without lost layers.
pub(crate) const COPIES: &str = "copies";
/// The result of a Commit has the versions that went because of a limit.
pub(crate) const DROPPED: &str = "dropped";
