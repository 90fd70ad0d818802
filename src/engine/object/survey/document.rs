//! What manifests and indexes refer to.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::key::{Key, key};
use crate::image::{Digest, Kind};

/// What of a manifest or index may refer to others: of OCI, Docker, its first schema, and artifacts.
///
/// Registries take more than what is right, and one document that could not be read would stop all collections: whatever is
/// below these keys is taken for references if it looks like that. Keys are matched without regard to case, as Go does.
#[derive(Default)]
struct References(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for References {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap;
        impl<'de> Visitor<'de> for OfMap {
            type Value = References;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<References, A::Error> {
                let mut found = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let key = key.to_ascii_lowercase();
                    if ["config", "layers", "blobs", "manifests", "fslayers", "subject"].contains(&key.as_str()) {
                        found.push((key, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(References(found))
            }
        }
        deserializer.deserialize_map(OfMap)
    }
}

/// The text in the first of `names` that an object has.
fn field<'v>(object: &'v Map<String, Value>, names: &[&str]) -> Option<&'v str> {
    let found = object.iter().find(|(key, _)| names.iter().any(|name| key.eq_ignore_ascii_case(name)));
    found.and_then(|(_, value)| value.as_str())
}

/// The digests, and the media types, of a reference or of a list of them.
fn references(value: &Value) -> Vec<(Digest, Option<&str>)> {
    let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let objects = items.iter().filter_map(Value::as_object);
    // A digest of another kind is none of a blob that could be here.
    let reference =
        |object| Some((field(object, &["digest", "blobSum"])?.parse().ok()?, field(object, &["mediaType"])));
    objects.filter_map(reference).collect()
}

/// What a document refers to.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) blobs: Vec<Key>,
    /// Those of its blobs that refer to others in turn.
    pub(super) documents: Vec<Digest>,
    pub(super) subject: Option<Key>,
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let found: References = serde_json::from_slice(bytes)?;
        let mut document = Self::default();
        for (name, value) in &found.0 {
            for (digest, media_type) in references(value) {
                if name == "subject" {
                    document.subject = Some(key(&digest));
                    continue;
                }
                document.blobs.push(key(&digest));
                // BuildKit lists the layers of a cache in an index.
                if name == "manifests" && media_type.is_none_or(is_document) {
                    document.documents.push(digest);
                }
            }
        }
        Ok(document)
    }
}

/// Whether blobs of this media type refer to others.
pub(super) fn is_document(media_type: &str) -> bool {
    matches!(Kind::of(media_type), Kind::Index | Kind::Manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    #[test]
    fn documents_of_all_kinds_refer_to_others() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(digest);
        let text = serde_json::json!({
            "config": {"digest": a}, "layers": [{"digest": b}], "fsLayers": [{"blobSum": c}], "subject": {"digest": d},
        });
        let found = Document::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!((found.blobs, found.subject), (vec![key(&a), key(&c), key(&b)], Some(key(&d))));
        let text = serde_json::json!({"manifests": [
            {"digest": a, "mediaType": "application/vnd.oci.image.manifest.v1+json"}, {"digest": b},
            {"digest": c, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"},
        ]});
        let found = Document::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!((found.blobs, found.documents), ([&a, &b, &c].map(key).to_vec(), vec![a, b]));
        assert!(Document::parse(b"no document").is_err() && Document::parse(b"[]").is_err());
    }

    #[test]
    fn what_registries_take_is_read_however_odd_it_is() {
        let [a, b, c] = ["a", "b", "c"].map(digest);
        for (text, expected) in [
            (r#"{"layers": null, "manifests": null, "config": null, "subject": null}"#.to_owned(), vec![]),
            (format!(r#"{{"Config": {{"Digest": "{a}"}}, "LAYERS": [{{"digest": "{b}"}}, null, 7]}}"#), vec![&a, &b]),
            (
                format!(r#"{{"blobs": "x", "fsLayers": {{"blobsum": "{c}"}}, "layers": [{{"digest": "md4:7"}}]}}"#),
                vec![&c],
            ),
            (
                format!(
                    r#"{{"annotations": {{"of": [{{"digest": "{a}"}}]}}, "x": {}7{}}}"#,
                    "[".repeat(500),
                    "]".repeat(500)
                ),
                vec![],
            ),
        ] {
            let found = Document::parse(text.as_bytes()).unwrap();
            assert_eq!(found.blobs, expected.into_iter().map(key).collect::<Vec<_>>(), "{text}");
        }
    }
}
