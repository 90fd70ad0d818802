//! The response to a build: each exporter's result, and the merged map that today's clients read.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use oci_spec::image::ANNOTATION_CREATED;
use prost_types::Timestamp;
use serde::Serialize;

use super::exporters::Exporter;
use super::frontend_metadata::FrontendMetadata;
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
#[derive(Debug, Clone, Default)]
pub(super) struct BuildResponse {
    /// The merged map.
    pub(super) keys: Keys,
    /// Fields that we do not know.
    rest: Vec<u8>,
}

/// One exporter's own result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ExporterResult {
    /// Its index in the request, which is its id.
    pub(super) id: usize,
    /// Its type, as the client named it.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Its response.
    pub(super) response: Keys,
}

impl BuildResponse {
    /// Reads a response.
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

    /// The response's bytes.
    pub(super) fn write(&self) -> Bytes {
        let mut message = self.rest.clone();
        put_map(&mut message, EXPORTER_RESPONSE, &self.keys);
        message.into()
    }

    /// The root of the only image in the response; with several exporters, of the last one's.
    pub(super) fn root(&self) -> Option<Descriptor> {
        let json = BASE64.decode(self.keys.get(DESCRIPTOR)?).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Replaces what it says of the image by what `other` says.
    pub(super) fn take_image_of(&mut self, other: &Self) {
        for key in [DESCRIPTOR, DIGEST, CONFIG_DIGEST, NAME, RESULTS] {
            self.keys.remove(key);
            self.keys.extend(other.keys.get_key_value(key).map(|(key, value)| (key.clone(), value.clone())));
        }
    }

    /// Replaces the keys that the builder merged by the exporters' own results: in the order of the request, the last
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

/// The response of the `oci` and `docker` exporters for `root`: with full names and the time of the export, which
/// `image` omits (BuildKit `exporter/oci/export.go`).
pub(super) fn archive_keys(
    root: &Descriptor,
    config: Option<String>,
    names: &[Reference],
    created: Option<i64>,
) -> Keys {
    let root = dated(root, created);
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    image_response(&root, config, (!names.is_empty()).then(|| names.join(",")))
}

/// `root` with the time of the export, which these exporters write into their `index.json` as well.
pub(super) fn dated(root: &Descriptor, created: Option<i64>) -> Descriptor {
    let mut root = root.clone();
    let created = || {
        let seconds = created.unwrap_or_else(|| Timestamp::from(SystemTime::now()).seconds);
        Timestamp { seconds, nanos: 0 }.to_string()
    };
    root.annotations.entry(ANNOTATION_CREATED.to_owned()).or_insert_with(created);
    root
}

/// The timestamp of an export in seconds, unless it is the current time: the exporter's attribute, else the build
/// argument (`control/control.go`), else the frontend's (`exporter/util/epoch`). An empty value means the current time;
/// the builder has refused an invalid number or, in the build argument, left it to the frontend.
pub(super) fn source_time(exporter: &Exporter, build_arg: Option<&str>, frontend: &FrontendMetadata) -> Option<i64> {
    let build_arg = build_arg.filter(|value| value.is_empty() || value.parse::<i64>().is_ok());
    match exporter.attrs.get("source-date-epoch").map(String::as_str).or(build_arg) {
        Some(value) => value.parse().ok(),
        None => frontend.for_exporter(exporter).epoch?.parse().ok(),
    }
}

/// The config's digest in a response with a single image.
pub(super) fn config_digest(keys: &Keys) -> Option<String> {
    keys.get(CONFIG_DIGEST).cloned()
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
    fn a_load_responds_with_full_names_and_the_time() {
        let names: Vec<Reference> = ["a", "b:1"].map(|name| name.parse().unwrap()).into();
        let keys = archive_keys(&root("x"), None, &names, Some(0));
        assert_eq!(keys[NAME], "docker.io/library/a:latest,docker.io/library/b:1");
        let response = BuildResponse { keys, rest: Vec::new() };
        assert_eq!(response.root().unwrap().annotations[ANNOTATION_CREATED], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn the_time_of_an_export_is_the_sources_as_the_builder_takes_it() {
        for (attribute, build_arg, frontend, expected) in [
            (None, None, None, None),
            (None, Some("2"), None, Some(2)),
            (None, Some("-2"), Some("3"), Some(-2)),
            (Some("1"), Some("2"), Some("3"), Some(1)),
            (Some(""), Some("2"), Some("3"), None),
            (None, Some(""), Some("3"), None),
            (None, Some("context"), Some("3"), Some(3)),
            (None, Some("2.5"), None, None),
            (None, None, Some("3"), Some(3)),
            (None, None, Some(""), None),
        ] {
            let attrs = attribute.map(|value: &str| ("source-date-epoch".to_owned(), value.to_owned()));
            let exporter = Exporter { kind: "oci".into(), attrs: attrs.into_iter().collect() };
            let metadata = FrontendMetadata { name: None, epoch: frontend.map(str::to_owned) };
            let time = source_time(&exporter, build_arg, &metadata);
            assert_eq!(time, expected, "{attribute:?} {build_arg:?} {frontend:?}");
        }
    }

    #[test]
    fn the_last_exporter_wins_and_each_is_listed() {
        let mut response = BuildResponse { keys: [("frontend.x".to_owned(), "1".to_owned())].into(), rest: Vec::new() };
        let results = [
            result(0, "oci", archive_keys(&root("first"), None, &[], None)),
            result(1, "local", Keys::new()),
            result(2, "image", image_response(&root("last"), None, None)),
        ];
        response.merge(&results);
        assert_eq!(response.root().unwrap().digest, root("last").digest);
        assert_eq!(response.keys["frontend.x"], "1");
        let listed: serde_json::Value =
            serde_json::from_slice(&BASE64.decode(&response.keys[RESULTS]).unwrap()).unwrap();
        assert_eq!(listed[0]["response"][DIGEST], root("first").digest.to_string());
        assert_eq!(listed[1]["type"], "local");
    }

    #[test]
    fn unknown_fields_survive() {
        let mut message = Vec::new();
        super::super::wire::put_bytes(&mut message, 9, b"new");
        put_map(&mut message, EXPORTER_RESPONSE, &[("k".to_owned(), "v".to_owned())].into());
        let response = BuildResponse::read(&message).unwrap();
        assert_eq!(response.write(), message);
    }
}
