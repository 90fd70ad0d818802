//! Media types, sorted into the kinds that matter here.

/// What a blob is, by its media type.
///
/// The sorting is that of containerd (`core/images/mediatypes.go`), which the engines use.
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
            _ if media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
                || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.") =>
            {
                Self::ForeignLayer
            }
            _ if media_type.starts_with("application/vnd.oci.image.layer.")
                || media_type.starts_with("application/vnd.docker.image.rootfs.diff.")
                || media_type.starts_with("application/vnd.erofs.layer.v1") =>
            {
                Self::Layer
            }
            _ => Self::Other,
        }
    }

    /// Whether blobs of this kind are JSON documents that a walk reads.
    pub fn is_document(self) -> bool {
        matches!(self, Self::Index | Self::Manifest | Self::Config)
    }

    /// How much is asked of a blob of this kind: a document is read, a layer is unpacked, another blob is there, and a foreign
    /// layer need not be.
    pub(super) fn demand(self) -> u8 {
        match self {
            Self::ForeignLayer => 0,
            Self::Other => 1,
            Self::Layer => 2,
            Self::Index | Self::Manifest | Self::Config => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn sorts_as_containerd_does() {
        for (media_type, kind) in [
            ("application/vnd.oci.image.index.v1+json", Kind::Index),
            ("application/vnd.docker.distribution.manifest.list.v2+json", Kind::Index),
            ("application/vnd.oci.image.manifest.v1+json", Kind::Manifest),
            ("application/vnd.docker.distribution.manifest.v2+json", Kind::Manifest),
            ("application/vnd.oci.image.config.v1+json", Kind::Config),
            ("application/vnd.docker.container.image.v1+json", Kind::Config),
            ("application/vnd.oci.image.layer.v1.tar", Kind::Layer),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Kind::Layer),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", Kind::Layer),
            ("application/vnd.docker.image.rootfs.diff.tar", Kind::Layer),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Kind::Layer),
            ("application/vnd.erofs.layer.v1", Kind::Layer),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Kind::ForeignLayer),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Kind::ForeignLayer),
            ("application/vnd.oci.empty.v1+json", Kind::Other),
            ("application/vnd.in-toto+json", Kind::Other),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", Kind::Other),
            ("Application/vnd.oci.image.index.v1+json", Kind::Other),
            ("application/vnd.oci.image.index.v1+json; charset=utf-8", Kind::Other),
            ("", Kind::Other),
        ] {
            assert_eq!(Kind::of(media_type), kind, "{media_type}");
            assert_eq!(kind.is_document(), matches!(kind, Kind::Index | Kind::Manifest | Kind::Config), "{media_type}");
        }
    }
}
