//! Media types, sorted into the kinds that matter here.

/// What a blob is, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An OCI index or a Docker manifest list.
    Index,
    /// An OCI or Docker image manifest.
    Manifest,
    /// An OCI or Docker image config.
    Config,
    /// A file-system layer.
    Layer,
    /// A layer that is fetched from elsewhere and usually absent (Docker foreign, OCI non-distributable).
    ForeignLayer,
    /// Anything else: attestation payloads, the empty JSON config, artifacts.
    Other,
}

impl Kind {
    /// The kind that `media_type` names.
    pub fn of(media_type: &str) -> Self {
        match media_type {
            "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                Self::Index
            }
            "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" => {
                Self::Manifest
            }
            "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json" => {
                Self::Config
            }
            _ if media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.")
                || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff.") =>
            {
                Self::ForeignLayer
            }
            _ if media_type.starts_with("application/vnd.oci.image.layer.v1.")
                || media_type.starts_with("application/vnd.docker.image.rootfs.diff.") =>
            {
                Self::Layer
            }
            _ => Self::Other,
        }
    }
}
