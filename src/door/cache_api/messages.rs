//! Versions as messages.

use crate::cache_v1::proto;
use crate::caches::{ResolvedPart, VersionUsage};
use crate::engine::caches::CacheVersion;
use crate::export_v1::convert::{descriptor_message, timestamp};

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

pub(super) fn resolved(part: &ResolvedPart) -> proto::ResolvedPart {
    proto::ResolvedPart {
        version: Some(version(&part.version)),
        root: Some(descriptor_message(&part.root.descriptor)),
        config: Some(descriptor_message(&part.listed.config)),
        missing_layers: number(part.missing),
    }
}

pub(super) fn pruned(usage: &VersionUsage) -> proto::PrunedVersion {
    proto::PrunedVersion { version: Some(version(&usage.version)), unique_bytes: number(usage.unique) }
}
