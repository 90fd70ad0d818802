//! Why the root file system of an image cannot be made.

use crate::image::{Digest, DocumentError};
use crate::source::SourceError;

/// Why a root file system cannot be made.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// A layer cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The layers cannot be paired with diff ids.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A layer is invalid.
    #[error("the layer {layer}: {reason}")]
    Layer {
        /// The layer.
        layer: Digest,
        /// The reason, which names the file.
        reason: String,
    },
    /// A layer does not match its diff id in the config.
    #[error("the layer {layer} holds {actual}, and the config of the image says {expected}")]
    DiffId {
        /// The layer.
        layer: Digest,
        /// The diff id of the config.
        expected: Digest,
        /// The digest of the layer.
        actual: Digest,
    },
    /// A foreign layer is absent.
    #[error("the foreign layer {layer} is absent, and its files are needed")]
    Absent {
        /// The layer.
        layer: Digest,
    },
    /// The graph has no image with files.
    #[error("it has no image with files")]
    NoImage,
    /// Two different images are for one platform.
    #[error("two of the images are for {platform}, and their files need a folder each; name one of them as the root")]
    SamePlatform {
        /// The platform.
        platform: String,
    },
    /// The files of two platforms would be the same.
    #[error("`{path}` is in the image for {first} and in the one for {second}; leave `platform-split` on for both")]
    Overlap {
        /// The file.
        path: String,
        /// The first platform.
        first: String,
        /// The other platform.
        second: String,
    },
    /// A path or a number that a tar archive cannot represent.
    #[error("`{path}` cannot be in an archive: {reason}")]
    UnrepresentablePath {
        /// The file.
        path: String,
        /// What cannot be represented.
        reason: String,
    },
    /// The archive would be larger than readers accept.
    #[error("the files of the image come to more than 8 EiB")]
    TooLarge,
    /// A bound of [`Limits`](super::Limits) is exceeded.
    #[error("{what} of the image exceed {limit}")]
    Limit {
        /// What exceeds it.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}
