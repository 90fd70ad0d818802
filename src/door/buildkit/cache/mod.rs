//! `--cache-to type=linkspan` and `--cache-from type=linkspan`.
//!
//! No builder knows this type. So a builder gets `type=local` in its place, which reads and writes a content store of its client's
//! session (BuildKit `cache/remotecache/local`), under ids that begin with `local:linkspan:`: the session is split, and
//! [`Caching`] serves these stores from the engine. Layers that the engine has are never moved; others are read from the
//! builder's own content store while its export goes on.

mod attributes;
mod build;
mod builder_export;
mod context;
mod display;
mod error;
mod exports;
mod imports;
mod loopback;
mod options;
mod results;
mod solve;
mod stored;
mod stores;
mod write;

pub(super) use build::CacheBuild;
pub(super) use display::renamed;
pub(super) use options::CacheOptions;
pub(super) use solve::{CacheRefusal, Cached};
pub(super) use stores::Caching;
#[cfg(test)]
pub(super) use stores::store_of_ours;

/// The type of the entries that are ours.
const KIND: &str = "linkspan";

/// How the ids of our stores begin in the builder's attributes, where others are paths of the client's; in a session `local:`
/// stands before it.
const STORE_PREFIX: &str = "linkspan:";
