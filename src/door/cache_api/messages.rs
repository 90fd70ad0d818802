//! Versions as messages.

use crate::cache_v1::proto;
use crate::caches::{CacheEvent, Change, Dropped, InlineCache, Limit, ResolvedPart, VersionUsage};
use crate::engine::caches::CacheVersion;
use crate::export_v1::convert::{descriptor_message, timestamp};

/// The part of inline caches. Those of versions are 32 hexadecimal digits, or nothing.
const IMAGE_PART: &str = "image";

pub(super) fn number(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

pub(super) fn version(version: &CacheVersion) -> proto::Version {
    proto::Version {
        id: version.id.clone(),
        r#ref: version.reference.clone(),
        part: version.part.clone(),
        title: version.title.clone(),
        mode: version.mode.clone(),
        builder: version.builder.clone(),
        create_time: Some(timestamp(version.created)),
        use_time: Some(timestamp(version.used)),
        root: Some(descriptor_message(&version.root)),
        layers: number(version.layers),
        bytes: number(version.bytes),
    }
}

pub(super) fn dropped(dropped: &Dropped) -> proto::DroppedVersion {
    let reason = match dropped.limit {
        Limit::Parts => proto::DropReason::Parts,
        Limit::Settings => proto::DropReason::Limits,
    };
    proto::DroppedVersion { version: Some(version(&dropped.version)), reason: reason.into() }
}

pub(super) fn resolved(part: &ResolvedPart) -> proto::ResolvedPart {
    proto::ResolvedPart {
        version: Some(version(&part.version)),
        root: Some(descriptor_message(&part.root.descriptor)),
        config: Some(descriptor_message(&part.listed.config)),
        missing_layers: number(part.missing),
    }
}

/// An inline cache as a part that can only be read.
pub(super) fn inline(reference: &str, cache: &InlineCache) -> proto::ResolvedPart {
    let version = proto::Version {
        r#ref: reference.to_owned(),
        part: IMAGE_PART.to_owned(),
        title: cache.platform.to_string(),
        mode: "min".to_owned(),
        root: Some(descriptor_message(&cache.manifest)),
        layers: number(cache.layers.len()),
        bytes: number(cache.blobs().fold(0u64, |sum, blob| sum.saturating_add(blob.size))),
        ..proto::Version::default()
    };
    proto::ResolvedPart {
        version: Some(version),
        root: Some(descriptor_message(&cache.manifest)),
        config: Some(descriptor_message(&cache.config)),
        missing_layers: 0,
    }
}

pub(super) fn event(event: &CacheEvent) -> proto::VersionEvent {
    let change = match event.change {
        Change::Committed => proto::VersionChange::Committed,
        Change::Replaced => proto::VersionChange::Replaced,
        Change::Deleted => proto::VersionChange::Deleted,
        Change::Pruned => proto::VersionChange::Pruned,
    };
    proto::VersionEvent {
        change: change.into(),
        version: Some(version(&event.version)),
        time: Some(timestamp(event.at)),
    }
}

pub(super) fn pruned(usage: &VersionUsage) -> proto::PrunedVersion {
    proto::PrunedVersion { version: Some(version(&usage.version)), unique_bytes: number(usage.unique) }
}
