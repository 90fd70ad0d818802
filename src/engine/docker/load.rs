//! The commit: dockerd loads an archive that holds nothing but names.
//!
//! `POST /images/load` reads what the archive does not hold from its content store (containerd `client/import.go`
//! resolves every child there), so an OCI layout of two small files makes an image of blobs that are already in place.
//! dockerd then does what it does with any loaded image: keeps the one that had the name as dangling, checks that it
//! is unpacked, emits `load`.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::archive::archive;
use super::jsonstream::{Line, check_loaded};
use super::verify_store::VerifiedStore;
use crate::docker_api::Api;
use crate::engine::containerd::{Committer, ContainerdTransaction};
use crate::engine::{EngineError, EngineKind, Lifetime, Precondition};
use crate::image::{Descriptor, Digest, Kind, Reference};
use crate::progress::Event;

/// How long a load may take. Normally milliseconds; long when dockerd has to unpack after all.
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a load is repeated that fails for a reason that passes. dockerd tries to find a restarted containerd again
/// after 1 s, 1.6 s, 2.6 s and so on (containerd `client/client.go`: gRPC's own back-off), and a load that fails in between
/// has done nothing. After an outage of minutes the next try may be a minute away; then the user is told.
pub(crate) const TRANSIENT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(150);
/// How a line begins with which dockerd reports, with status 200, that the image cannot run.
pub(crate) const UNPACK_FAILED: &str = "Error unpacking";

/// Commits by loads into a dockerd.
#[derive(Debug)]
pub(super) struct Loads {
    docker: Arc<Api>,
    /// What is to be verified before a commit, because the lease may be hours old.
    store: Option<Arc<VerifiedStore>>,
}

impl Loads {
    /// Commits by `docker` what is leased for `lifetime` in `store`.
    pub(super) fn new(docker: Arc<Api>, store: Arc<VerifiedStore>, lifetime: Lifetime<'_>) -> Self {
        Self { docker, store: (lifetime != Lifetime::Process).then_some(store) }
    }

    /// Lets dockerd make an image of blobs that are in place. `may_have_begun` tells afterwards whether it may have begun, for
    /// dockerd sets all names before anything else that can fail, and gives none back.
    async fn load(
        &self,
        image: &ContainerdTransaction,
        names: &[Reference],
        preconditions: &[Precondition],
        may_have_begun: &mut bool,
    ) -> Result<(), EngineError> {
        let root = image.root();
        let archive = archive(root, names).map_err(|error| refused(error.to_string()))?;
        let pinned = image.digests();
        let end = Instant::now() + TRANSIENT;
        loop {
            // dockerd compares nothing, so it is done right before each attempt.
            image.check_names(preconditions).await?;
            *may_have_begun = true;
            let response =
                self.docker.send("/images/load?quiet=1", "application/x-tar", archive.clone(), LOAD_TIMEOUT).await?;
            let outcome = match response.status {
                StatusCode::OK => judge(&response.body, root, names, image.may_stay_packed()),
                _ => Err(refused(response.message())),
            };
            match outcome {
                Ok(lines) => {
                    lines.into_iter().map(event).for_each(|event| image.events().emit(event));
                    return Ok(());
                }
                Err(EngineError::Commit { reason, .. })
                    if (is_transient(&reason) || lost_its_own(&reason, &pinned)) && Instant::now() < end =>
                {
                    tracing::debug!(reason, "docker is asked again");
                    sleep(pause()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[async_trait]
impl Committer for Loads {
    async fn commit(
        &self,
        image: &ContainerdTransaction,
        names: &[Reference],
        preconditions: &[Precondition],
    ) -> Result<(), EngineError> {
        if !matches!(image.root().kind(), Kind::Index | Kind::Manifest) {
            let what = "a root that is neither an index nor a manifest";
            return Err(EngineError::NotOffered { engine: EngineKind::Docker.name(), what });
        }
        if let Some(store) = &self.store {
            store.check().await?;
        }
        let records = match names {
            [] => vec![dangling(&image.root().digest)],
            names => names.iter().map(ToString::to_string).collect(),
        };
        let before = image.names_before_load(records, dangling).await?;
        let mut may_have_begun = false;
        let Err(error) = self.load(image, names, preconditions, &mut may_have_begun).await else {
            return image.confirm(before).await.map_err(|refused| refused.error);
        };
        image.client().note(&error);
        if may_have_begun {
            image.restore_names(before).await;
        }
        Err(error)
    }
}

/// The event of a line with which dockerd reports an image that it loaded.
pub(crate) fn event(line: String) -> Event {
    if line.starts_with(UNPACK_FAILED) { Event::NotUnpacked { reason: line } } else { Event::Note(line) }
}

/// The record of an image without a name (moby `daemon/containerd/soft_delete.go`).
pub(super) fn dangling(root: &Digest) -> String {
    format!("moby-dangling@{root}")
}

/// Whether dockerd's reason is gone by the next attempt.
///
/// It may have lost its containerd and not yet tried again; blobs have just been written to it, so it is there. Or
/// another client was faster between two of its calls: it changes the record of a name, finds none, and makes one, which
/// by then exists (containerd `client/import.go`; moby `daemon/containerd/image_tag.go` does the same in the other order);
/// it reads what is being replaced, or its look-up and its tagging see different images.
pub(crate) fn is_transient(reason: &str) -> bool {
    // grpc-go's words for a connection that is not up; what follows says why (grpc `clientconn.go`).
    let reconnecting = reason.contains("connection error: desc = ");
    // Of the record of an image, and of nothing else.
    let overtaken = reason.contains("image \"") && reason.contains("\": already exists");
    reconnecting || overtaken
}

/// Whether dockerd misses a blob of its own, which is the index that it made of our archive: a dockerd that was killed
/// while it loaded the same image leaves one behind, and whoever collects it may come between its write and its read. What
/// is `pinned` by us cannot be lost so.
fn lost_its_own(reason: &str, pinned: &HashSet<Digest>) -> bool {
    let missing = reason.split_once("content digest ").and_then(|(_, rest)| rest.split_once(": not found"));
    missing.and_then(|(digest, _)| digest.parse().ok()).is_some_and(|digest: Digest| !pinned.contains(&digest))
}

/// The time before another attempt. Those who got into each other's way do not come again at the same moment.
pub(crate) fn pause() -> Duration {
    let spread = RandomState::new().hash_one(0) % 100;
    RETRY + Duration::from_millis(spread)
}

/// Has the dockerd behind `docker` load an archive that gives `names` to an image that it has, within `limit`.
pub(crate) async fn load_names(
    docker: &Api,
    root: &Descriptor,
    names: &[Reference],
    limit: Duration,
) -> Result<(), EngineError> {
    let archive = archive(root, names).map_err(|error| refused(error.to_string()))?;
    let response = docker.send("/images/load?quiet=1", "application/x-tar", archive, limit).await?;
    match response.status {
        StatusCode::OK => judge(&response.body, root, names, true).map(drop),
        _ => Err(refused(response.message())),
    }
}

fn refused(reason: String) -> EngineError {
    if EngineError::is_no_space(&reason) {
        return EngineError::NoSpace { operation: "loading the image into docker".to_owned(), message: reason };
    }
    EngineError::Commit { engine: "docker", reason }
}

/// Reads every line of the response: the status was sent before the work began, so it means nothing. Returns the lines
/// for people. An image that docker cannot unpack is loaded nevertheless; whether that is failure is `may_stay_packed`.
fn judge(
    body: &Bytes,
    root: &Descriptor,
    names: &[Reference],
    may_stay_packed: bool,
) -> Result<Vec<String>, EngineError> {
    let mut notes = Vec::new();
    for line in serde_json::Deserializer::from_slice(body).into_iter::<Line>() {
        let line = line.map_err(|error| refused(format!("its response cannot be read: {error}")))?;
        if let Some(message) = line.failure() {
            return Err(refused(message.to_owned()));
        }
        let Some(text) = line.stream else { continue };
        let text = text.trim_end();
        if text.starts_with(UNPACK_FAILED) && !may_stay_packed {
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
    fn check(body: &'static str, names: &[&str]) -> Result<Vec<String>, EngineError> {
        check_as(body, names, false)
    }

    fn check_as(body: &'static str, names: &[&str], may_stay_packed: bool) -> Result<Vec<String>, EngineError> {
        let root = Descriptor {
            media_type: String::new(),
            digest: Digest::sha256(b"root"),
            size: 1,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        };
        let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        judge(&Bytes::from_static(body.as_bytes()), &root, &names, may_stay_packed)
    }

    #[test]
    fn a_line_for_each_name_is_success() {
        let body = "{\"stream\":\"Loaded image: a:1\\n\"}\r\n{\"stream\":\"Loaded image: reg.example/b:2\\n\"}\r\n";
        assert_eq!(check(body, &["a:1", "reg.example/b:2"]).unwrap().len(), 2);
        assert!(check("{\"stream\":\"Loaded image ID: sha256:00\\n\"}", &[]).is_ok());
        // The short form of dockerd means another image to whoever parses it.
        let body = "{\"stream\":\"Loaded image: localhost/x:1\\n\"}";
        assert!(check(body, &["docker.io/localhost/x:1"]).is_ok());
    }

    #[test]
    fn an_image_that_cannot_be_unpacked_is_loaded_where_that_is_enough() {
        let line = "{\"stream\":\"Error unpacking image a:1: unexpected EOF\\n\"}";
        let body: &'static str = format!("{{\"stream\":\"Loaded image: a:1\\n\"}}\n{line}").leak();
        assert!(check_as(body, &["a:1"], false).is_err());
        assert_eq!(check_as(body, &["a:1"], true).unwrap().len(), 2);
        assert!(check_as(line, &["a:1"], true).is_err(), "it does not say that it was loaded");
    }

    #[test]
    fn a_name_that_was_not_requested_is_failure() {
        let body = "{\"stream\":\"Loaded image: a:1\\n\"}\r\n{\"stream\":\"Loaded image ID: sha256:00\\n\"}\r\n";
        for names in [&[][..], &["b:1"], &["a:2"]] {
            let error = check(body, names).unwrap_err().to_string();
            assert!(error.contains("`a:1`, which nobody asked for"), "{error}");
        }
    }

    #[test]
    fn silence_is_failure() {
        for (body, names) in [("", &["a:1"][..]), ("{\"stream\":\"Loaded image: b:1\\n\"}", &["a:1", "b:1"]), ("", &[])]
        {
            let error = check(body, names).unwrap_err().to_string();
            assert!(error.contains("did not say"), "{error}");
        }
    }

    #[test]
    fn what_passes_is_not_a_refusal() {
        for reason in [
            r#"AlreadyExists: image "docker.io/library/new:1": already exists"#,
            r#"image "docker.io/library/new:1": already exists"#,
            r#"Unavailable: connection error: desc = "transport: Error while dialing: dial unix /c.sock: connect: refused""#,
            r#"Unavailable: connection error: desc = "error reading server preface: connection reset by peer""#,
        ] {
            assert!(is_transient(reason), "{reason}");
        }
        let lost = |missing: &[u8]| format!("NotFound: content digest {}: not found", Digest::sha256(missing));
        let pinned = HashSet::from([Digest::sha256(b"ours")]);
        assert!(lost_its_own(&lost(b"dockerd's"), &pinned) && !lost_its_own(&lost(b"ours"), &pinned));
        assert!(!is_transient("authorization denied by plugin opa: no"));
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
