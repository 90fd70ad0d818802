//! The annotations by which a list of images names its entries.
//!
//! They belong to the list: containerd, dockerd and every reader of an OCI layout take them for names. An image that comes
//! with one of its own would get a name that nobody asked for and no policy saw.

use super::Descriptor;

/// An image's whole name (containerd `core/images/annotations.go`). containerd and dockerd take it verbatim.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// A tag, or a name of which a reader makes what it likes (image-spec `annotations.md`). containerd and dockerd take it
/// where there is no whole name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Of which other image an entry is a referrer (containerd `core/images/annotations.go`). containerd and dockerd make no
/// image of such an entry (containerd `client/import.go`).
pub const SUBJECT: &str = "io.containerd.manifest.subject";

impl Descriptor {
    /// The same without what a list would name it by: how the root of an image goes into an engine or an archive, which
    /// say themselves what it is called.
    #[must_use]
    pub fn without_names(mut self) -> Self {
        for key in [IMAGE_NAME, REF_NAME, SUBJECT] {
            self.annotations.remove(key);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn only_names_are_taken_away() {
        let mut descriptor = Descriptor::new("a/b", Digest::sha256(b""), 0);
        descriptor
            .annotations
            .insert("org.opencontainers.image.base.name".to_owned(), "docker.io/library/base".to_owned());
        let bare = descriptor.clone();
        for key in [IMAGE_NAME, REF_NAME, SUBJECT] {
            descriptor.annotations.insert(key.to_owned(), "docker.io/library/production:latest".to_owned());
        }
        assert_eq!(descriptor.without_names(), bare);
    }
}
