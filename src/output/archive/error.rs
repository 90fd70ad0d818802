//! Why an image cannot be had as an archive.

use crate::image::Digest;

/// What can go wrong before an archive is read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// An archive for `docker load` has one image.
    #[error(
        "an archive for docker holds the image of one platform, and this one is for {}; choose one, or the type `oci`",
        listed(.platforms)
    )]
    Platforms {
        /// What the image is for, attestations left out.
        platforms: Vec<String>,
    },
    /// A layer of the image is not at hand.
    #[error("the layer {digest} is to be had elsewhere only, and an archive for docker must hold it; choose `oci`")]
    Absent {
        /// The layer.
        digest: Digest,
    },
    /// The image is larger than archives can say.
    #[error("the image is larger than an archive of 8 EiB")]
    TooLarge,
    /// One of the archive's own documents could not be written.
    #[error("writing {name}: {reason}")]
    Frame {
        /// Which.
        name: &'static str,
        /// What the writer says.
        reason: String,
    },
}

fn listed(platforms: &[String]) -> String {
    if platforms.is_empty() { "none that can be run".to_owned() } else { platforms.join(", ") }
}
