//! Where an export reads blobs from: builders, archives, registries, engines.
//!
//! ```
//! use std::collections::HashMap;
//!
//! use async_trait::async_trait;
//! use bytes::Bytes;
//! use futures_util::{StreamExt, stream};
//! use linkspan::image::{Descriptor, Digest};
//! use linkspan::source::{Chunks, Source, SourceError, read_document};
//!
//! #[derive(Debug)]
//! struct Memory(HashMap<Digest, Bytes>);
//!
//! #[async_trait]
//! impl Source for Memory {
//!     fn name(&self) -> &str {
//!         "memory"
//!     }
//!     async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
//!         let chunk = Ok(self.0[&blob.digest].slice(offset as usize..));
//!         Ok(stream::iter([chunk]).boxed())
//!     }
//! }
//!
//! let digest = Digest::sha256(b"hello");
//! let blob = Descriptor::new("text/plain", digest.clone(), 5);
//! let memory = Memory([(digest, Bytes::from_static(b"hello"))].into());
//! let runtime = tokio::runtime::Runtime::new()?;
//! assert_eq!(runtime.block_on(read_document(&memory, &blob))?, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod archive;
mod buildkit_content;
mod choose;
mod document;
mod equal_layers;
mod graph;
mod lookup;
mod part;
mod range;
pub(crate) mod tree;
mod verified;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::image::{Descriptor, Digest};

pub use buildkit_content::BuildkitContent;
pub use choose::{Choice, ChoiceError, choose, choose_one};
pub use document::read_document;
pub use equal_layers::{EqualLayer, EqualLayers};
pub use graph::{OnMissing, ReadGraphError, read_graph};
pub use lookup::BlobLookup;
pub use part::{Part, part};
pub use range::read_range;
pub(crate) use verified::Verified;

/// The bytes of a blob, in chunks.
pub type Chunks = BoxStream<'static, Result<Bytes, SourceError>>;

/// Something that holds the blobs of an image.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// Its name in messages: `builder unix:///run/buildkit/buildkitd.sock`.
    fn name(&self) -> &str;

    /// Opens a blob for reading, from byte `offset` (at most its size) to its end. Chunks are at most a few MiB. To read
    /// less, drop the stream ([`read_range`]). The bytes are not verified here: the engine verifies a blob when it is
    /// committed, and a document is verified when it is parsed.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] when the source does not hold the blob.
    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError>;
}

impl SourceError {
    /// Why, for messages that say already that the blob is read.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Read { reason, .. } => reason.clone(),
            error => error.to_string(),
        }
    }
}

/// Why a blob cannot be read.
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
        /// The error that the source gave.
        reason: String,
    },
    /// The source sent fewer or more bytes than the descriptor says.
    #[error("{name} sent {actual} bytes of {digest}, expected {expected}")]
    Length {
        /// The source.
        name: String,
        /// The blob.
        digest: Digest,
        /// The size in the descriptor.
        expected: u64,
        /// The bytes that were read.
        actual: u64,
    },
}
