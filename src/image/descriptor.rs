//! Descriptors: what a document says of another blob.

use std::collections::BTreeMap;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};

use super::json::null_as_default;
use super::{Digest, Kind, Platform};

/// The digest of a layer's uncompressed form: an annotation of the layer's descriptor, and in containerd a label of its blob
/// (containerd `core/images/labels`).
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// BuildKit's mark on the entries of an index that hold attestations (buildkit
/// `docs/attestations/attestation-storage.md`).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const ATTESTATION: &str = "attestation-manifest";

/// An OCI content descriptor (image-spec `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the blob.
    #[serde(default, deserialize_with = "null_as_default")]
    pub media_type: String,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes. What was read from JSON never exceeds `i64::MAX`, the most that
    /// the engines' APIs can say.
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// The platform, on entries of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The artifact type, if the blob is an artifact manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor that says only what every descriptor must.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// What the media type says the blob is.
    pub fn kind(&self) -> Kind {
        Kind::of(&self.media_type)
    }

    /// Whether this entry of an index holds attestations (provenance, SBOM) and no image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == ATTESTATION)
    }
}

/// A size that fits the signed 64 bits of Go's descriptors.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    if i64::try_from(size).is_err() {
        return Err(D::Error::invalid_value(
            Unexpected::Unsigned(size),
            &"a size of at most 9223372036854775807 bytes",
        ));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Descriptor, serde_json::Error> {
        let digest = Digest::sha256(b"");
        serde_json::from_str(&json.replace("DIGEST", digest.as_str()))
    }

    #[test]
    fn reads_what_go_writes() {
        let bare = parse(r#"{"mediaType":"a/b","digest":"DIGEST","size":7}"#).unwrap();
        assert_eq!(bare, Descriptor::new("a/b", Digest::sha256(b""), 7));
        let nulls = r#"{"mediaType":"a/b","digest":"DIGEST","size":7,"annotations":null,"platform":null,"urls":null}"#;
        assert_eq!(parse(nulls).unwrap(), bare);
        let untyped = parse(r#"{"mediaType":null,"digest":"DIGEST","size":0}"#).unwrap();
        assert_eq!((untyped.media_type.as_str(), untyped.kind()), ("", Kind::Other));
    }

    #[test]
    fn refuses_sizes_that_no_engine_can_name() {
        for (size, why) in [
            ("-1", "`-1`, expected u64"),
            ("9223372036854775808", "at most 9223372036854775807"),
            ("18446744073709551616", "expected u64"),
            ("1.5", "expected u64"),
            ("\"1\"", "expected u64"),
            ("null", "expected u64"),
        ] {
            let error = parse(&format!(r#"{{"digest":"DIGEST","size":{size}}}"#)).unwrap_err().to_string();
            assert!(error.contains(why), "{size}: {error}");
        }
        assert_eq!(parse(r#"{"digest":"DIGEST","size":9223372036854775807}"#).unwrap().size, i64::MAX as u64);
    }

    #[test]
    fn requires_a_digest() {
        for json in [r#"{"size":1}"#, r#"{"digest":"","size":1}"#, r#"{"digest":"sha256:../../etc","size":1}"#] {
            assert!(parse(json).unwrap_err().to_string().contains("digest"), "{json}");
        }
    }

    #[test]
    fn knows_attestations_by_their_annotation() {
        let mut descriptor = Descriptor::new("", Digest::sha256(b""), 0);
        assert!(!descriptor.is_attestation());
        descriptor.annotations.insert(REFERENCE_TYPE.into(), "something-else".into());
        assert!(!descriptor.is_attestation());
        descriptor.annotations.insert(REFERENCE_TYPE.into(), ATTESTATION.into());
        assert!(descriptor.is_attestation());
    }
}
