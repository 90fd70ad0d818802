//! Outputs of an image other than a record in an engine: tar archives, root file systems, folders.
//!
//! An [`Output`] reads its blobs from a [`Source`] and does not know where its bytes go.
//!
//! ```no_run
//! # async fn save(
//! #     graph: linkspan::image::Graph,
//! #     source: std::sync::Arc<dyn linkspan::source::Source>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use std::collections::HashSet;
//! use std::io::Write as _;
//! use std::sync::Arc;
//!
//! use futures_util::StreamExt as _;
//! use linkspan::output::Output as _;
//! use linkspan::output::archive::{Archive, ArchiveFormat};
//!
//! let archive = Archive::new(&graph, &["demo:1".parse()?], ArchiveFormat::Save, &HashSet::new())?;
//! let mut chunks = Arc::new(archive).read(source, 0);
//! while let Some(chunk) = chunks.next().await {
//!     std::io::stdout().write_all(&chunk?)?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod archive;
pub mod folder;
mod header;
pub(crate) mod items;
pub(crate) mod member;
pub mod rootfs;

use std::fmt::Debug;
use std::sync::Arc;

use crate::source::{Chunks, Source};

/// A stream of bytes whose size is known before it is read.
pub trait Output: Debug + Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Its bytes from `offset` on, the same each time; blobs are read from `source` as the stream is polled. An error ends
    /// the stream.
    fn read(self: Arc<Self>, source: Arc<dyn Source>, offset: u64) -> Chunks;
}
