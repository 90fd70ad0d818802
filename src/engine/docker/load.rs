//! The commit: dockerd loads an archive that holds nothing but names.
//!
//! `POST /images/load` reads what the archive does not hold from its content store (containerd `client/import.go`
//! resolves every child there), so an OCI layout of two small files makes an image of blobs that are already in place.
//! dockerd then does what it does with any loaded image: keeps the one that had the name as dangling, checks that it
//! is unpacked, emits `load`.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;

use super::archive::archive;
use super::http::Api;
use crate::engine::EngineError;
use crate::engine::containerd::is_full;
use crate::image::{Descriptor, Reference};
use crate::progress::{Event, Events};

/// How long a load may take. Normally milliseconds; long when dockerd has to unpack after all.
const PATIENCE: Duration = Duration::from_secs(600);
/// What dockerd says of a name that it has loaded (moby `daemon/containerd/image_exporter.go`).
const LOADED: &str = "Loaded image: ";
/// What it says of an image without a name.
const LOADED_ID: &str = "Loaded image ID: ";
/// How a line begins with which dockerd reports, with status 200, that the image cannot run.
const UNPACK_FAILED: &str = "Error unpacking";

/// One object of the answer (moby `api/types/jsonstream`).
#[derive(Debug, Default, Deserialize)]
struct Line {
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default, rename = "errorDetail")]
    detail: Option<Detail>,
}

#[derive(Debug, Deserialize)]
struct Detail {
    #[serde(default)]
    message: String,
}

/// Lets dockerd make an image of `root` under `names`.
pub(super) async fn commit(
    docker: &Api,
    root: &Descriptor,
    names: &[Reference],
    events: &Events,
) -> Result<(), EngineError> {
    let archive = archive(root, names).map_err(|error| refused(error.to_string()))?;
    let answer = docker.send("/images/load?quiet=1", "application/x-tar", archive, PATIENCE).await?;
    if answer.status != StatusCode::OK {
        return Err(refused(answer.message()));
    }
    for line in judge(&answer.body, root, names)? {
        events.emit(Event::Note(line));
    }
    Ok(())
}

fn refused(reason: String) -> EngineError {
    if is_full(&reason) {
        return EngineError::NoSpace { operation: "loading the image into docker".to_owned(), message: reason };
    }
    EngineError::Commit { engine: "docker", reason }
}

/// Reads every line of the answer: the status was sent before the work began, so it means nothing. Returns the lines
/// for people.
fn judge(body: &Bytes, root: &Descriptor, names: &[Reference]) -> Result<Vec<String>, EngineError> {
    let mut notes = Vec::new();
    for line in serde_json::Deserializer::from_slice(body).into_iter::<Line>() {
        let line = line.map_err(|error| refused(format!("its answer cannot be read: {error}")))?;
        if let Some(message) = line.detail.map(|detail| detail.message).or(line.error) {
            return Err(refused(message));
        }
        let Some(text) = line.stream else { continue };
        let text = text.trim_end();
        if text.starts_with(UNPACK_FAILED) {
            return Err(refused(text.to_owned()));
        }
        notes.push(text.to_owned());
    }
    let loaded = |name: &Reference| {
        notes.iter().filter_map(|note| note.strip_prefix(LOADED)).any(|loaded| loaded.parse().as_ref() == Ok(name))
    };
    if let Some(name) = names.iter().find(|name| !loaded(name)) {
        return Err(refused(format!(
            "it did not say that it loaded {}; it said: {}",
            name.familiar(),
            notes.join("; ")
        )));
    }
    if names.is_empty() && !notes.iter().any(|note| note.starts_with(LOADED_ID) || note.starts_with(LOADED)) {
        let said = notes.join("; ");
        return Err(refused(format!("it did not say that it loaded {}; it said: {said}", root.digest)));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::image::Digest;

    fn check(body: &'static str, names: &[&str]) -> Result<Vec<String>, EngineError> {
        let root = Descriptor {
            media_type: String::new(),
            digest: Digest::sha256(b"root"),
            size: 1,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        };
        let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        judge(&Bytes::from_static(body.as_bytes()), &root, &names)
    }

    #[test]
    fn a_line_for_each_name_is_success() {
        let body = "{\"stream\":\"Loaded image: a:1\\n\"}\r\n{\"stream\":\"Loaded image: reg.example/b:2\\n\"}\r\n";
        assert_eq!(check(body, &["a:1"]).unwrap().len(), 2);
        assert!(check("{\"stream\":\"Loaded image ID: sha256:00\\n\"}", &[]).is_ok());
    }

    #[test]
    fn silence_is_failure() {
        for (body, names) in [("", &["a:1"][..]), ("{\"stream\":\"Loaded image: b:1\\n\"}", &["a:1"]), ("", &[])] {
            let error = check(body, names).unwrap_err().to_string();
            assert!(error.contains("did not say"), "{error}");
        }
    }

    #[test]
    fn errors_after_the_status_are_found() {
        let after = "{\"stream\":\"Loaded image: a:1\\n\"}\n";
        for (line, words) in [
            (r#"{"errorDetail":{"message":"no way"},"error":"no way"}"#, "no way"),
            (r#"{"error":"old style"}"#, "old style"),
            (r#"{"stream":"Error unpacking image a:1: not found\n"}"#, "not found"),
            ("nonsense", "cannot be read"),
        ] {
            let body: &'static str = format!("{after}{line}").leak();
            let error = check(body, &["a:1"]).unwrap_err();
            assert!(
                matches!(&error, EngineError::Commit { engine: "docker", reason } if reason.contains(words)),
                "{error}"
            );
        }
    }
}
