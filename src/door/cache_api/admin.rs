//! Administration: what is stored, what it takes, and what goes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tonic::Code;

use super::messages::{number, pruned, version};
use super::request;
use crate::cache_v1::limits::{PAGE, PATTERNS};
use crate::cache_v1::proto::prune_response::Event;
use crate::cache_v1::proto::{
    DeleteRequest, DeleteResponse, InspectRequest, InspectResponse, InspectedVersion, ListRequest, ListResponse,
    PruneRequest, PruneResponse, PruneTotal, UsageResponse, VersionUsage,
};
use crate::caches::{self, CacheError, Caches, Change, Details, Selection, Usage};
use crate::engine::caches::CacheVersion;
use crate::export_v1::ApiError;
use crate::export_v1::convert::{descriptor_message, duration_message};
use crate::export_v1::proto::Reason;
use crate::net::Principal;

/// A page of List.
pub(super) async fn list(caches: &Caches, request: &ListRequest) -> Result<ListResponse, ApiError> {
    let size = usize::try_from(request.page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE).min(PAGE);
    let (usage, exceeding) = match request.usage {
        true => {
            let usage = caches.usage().await?;
            let exceeding = caches.exceeding_in(&usage).versions.into_iter().map(|it| it.version.id).collect();
            (usage, exceeding)
        }
        false => (Usage::default(), HashSet::new()),
    };
    let mut found = match request.usage {
        true => usage.versions.iter().map(|usage| usage.version.clone()).collect(),
        false => caches.versions(None).await?,
    };
    found.retain(|version| version.reference.starts_with(&request.prefix));
    // Stable, so that the versions of a part stay as they are: the newest first.
    found.sort_by(|one, other| (&one.reference, &one.part).cmp(&(&other.reference, &other.part)));
    let begin = match &*request.page_token {
        "" => 0,
        token => after(&found, token)?,
    };
    let page = &found[begin..found.len().min(begin + size)];
    let next_page_token = match page.last() {
        Some(last) if begin + page.len() < found.len() => {
            format!("{} {} {}", last.reference, last.part, last.id)
        }
        _ => String::new(),
    };
    let taken: HashMap<_, _> = usage.versions.iter().map(|usage| (&usage.version.id, usage)).collect();
    let usage = page.iter().filter_map(|version| taken.get(&version.id)).map(|usage| VersionUsage {
        unique_bytes: number(usage.unique),
        shared_bytes: number(usage.shared),
        exceeding: exceeding.contains(&usage.version.id),
    });
    let usage = usage.collect();
    Ok(ListResponse { versions: page.iter().map(version).collect(), next_page_token, usage })
}

/// Where the page after `token` begins: behind the version that it names, or behind its part if that version is gone.
fn after(found: &[CacheVersion], token: &str) -> Result<usize, ApiError> {
    let mut words = token.split(' ');
    let (Some(reference), Some(part), Some(id), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err(ApiError::field("page_token", "expected the token of an earlier page"));
    };
    if let Some(at) = found.iter().position(|version| version.id == id) {
        return Ok(at + 1);
    }
    Ok(found.partition_point(|version| (version.reference.as_str(), version.part.as_str()) <= (reference, part)))
}

/// The versions of one cache, or one of them.
pub(super) async fn inspect(caches: &Caches, request: &InspectRequest) -> Result<InspectResponse, ApiError> {
    let reference = request::reference(&request.r#ref)?;
    if !request.version_id.is_empty() {
        let mut usage = caches.usage().await?.versions;
        usage.retain(|it| it.version.reference == request.r#ref && it.version.id == request.version_id);
        let usage = usage.pop().ok_or_else(|| unknown(&request.r#ref, "", &request.version_id))?;
        return Ok(InspectResponse { versions: vec![inspect_version(caches, &usage).await] });
    }
    let mut versions = Vec::new();
    for inspected in caches.inspect(&reference).await? {
        versions.push(inspected_message(&inspected.usage, inspected.details.as_ref()));
    }
    if versions.is_empty() {
        Err(CacheError::Unknown { reference: request.r#ref.clone() }.into())
    } else {
        Ok(InspectResponse { versions })
    }
}

/// One version, with its layers.
async fn inspect_version(caches: &Caches, usage: &caches::VersionUsage) -> InspectedVersion {
    match caches.inspect_version(&usage.version).await {
        Ok((details, layers)) => InspectedVersion {
            layers: layers.iter().map(descriptor_message).collect(),
            ..inspected_message(usage, Some(&details))
        },
        Err(error) => {
            InspectedVersion { error: Some(ApiError::from(error).message()), ..inspected_message(usage, None) }
        }
    }
}

fn inspected_message(usage: &caches::VersionUsage, details: Option<&Details>) -> InspectedVersion {
    InspectedVersion {
        version: Some(version(&usage.version)),
        config: details.map(|details| descriptor_message(&details.config)),
        records: details.map_or(0, |details| number(details.records)),
        results: details.map_or(0, |details| number(details.results)),
        missing_layers: details.map_or(0, |details| number(details.missing)),
        unique_bytes: number(usage.unique),
        shared_bytes: number(usage.shared),
        ..InspectedVersion::default()
    }
}

/// Deletes versions for `client`.
pub(super) async fn delete(
    caches: &Caches,
    request: &DeleteRequest,
    client: &Principal,
) -> Result<DeleteResponse, ApiError> {
    let reference = request::reference(&request.r#ref)?;
    caches.check(&reference, client)?;
    let mut found = caches.versions(Some(&reference)).await?;
    let is_meant = |given: &str, has: &str| given.is_empty() || given == has;
    found.retain(|it| is_meant(&request.part, &it.part) && is_meant(&request.version_id, &it.id));
    if found.is_empty() {
        return Err(unknown(&request.r#ref, &request.part, &request.version_id));
    }
    caches.delete(found.iter().map(|version| version.id.clone()).collect()).await?;
    Ok(DeleteResponse { versions: found.iter().map(version).collect() })
}

/// Deletes for `client` what a selection means, and returns what.
pub(super) async fn prune(
    caches: &Caches,
    request: PruneRequest,
    client: &Principal,
) -> Result<Vec<PruneResponse>, ApiError> {
    if request.refs.len() > PATTERNS {
        let message = format!("{} patterns; a message has at most {PATTERNS}", request.refs.len());
        let hint = Some("prune with some of them at a time");
        return Err(ApiError::limit(Code::InvalidArgument, "refs", PATTERNS, message).with_hint(hint));
    }
    let keep_bytes = request.keep_bytes.map(u64::try_from).transpose();
    let keep_bytes = keep_bytes.map_err(|_| ApiError::field("keep_bytes", "expected zero or more bytes"))?;
    let unused_for = request.older_than.map(Duration::try_from).transpose();
    let unused_for = unused_for.map_err(|_| ApiError::field("older_than", "expected a time of zero or more"))?;
    let selection = Selection { references: request.refs, unused_for, keep_bytes };
    let meant = caches.prune(&selection, true).await?;
    let count = meant.versions.len();
    let is_allowed = |reference: &str| reference.parse().is_ok_and(|it| caches.check(&it, client).is_ok());
    let (mut bytes, mut versions) = (meant.bytes, meant.versions);
    versions.retain(|usage| is_allowed(&usage.version.reference));
    if versions.len() < count {
        bytes = versions.iter().fold(0, |sum, usage| sum.saturating_add(usage.unique));
    }
    if !request.dry_run {
        caches.remove(versions.iter().map(|usage| usage.version.id.clone()).collect(), Change::Pruned).await?;
    }
    let denied = number(count - versions.len());
    let total = PruneTotal { versions: number(versions.len()), bytes: number(bytes), denied };
    let events = versions.iter().map(|usage| Event::Version(pruned(usage))).chain([Event::Total(total)]);
    Ok(events.map(|event| PruneResponse { event: Some(event) }).collect())
}

/// What all caches take.
pub(super) async fn usage(caches: &Caches) -> Result<UsageResponse, ApiError> {
    let (usage, limits) = (caches.usage().await?, caches.limits());
    let exceeding = caches.exceeding_in(&usage);
    let refs: HashSet<_> = usage.versions.iter().map(|usage| &usage.version.reference).collect();
    Ok(UsageResponse {
        refs: number(refs.len()),
        versions: number(usage.versions.len()),
        bytes: number(usage.total),
        max_bytes: limits.max_bytes.map_or(0, number),
        max_age: limits.max_age.map(duration_message),
        max_versions: limits.max_count.map_or(0, number),
        exceeding_versions: number(exceeding.versions.len()),
        exceeding_bytes: number(exceeding.bytes),
    })
}

/// That there is nothing of what a request names.
fn unknown(reference: &str, part: &str, version_id: &str) -> ApiError {
    let message = match (version_id.is_empty(), part.is_empty()) {
        (false, _) => format!("the cache `{reference}` has no version `{version_id}`"),
        (true, false) => format!("the cache `{reference}` has no part `{part}`"),
        (true, true) => format!("there is no cache `{reference}`"),
    };
    let hint = "List shows those that there are";
    ApiError::new(Code::NotFound, Reason::CacheUnknown, message).with("ref", reference).with_hint(Some(hint))
}
