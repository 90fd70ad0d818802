//! What the caches of one builder's builds are read and written with.

use std::sync::Arc;

use super::super::local_content::BuilderContent;
use super::loopback::Loopback;
use crate::caches::Caches;
use crate::export::Exports;

/// The engine's caches, and how the builder is reached.
#[derive(Debug)]
pub(super) struct CacheContext {
    /// `None` where the engine stores none.
    pub(super) caches: Option<Arc<Caches>>,
    pub(super) exports: Arc<Exports>,
    pub(super) content: Arc<BuilderContent>,
    /// The builder's name.
    pub(super) builder: String,
    /// Where imports are lazy.
    pub(super) loopback: Option<Loopback>,
}
