//! The answer to a build: what each exporter gave, and the one map that today's clients read.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use oci_spec::image::ANNOTATION_CREATED;
use prost_types::Timestamp;
use serde::Serialize;

use super::exporters::Exporter;
use super::wire::{WireError, entry, fields, put_map};
use crate::export::response::{CONFIG_DIGEST, DESCRIPTOR, DIGEST, NAME, image_response};
use crate::image::{Descriptor, Reference};

/// The only field of a `SolveResponse` so far.
const EXPORTER_RESPONSE: u32 = 1;

/// The list of results that a request with several exporters gets beside the merged map.
const RESULTS: &str = "exporter.results";

/// The keys of one map.
pub(super) type Keys = BTreeMap<String, String>;

/// A `SolveResponse`.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The merged map.
    pub(super) keys: Keys,
    /// Fields that we do not know.
    rest: Vec<u8>,
}

/// One exporter's own result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ExporterResult {
    /// Its place in the request, which is its id.
    pub(super) id: usize,
    /// Its type, as the client named it.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Its answer.
    pub(super) response: Keys,
}

impl Answer {
    /// Reads an answer.
    pub(super) fn read(message: &[u8]) -> Result<Self, WireError> {
        let (mut keys, mut rest) = (Keys::new(), Vec::new());
        for field in fields(message) {
            let field = field?;
            match field.number {
                EXPORTER_RESPONSE => keys.extend([entry(field.bytes)?]),
                _ => rest.extend_from_slice(field.raw),
            }
        }
        Ok(Self { keys, rest })
    }

    /// The answer's bytes.
    pub(super) fn write(&self) -> Bytes {
        let mut message = self.rest.clone();
        put_map(&mut message, EXPORTER_RESPONSE, &self.keys);
        message.into()
    }

    /// The root of the only image in the answer; with several exporters, of the last one's.
    pub(super) fn root(&self) -> Option<Descriptor> {
        let json = BASE64.decode(self.keys.get(DESCRIPTOR)?).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// The name that the frontend chose, where the client asked for that.
    pub(super) fn chosen_name(&self) -> Option<&str> {
        self.keys.get(NAME).map(String::as_str)
    }

    /// Puts the exporters' own results in place of what the builder merged: in the order of the request, the last
    /// writer of a key wins, as without us. With several exporters the results are also listed one by one.
    pub(super) fn merge(&mut self, results: &[ExporterResult]) {
        for key in [DESCRIPTOR, DIGEST, CONFIG_DIGEST, NAME] {
            self.keys.remove(key);
        }
        for result in results {
            self.keys.extend(result.response.clone());
        }
        if results.len() > 1
            && let Ok(json) = serde_json::to_vec(results)
        {
            self.keys.insert(RESULTS.to_owned(), BASE64.encode(json));
        }
    }
}

/// What an image exporter answers for `root`. `load` adds what only the `oci` and `docker` exporters say: the names
/// in full and the time of the export.
pub(super) fn image_keys(
    exporter: &Exporter,
    root: &Descriptor,
    config: Option<String>,
    load: Option<&[Reference]>,
) -> Keys {
    let mut root = root.clone();
    let names = match load {
        Some(names) => {
            // The `oci` exporter adds this to its answer, `image` does not (BuildKit `exporter/oci/export.go`).
            root.annotations.entry(ANNOTATION_CREATED.to_owned()).or_insert_with(|| created(exporter).to_string());
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            (!names.is_empty()).then(|| names.join(","))
        }
        None => exporter.attrs.get("name").cloned(),
    };
    image_response(&root, config, names)
}

/// The config's digest in an answer with a single image.
pub(super) fn config_digest(keys: &Keys) -> Option<String> {
    keys.get(CONFIG_DIGEST).cloned()
}

/// The time of the export: now, or what `source-date-epoch` says; whole seconds.
fn created(exporter: &Exporter) -> Timestamp {
    let epoch = exporter.attrs.get("source-date-epoch").and_then(|seconds| seconds.parse().ok());
    let seconds = epoch.unwrap_or_else(|| Timestamp::from(SystemTime::now()).seconds);
    Timestamp { seconds, nanos: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn root(content: &str) -> Descriptor {
        Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: Digest::sha256(content.as_bytes()),
            size: 7,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    fn result(id: usize, kind: &str, response: Keys) -> ExporterResult {
        ExporterResult { id, kind: kind.into(), response }
    }

    #[test]
    fn a_load_answers_with_full_names_and_the_time() {
        let exporter =
            Exporter { kind: "oci".into(), attrs: [("source-date-epoch".to_owned(), "0".to_owned())].into() };
        let names: Vec<Reference> = ["a", "b:1"].map(|name| name.parse().unwrap()).into();
        let keys = image_keys(&exporter, &root("x"), None, Some(&names));
        assert_eq!(keys[NAME], "docker.io/library/a:latest,docker.io/library/b:1");
        let answer = Answer { keys, rest: Vec::new() };
        assert_eq!(answer.root().unwrap().annotations[ANNOTATION_CREATED], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn the_last_exporter_wins_and_each_is_listed() {
        let mut answer = Answer { keys: [("frontend.x".to_owned(), "1".to_owned())].into(), rest: Vec::new() };
        let exporter = Exporter::default();
        let results = [
            result(0, "oci", image_keys(&exporter, &root("first"), None, Some(&[]))),
            result(1, "local", Keys::new()),
            result(2, "image", image_keys(&exporter, &root("last"), None, None)),
        ];
        answer.merge(&results);
        assert_eq!(answer.root().unwrap().digest, root("last").digest);
        assert_eq!(answer.keys["frontend.x"], "1");
        let listed: serde_json::Value = serde_json::from_slice(&BASE64.decode(&answer.keys[RESULTS]).unwrap()).unwrap();
        assert_eq!(listed[0]["response"][DIGEST], root("first").digest.to_string());
        assert_eq!(listed[1]["type"], "local");
    }

    #[test]
    fn unknown_fields_survive() {
        let mut message = Vec::new();
        super::super::wire::put_bytes(&mut message, 9, b"new");
        put_map(&mut message, EXPORTER_RESPONSE, &[("k".to_owned(), "v".to_owned())].into());
        let answer = Answer::read(&message).unwrap();
        assert_eq!(answer.write(), message);
    }
}
