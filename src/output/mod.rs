//! What can be made of an image beside a record in an engine: streams of bytes that other programs read, and folders.
//!
//! Everything here reads from a [`Source`] and knows neither who asks nor where the bytes go.

pub mod archive;
pub mod folder;
mod header;
pub(crate) mod items;
pub(crate) mod member;
pub mod rootfs;

use std::fmt::Debug;
use std::sync::Arc;

use crate::source::{Chunks, Source};

/// A stream of bytes that is planned to the last one, and made while it is read.
pub trait Output: Debug + Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Its bytes from `offset` on, the same each time, read from `source` as the stream is polled. Nothing follows an
    /// error.
    fn read(self: Arc<Self>, source: Arc<dyn Source>, offset: u64) -> Chunks;
}
