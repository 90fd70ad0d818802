//! What is wrong with requests: everything at once.

use std::collections::HashSet;
use std::time::Duration;

use tonic::Code;

use crate::cache_v1::limits::{
    BUILDER_BYTES, KEEP, PART_BYTES, RESOLVE_PLATFORMS, RESOLVE_REFS, RESOLVE_VERSIONS, TARGETS, TITLE_BYTES,
};
use crate::cache_v1::proto::{CopiedPart, OpenRequest, Target};
use crate::caches::{CacheRef, Caches, Part};
use crate::engine::caches::NewVersion;
use crate::export_v1::ApiError;
use crate::export_v1::convert::{duration, platform};
use crate::export_v1::limits::KEY_BYTES;
use crate::export_v1::proto as export;
use crate::image::Platform;
use crate::net::Principal;

/// A time to live.
pub(super) fn ttl(given: Option<prost_types::Duration>) -> Result<Option<Duration>, ApiError> {
    given.map(|ttl| duration("ttl", ttl)).transpose()
}

/// The refs of a Resolve.
pub(super) fn refs(given: &[String]) -> Result<Vec<CacheRef>, ApiError> {
    if given.is_empty() {
        return Err(ApiError::field("refs", "none is given; expected at least one"));
    }
    if given.len() > RESOLVE_REFS {
        let message = format!("{} refs; a message has at most {RESOLVE_REFS}", given.len());
        return Err(ApiError::limit(Code::InvalidArgument, "resolve_refs", RESOLVE_REFS, message));
    }
    let (mut refs, mut wrong) = (Vec::new(), Vec::new());
    for (at, text) in given.iter().enumerate() {
        match text.parse::<CacheRef>() {
            Ok(parsed) if refs.contains(&parsed) => wrong.push((format!("refs[{at}]"), "it is given twice".to_owned())),
            Ok(parsed) => refs.push(parsed),
            Err(error) => wrong.push((format!("refs[{at}]"), error.to_string())),
        }
    }
    if wrong.is_empty() { Ok(refs) } else { Err(ApiError::fields(wrong)) }
}

/// The platforms of a Resolve.
pub(super) fn platforms(given: &[export::Platform]) -> Result<Vec<Platform>, ApiError> {
    if given.len() > RESOLVE_PLATFORMS {
        let message = format!("{} platforms; a message has at most {RESOLVE_PLATFORMS}", given.len());
        return Err(ApiError::limit(Code::InvalidArgument, "resolve_platforms", RESOLVE_PLATFORMS, message));
    }
    let is_empty = |it: &export::Platform| it.os.is_empty() || it.architecture.is_empty();
    let wrong = given.iter().enumerate().filter(|(_, it)| is_empty(it));
    let what = "expected an operating system and an architecture".to_owned();
    let wrong: Vec<_> = wrong.map(|(at, _)| (format!("platforms[{at}]"), what.clone())).collect();
    if wrong.is_empty() {
        Ok(given.iter().map(|it| platform(it).normalised()).collect())
    } else {
        Err(ApiError::fields(wrong))
    }
}

/// The ids of versions of a Resolve.
pub(super) fn version_ids(given: Vec<String>) -> Result<HashSet<String>, ApiError> {
    if given.len() > RESOLVE_VERSIONS {
        let message = format!("{} ids of versions; a message has at most {RESOLVE_VERSIONS}", given.len());
        return Err(ApiError::limit(Code::InvalidArgument, "resolve_versions", RESOLVE_VERSIONS, message));
    }
    Ok(given.into_iter().collect())
}

/// One ref.
pub(super) fn reference(text: &str) -> Result<CacheRef, ApiError> {
    Ok(text.parse::<CacheRef>()?)
}

/// The version that a target gets.
pub(super) fn new_version(target: &Target) -> NewVersion {
    let (part, title) = match &target.copied_part {
        Some(CopiedPart { key, title }) => (key.clone(), title.clone()),
        None => {
            let name = target.part.clone().unwrap_or_default();
            let part = Part { platform: name.platform, target: name.target, filename: name.filename };
            (part.key(), part.title())
        }
    };
    NewVersion { reference: target.r#ref.clone(), part, title, mode: target.mode.clone() }
}

/// Checks an Open by `client`.
pub(super) fn open(request: &OpenRequest, caches: &Caches, client: &Principal) -> Result<(), ApiError> {
    let mut wrong = Vec::new();
    let mut limit = |field: &str, bytes: usize, limit: usize| {
        if bytes > limit {
            wrong.push((field.to_owned(), format!("it has {bytes} bytes; at most {limit} are allowed")));
        }
    };
    limit("idempotency_key", request.idempotency_key.len(), KEY_BYTES);
    limit("builder", request.builder.len(), BUILDER_BYTES);
    if request.targets.is_empty() {
        wrong.push(("targets".to_owned(), "none is given; expected at least one".to_owned()));
    }
    if request.targets.len() > TARGETS {
        let message = format!("{} targets; an export has at most {TARGETS}", request.targets.len());
        return Err(ApiError::limit(Code::InvalidArgument, "targets", TARGETS, message));
    }
    if request.builder.chars().any(char::is_control) {
        wrong.push(("builder".to_owned(), "it has control characters".to_owned()));
    }
    let mut refs = Vec::new();
    for (at, target) in request.targets.iter().enumerate() {
        let earlier = &request.targets[..at];
        check_target(target, earlier, &format!("targets[{at}]"), &mut wrong);
        match target.r#ref.parse::<CacheRef>() {
            Ok(parsed) => refs.push(parsed),
            Err(error) => wrong.push((format!("targets[{at}].ref"), error.to_string())),
        }
    }
    if !wrong.is_empty() {
        return Err(ApiError::fields(wrong));
    }
    let denied: Vec<_> = refs.iter().filter_map(|reference| caches.check(reference, client).err()).collect();
    let violations = denied.iter().flat_map(|error| ApiError::from(error.clone()).violations).collect();
    match denied.into_iter().next() {
        Some(first) => Err(ApiError { violations, ..first.into() }),
        None => Ok(()),
    }
}

fn check_target(target: &Target, earlier: &[Target], at: &str, wrong: &mut Vec<(String, String)>) {
    let mut add = |field: &str, what: String| wrong.push((format!("{at}.{field}"), what));
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if target.id.is_empty() || target.id.len() > 64 || !target.id.bytes().all(is_id) {
        add("id", "expected 1 to 64 characters of [a-zA-Z0-9._-]".to_owned());
    }
    if earlier.iter().any(|other| other.id == target.id) {
        add("id", format!("`{}` is the id of another target", target.id));
    }
    let key = |target: &Target| new_version(target).part;
    if earlier.iter().any(|other| other.r#ref == target.r#ref && key(other) == key(target)) {
        add("ref", "another target has the same ref and part".to_owned());
    }
    let name = target.part.clone().unwrap_or_default();
    for (field, text) in [("platform", &name.platform), ("target", &name.target), ("filename", &name.filename)] {
        if text.len() > PART_BYTES || text.chars().any(char::is_control) {
            add(&format!("part.{field}"), format!("expected at most {PART_BYTES} bytes without control characters"));
        }
    }
    if let Some(CopiedPart { key, title }) = &target.copied_part {
        if target.part.is_some() {
            add("copied_part", "given together with `part`; expected one of them".to_owned());
        }
        if !matches!(key.len(), 0 | 32) || !key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            add("copied_part.key", "expected 32 hexadecimal digits or nothing".to_owned());
        }
        if title.len() > TITLE_BYTES || title.chars().any(char::is_control) {
            add("copied_part.title", format!("expected at most {TITLE_BYTES} bytes without control characters"));
        }
    }
    if !["", "min", "max"].contains(&target.mode.as_str()) {
        add("mode", "expected `min`, `max` or nothing".to_owned());
    }
    if !usize::try_from(target.keep).is_ok_and(|keep| keep <= KEEP) {
        add("keep", format!("expected 0 to {KEEP}"));
    }
}
