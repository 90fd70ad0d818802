//! The media type of a document without a descriptor.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::image::Kind;

/// The keys that distinguish documents.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    rootfs: Option<IgnoredAny>,
}

/// The media type of an index, manifest or image config: its `mediaType`, else OCI's type for its form, because Docker's
/// indexes and manifests always have a `mediaType`. `None` for anything else.
///
/// A guess only: [`Document::parse`](super::Document::parse) with it still refuses what contradicts itself.
pub fn media_type_of(bytes: &[u8]) -> Option<String> {
    let keys: Keys = serde_json::from_slice(bytes).ok()?;
    if let Some(media_type) = keys.media_type.filter(|media_type| Kind::of(media_type).is_document()) {
        return Some(media_type);
    }
    let by_form = match keys {
        Keys { manifests: Some(_), layers: None, .. } => "application/vnd.oci.image.index.v1+json",
        Keys { layers: Some(_), config: Some(_), manifests: None, .. } => "application/vnd.oci.image.manifest.v1+json",
        Keys { rootfs: Some(_), layers: None, manifests: None, .. } => "application/vnd.oci.image.config.v1+json",
        _ => return None,
    };
    Some(by_form.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_known_by_their_words_or_their_form() {
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        for (json, expected) in [
            (
                r#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[],"config":{}}"#,
                Some(docker),
            ),
            (r#"{"manifests":[]}"#, Some("application/vnd.oci.image.index.v1+json")),
            (r#"{"config":{},"layers":[]}"#, Some("application/vnd.oci.image.manifest.v1+json")),
            (r#"{"os":"linux","rootfs":{},"config":{}}"#, Some("application/vnd.oci.image.config.v1+json")),
            (r#"{"mediaType":"application/json","manifests":[]}"#, Some("application/vnd.oci.image.index.v1+json")),
            (r#"{"manifests":[],"layers":[],"config":{}}"#, None),
            (r#"{"_type":"https://in-toto.io/Statement/v0.1"}"#, None),
            ("[]", None),
            ("\u{1f}\u{8b}", None),
        ] {
            assert_eq!(media_type_of(json.as_bytes()).as_deref(), expected, "{json}");
        }
    }
}
