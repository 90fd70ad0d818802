//! Build caches above an engine's store of them: names, parts, limits, and what a build is offered.
//!
//! [`Caches`] is the layer between doors, which speak to builders, and a [`CacheStore`], which stores what it is
//! given. A build that writes a cache begins a [`CacheExport`] and commits BuildKit's documents; the older version of the same
//! part is then superseded. A build that reads one gets [`ResolvedPart`]s, whose versions stay until it has ended.
//!
//! [`CacheStore`]: crate::engine::caches::CacheStore

mod blobs;
mod copy;
mod current;
mod error;
mod events;
mod export;
mod guards;
mod index;
mod inline;
mod inspect;
mod limits;
mod lookup;
mod name;
mod part;
mod prune;
mod reader;
mod resolve;
mod root;
mod service;
#[cfg(test)]
mod tests;
mod usage;
mod watch;

pub(crate) use blobs::CacheBlobs;
pub use copy::{Copied, CopySource};
pub use current::CurrentVersion;
pub use error::CacheError;
pub use events::{CacheEvent, Change};
pub use export::CacheExport;
pub use guards::VersionGuard;
pub use index::{CacheIndex, Following};
pub use inline::InlineCache;
pub use inspect::{Details, Inspected};
pub(crate) use limits::MAX_PARTS;
pub use limits::{CacheLimits, Dropped, Limit};
pub use name::{CachePolicy, CacheRef};
pub use part::Part;
pub use prune::{Pruned, Selection};
pub use reader::{CacheReader, ReadTotals};
pub use resolve::ResolvedPart;
pub(crate) use root::read_root;
pub use service::{CacheSettings, Caches};
pub use usage::{Usage, VersionUsage};
