//! Why an image cannot be written as an archive.

use crate::image::Digest;

/// Why an archive cannot be planned.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// An archive for `docker load` has the image of one platform.
    #[error(
        "an archive for docker holds the image of one platform, and this one is for {}; choose one, or the type `oci`",
        listed(.platforms)
    )]
    Platforms {
        /// The platforms of the image, without attestations.
        platforms: Vec<String>,
    },
    /// A foreign layer is absent.
    #[error("the foreign layer {digest} is absent, and an archive for docker must have it; choose `oci`")]
    Absent {
        /// The layer.
        digest: Digest,
    },
    /// The image is too large for an archive.
    #[error("the image is larger than an archive of 8 EiB")]
    TooLarge,
    /// A document of the archive could not be written.
    #[error("writing {name}: {reason}")]
    Frame {
        /// The document.
        name: &'static str,
        /// The serializer's error.
        reason: String,
    },
}

fn listed(platforms: &[String]) -> String {
    if platforms.is_empty() { "none that can be run".to_owned() } else { platforms.join(", ") }
}
