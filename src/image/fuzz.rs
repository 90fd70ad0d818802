//! The properties that the fuzz targets `reference` and `document` check for any bytes.

use bytes::Bytes;

use super::{Descriptor, Digest, Document, Limits, Platform, Reference, media_type_of};

/// An accepted name is written in a form that parses to the same name.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = text.parse::<Reference>() {
        assert_eq!(name.to_string().parse::<Reference>().as_ref(), Ok(&name), "{text} was written as {name}");
        // For people, as docker writes it: `docker.io/a.io/b` becomes `a.io/b`, which is another name.
        assert!(name.familiar().parse::<Reference>().is_ok(), "{text} was written as {}", name.familiar());
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert!(platform.to_string().parse::<Platform>().is_ok(), "{text} was written as {platform}");
    }
}

/// A document is read within its limits, and keeps its bytes.
pub fn document(bytes: &[u8]) {
    let _ = media_type_of(bytes);
    for media_type in [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ] {
        let descriptor = Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64);
        let parsed = Document::parse_within(descriptor, Bytes::copy_from_slice(bytes), &Limits::default());
        if let Ok(document) = parsed {
            assert_eq!(document.bytes, bytes);
            document.children().iter().for_each(|child| assert!(!child.digest.as_str().is_empty()));
        }
    }
}
