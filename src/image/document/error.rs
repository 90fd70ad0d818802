//! Why a document is refused.

use crate::image::Digest;

/// Why a blob is not the document its descriptor promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Too many bytes to be held in memory.
    #[error("{digest} ({media_type}) has {size} bytes, more than the {limit} that are read of such a document")]
    TooLarge {
        /// Which document.
        digest: Digest,
        /// Its media type by its descriptor.
        media_type: String,
        /// Its size by its descriptor, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The blob is of another size than its descriptor says.
    #[error("{digest} should have {expected} bytes but has {actual}; the source is damaged or its descriptor wrong")]
    SizeMismatch {
        /// Which document.
        digest: Digest,
        /// The size by its descriptor, in bytes.
        expected: u64,
        /// The size that it has.
        actual: u64,
    },
    /// The blob has another digest than the requested one.
    #[error("the bytes of {expected} have the digest {actual}; the source is damaged")]
    DigestMismatch {
        /// The digest by its descriptor.
        expected: Digest,
        /// The digest that it has.
        actual: Digest,
    },
    /// The media type names no document of an image.
    #[error("{digest} has the media type `{media_type}`; expected an image index, manifest or config")]
    NotADocument {
        /// Which blob.
        digest: Digest,
        /// Its media type by its descriptor.
        media_type: String,
    },
    /// The document's own media type differs.
    #[error("{digest} is described as {expected} but calls itself `{actual}`; build or push the image anew")]
    MediaType {
        /// Which document.
        digest: Digest,
        /// Its media type by its descriptor.
        expected: String,
        /// Its own media type.
        actual: String,
    },
    /// The document can be read as two kinds.
    #[error("{digest} is described as {media_type} but has the key `{key}`, which such a document must not have")]
    Contradiction {
        /// Which document.
        digest: Digest,
        /// Its media type by its descriptor.
        media_type: String,
        /// The key that does not belong there.
        key: &'static str,
    },
    /// An index or manifest of another generation.
    #[error("{digest} has schemaVersion {actual}; only 2 is supported, so push the image anew with a current tool")]
    SchemaVersion {
        /// Which document.
        digest: Digest,
        /// The version that it gives.
        actual: u64,
    },
    /// The JSON is broken, lacks something or can be read in two ways.
    #[error("{digest} is not valid JSON for {media_type}: {reason}")]
    Malformed {
        /// Which document.
        digest: Digest,
        /// What it should have been.
        media_type: String,
        /// The parser's error.
        reason: String,
    },
    /// Layers and diff ids cannot be paired.
    #[error("the config {config} has {diff_ids} diff ids for {layers} layers; expected one for each")]
    LayerCount {
        /// The image config.
        config: Digest,
        /// How many layers the manifest has.
        layers: usize,
        /// How many diff ids the config has.
        diff_ids: usize,
    },
}
