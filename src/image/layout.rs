//! The files that make a folder or an archive an OCI image layout (image-spec `image-layout.md`), and the annotations by
//! which its index names images.
//!
//! These annotations belong to the index: containerd, dockerd and every reader of a layout take them for names. A root that
//! kept those of another index would get a name that nobody asked for and no policy saw.
//!
//! ```
//! use linkspan::image::{Descriptor, Digest, layout};
//!
//! let root = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"{}"), 2);
//! let index = layout::index(&layout::entries(&root, &["demo:1".parse().unwrap()])).unwrap();
//! assert!(String::from_utf8(index).unwrap().contains("docker.io/library/demo:1"));
//! ```

use serde::{Deserialize, Serialize};

use super::{Descriptor, Digest, Reference};

/// The file that says that there is a layout, and of which version.
pub const MARKER_FILE: &str = "oci-layout";
/// The version that we write, the only one so far.
pub const VERSION: &str = "1.0.0";
/// The content of [`MARKER_FILE`].
pub const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The largest [`MARKER_FILE`] that is read, in bytes.
pub const MAX_MARKER: u64 = 64 << 10;

/// The file that lists the images.
pub const INDEX_FILE: &str = "index.json";
/// The content of [`INDEX_FILE`] in a layout without images.
pub const EMPTY_INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
/// The largest [`INDEX_FILE`] that is read, in bytes: some 100,000 names.
pub const MAX_INDEX: u64 = 32 << 20;

/// An image's whole name (containerd `core/images/annotations.go`). containerd and dockerd take it verbatim.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// A tag, or a name that each reader completes in its own way. containerd and dockerd use it where there is no whole name.
pub const REF_NAME: &str = oci_spec::image::ANNOTATION_REF_NAME;
/// The image to which an entry is a referrer (containerd `core/images/annotations.go`). containerd and dockerd make no
/// image of such an entry (containerd `client/import.go`).
pub const SUBJECT: &str = "io.containerd.manifest.subject";

/// Why a layout with this [`MARKER_FILE`] cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MarkerError {
    /// It is no JSON document of that kind.
    #[error("does not mark a layout: {0}")]
    Json(String),
    /// It names no version. containerd and dockerd take an archive with such a file for one that `docker save` made.
    #[error("names no `imageLayoutVersion`; expected `{VERSION}`")]
    NoVersion,
    /// The layout has another major version.
    #[error("says version `{0}`; expected `{VERSION}` or another of the same major version")]
    Version(String),
}

/// Checks the content of a [`MARKER_FILE`]: any version of the major one that we write can be read. What follows the JSON
/// value is ignored, as by Go's decoders.
///
/// # Errors
/// When it is malformed, or names no such version.
pub fn check_marker(content: &[u8]) -> Result<(), MarkerError> {
    #[derive(Deserialize)]
    struct Marker {
        #[serde(rename = "imageLayoutVersion", default)]
        version: String,
    }
    let Marker { version } = Marker::deserialize(&mut serde_json::Deserializer::from_slice(content))
        .map_err(|error| MarkerError::Json(error.to_string()))?;
    if version.is_empty() {
        return Err(MarkerError::NoVersion);
    }
    if version.split('.').next() != VERSION.split('.').next() {
        return Err(MarkerError::Version(version.chars().take(40).collect()));
    }
    Ok(())
}

impl Descriptor {
    /// The same without the annotations that name it in an index.
    #[must_use]
    pub fn without_names(mut self) -> Self {
        for key in [IMAGE_NAME, REF_NAME, SUBJECT] {
            self.annotations.remove(key);
        }
        self
    }
}

/// The path of a blob in a layout.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The entries of `root` in an index: one for each name, or one without. Each has the whole name, as containerd and dockerd
/// read it, and the tag, as skopeo does.
pub fn entries(root: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    let named = |name: &Reference| {
        let mut entry = root.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        entry.annotations.extend(name.tag().map(|tag| (REF_NAME.to_owned(), tag.to_owned())));
        entry
    };
    if names.is_empty() { vec![root.clone()] } else { names.iter().map(named).collect() }
}

/// The content of an [`INDEX_FILE`] with these entries. (`oci-spec` keeps annotations in hash maps, so that its index would
/// have other bytes each time.)
///
/// # Errors
/// When it cannot be written, which strings and numbers never cause.
pub fn index(manifests: &[Descriptor]) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index<'a> {
        schema_version: u8,
        media_type: &'static str,
        manifests: &'a [Descriptor],
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    serde_json::to_vec(&Index { schema_version: 2, media_type, manifests })
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{ImageIndex, MediaType, OciLayout};

    use super::*;

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

    #[test]
    fn versions_of_one_major_version_are_read() {
        for version in ["1.0.0", "1.1.0", "1"] {
            check_marker(format!(r#"{{"imageLayoutVersion":"{version}"}} "#).as_bytes()).unwrap();
        }
        check_marker(MARKER).unwrap();
        let refused = |text: &str| check_marker(text.as_bytes()).unwrap_err();
        for version in ["2.0.0", "10.0.0", "0.9"] {
            assert_eq!(
                refused(&format!(r#"{{"imageLayoutVersion":"{version}"}}"#)),
                MarkerError::Version(version.to_owned())
            );
        }
        assert_eq!(refused("{}"), MarkerError::NoVersion);
        for text in ["", "1.0.0", r#"{"imageLayoutVersion":1}"#] {
            assert!(matches!(refused(text), MarkerError::Json(_)), "{text}");
        }
    }

    #[test]
    fn the_bytes_are_stable_and_those_of_the_specification() {
        let mut root = Descriptor::new("a/b", Digest::sha256(b""), 7);
        root.annotations.insert("z".to_owned(), "kept".to_owned());
        let names = ["demo:1".parse().unwrap(), format!("demo@{}", root.digest).parse().unwrap()];
        let written = index(&entries(&root, &names)).unwrap();
        let entry = |name: &str, tag: &str| {
            format!(
                r#"{{"mediaType":"a/b","digest":"{0}","size":7,"annotations":{{"io.containerd.image.name":"docker.io/library/demo{name}"{tag},"z":"kept"}}}}"#,
                root.digest
            )
        };
        let (tagged, pinned) =
            (entry(":1", r#","org.opencontainers.image.ref.name":"1""#), entry(&format!("@{}", root.digest), ""));
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{tagged},{pinned}]}}"#
        );
        assert_eq!(String::from_utf8(written.clone()).unwrap(), expected);
        let read: ImageIndex = serde_json::from_slice(&written).unwrap();
        assert_eq!((read.media_type(), read.manifests().len()), (&Some(MediaType::ImageIndex), 2));

        let marker: OciLayout = serde_json::from_slice(MARKER).unwrap();
        assert_eq!(
            (marker.image_layout_version().as_str(), serde_json::to_vec(&marker).unwrap()),
            (VERSION, MARKER.to_vec())
        );
        assert!(serde_json::from_slice::<ImageIndex>(EMPTY_INDEX).unwrap().manifests().is_empty());
    }
}
