//! The commit: dockerd loads an archive that holds nothing but names.
//!
//! `POST /images/load` reads what the archive does not hold from its content store (containerd `client/import.go`
//! resolves every child there), so an OCI layout of two small files makes an image of blobs that are already in place.
//! dockerd then does what it does with any loaded image: keeps the one that had the name as dangling, checks that it
//! is unpacked, emits `load`.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::archive::archive;
use super::jsonstream::{Line, check_loaded};
use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::containerd::is_full;
use crate::image::{Descriptor, Reference};
use crate::progress::{Event, Events};

/// How long a load may take. Normally milliseconds; long when dockerd has to unpack after all.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long dockerd is given to find a restarted containerd again. It tries after 1 s, 1.6 s, 2.6 s and so on (containerd
/// `client/client.go`: gRPC's own back-off), and a load that fails in between has done nothing. After an outage of
/// minutes the next try may be a minute away; then the user is told.
const RECONNECT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(200);
/// How a line begins with which dockerd reports, with status 200, that the image cannot run.
const UNPACK_FAILED: &str = "Error unpacking";

/// Lets dockerd make an image of `root` under `names`.
pub(super) async fn commit(
    docker: &Api,
    root: &Descriptor,
    names: &[Reference],
    events: &Events,
) -> Result<(), EngineError> {
    let archive = archive(root, names).map_err(|error| refused(error.to_string()))?;
    let end = Instant::now() + RECONNECT;
    loop {
        let answer = docker.send("/images/load?quiet=1", "application/x-tar", archive.clone(), PATIENCE).await?;
        let outcome = match answer.status {
            StatusCode::OK => judge(&answer.body, root, names),
            _ => Err(refused(answer.message())),
        };
        match outcome {
            Ok(lines) => {
                lines.into_iter().for_each(|line| events.emit(Event::Note(line)));
                return Ok(());
            }
            Err(EngineError::Commit { reason, .. }) if is_reconnecting(&reason) && Instant::now() < end => {
                tracing::debug!(reason, "waiting for docker to find its containerd again");
                sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether dockerd has lost its containerd and not yet tried again. Blobs have just been written to it, so it is there.
fn is_reconnecting(reason: &str) -> bool {
    // grpc-go's words for a connection that is not up; what follows says why (grpc `clientconn.go`).
    reason.contains("connection error: desc = ")
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
        if let Some(message) = line.failure() {
            return Err(refused(message.to_owned()));
        }
        let Some(text) = line.stream else { continue };
        let text = text.trim_end();
        if text.starts_with(UNPACK_FAILED) {
            return Err(refused(text.to_owned()));
        }
        notes.push(text.to_owned());
    }
    check_loaded(&notes, names, root.digest.as_str()).map_err(refused)?;
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
    fn a_lost_connection_is_not_a_refusal() {
        for reason in [
            r#"Unavailable: connection error: desc = "transport: Error while dialing: dial unix /c.sock: connect: refused""#,
            r#"Unavailable: connection error: desc = "error reading server preface: connection reset by peer""#,
        ] {
            assert!(is_reconnecting(reason), "{reason}");
        }
        assert!(!is_reconnecting("authorization denied by plugin opa: no"));
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
