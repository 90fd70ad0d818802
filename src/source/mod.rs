//! Where an export's bytes are read from: the seam between a door and the export core.

pub mod archive;
mod buildkit_content;
mod choose;
mod document;
mod graph;
mod lookup;
mod part;
mod range;
mod same;
pub(crate) mod tree;

use std::fmt::Debug;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::image::{Descriptor, Digest};

pub use buildkit_content::BuildkitContent;
pub use choose::{Choice, ChoiceError, choose, choose_one};
pub use document::read_document;
pub use graph::{OnMissing, ReadGraphError, read_graph};
pub use lookup::BlobLookup;
pub use part::{Part, part};
pub use range::read_range;
pub use same::{SameLayer, SameLayers};

/// The bytes of a blob as they come.
pub type Chunks = BoxStream<'static, Result<Bytes, SourceError>>;

/// A place that holds the blobs of an image.
pub trait Source: Debug + Send + Sync {
    /// What it is, for messages: `builder unix:///run/buildkit/buildkitd.sock`.
    fn name(&self) -> &str;

    /// Opens a blob for reading, from its byte `offset` on; at most its size. Chunks are at most a few MiB; the
    /// stream ends after the blob's last byte. Whoever wants less drops the stream: what is then read in vain is a
    /// window of at most a few MiB ([`read_range`]). The bytes are not verified here: the engine does that when the
    /// blob is committed, and documents are verified when they are parsed.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] when the source does not hold the blob.
    fn open<'a>(&'a self, blob: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<Chunks, SourceError>>;
}

/// What can go wrong at a source.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The source does not hold the blob.
    #[error("{name} does not hold {digest}")]
    NotFound {
        /// The source.
        name: String,
        /// The blob.
        digest: Digest,
    },
    /// Reading failed.
    #[error("reading {digest} from {name} failed: {reason}")]
    Read {
        /// The source.
        name: String,
        /// The blob.
        digest: Digest,
        /// What the source said.
        reason: String,
    },
    /// The source sent fewer or more bytes than the descriptor says.
    #[error("{name} sent {actual} bytes of {digest}, expected {expected}")]
    Length {
        /// The source.
        name: String,
        /// The blob.
        digest: Digest,
        /// What the descriptor says.
        expected: u64,
        /// What came.
        actual: u64,
    },
}
