//! Why the root file system of an image cannot be made.

use crate::image::{Digest, DocumentError};
use crate::source::SourceError;

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// A layer cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The documents do not say what a layer is.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A layer is not what layers must be.
    #[error("the layer {layer}: {reason}")]
    Layer {
        /// The layer.
        layer: Digest,
        /// What is wrong, and with which of its files.
        reason: String,
    },
    /// A layer is not the one that the image's config names.
    #[error("the layer {layer} holds {actual}, and the config of the image says {expected}")]
    DiffId {
        /// The layer.
        layer: Digest,
        /// The diff id of the config.
        expected: Digest,
        /// The diff id that it has.
        actual: Digest,
    },
    /// A layer is not at hand.
    #[error("the layer {layer} is to be had elsewhere only, and its files are needed")]
    Absent {
        /// The layer.
        layer: Digest,
    },
    /// There is nothing to make a file system of.
    #[error("there is no image in it whose files could be had")]
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
        /// The platform that came first.
        first: String,
        /// The other one.
        second: String,
    },
    /// A file that no archive can describe.
    #[error("`{path}` cannot be in an archive: {reason}")]
    Unsayable {
        /// The file.
        path: String,
        /// What cannot be said of it.
        reason: String,
    },
    /// The archive would be larger than archives can be read.
    #[error("the files of the image come to more than 8 EiB")]
    TooLarge,
    /// A bound of [`Limits`](super::Limits) was passed.
    #[error("{what} of the image would come to more than {limit}")]
    Limit {
        /// What is too much.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}
