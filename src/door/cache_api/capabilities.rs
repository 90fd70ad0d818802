//! What this server can do.

use crate::cache_v1::proto::{CapabilitiesResponse, Limits};
use crate::cache_v1::{features, limits};
use crate::caches::Caches;
use crate::engine::{self, Engine};
use crate::export_v1::convert::duration_message;
use crate::export_v1::limits as common;
use crate::image::cache::{MAX_CACHE_CONFIG, MAX_CACHE_LAYERS};

use super::messages::number;

/// The response to Capabilities.
pub(super) fn capabilities(caches: &Caches, engine: &dyn Engine) -> CapabilitiesResponse {
    CapabilitiesResponse {
        limits: Some(numbers()),
        engine: Some(engine::identity_message(engine)),
        server: concat!("linkspan ", env!("CARGO_PKG_VERSION")).to_owned(),
        allowed_refs: caches.allowed().to_vec(),
        features: [features::USAGE, features::INSPECT_VERSION, features::COPIES, features::DROPPED]
            .map(str::to_owned)
            .to_vec(),
    }
}

fn numbers() -> Limits {
    Limits {
        message_bytes: number(common::MESSAGE_BYTES),
        resolve_refs: number(limits::RESOLVE_REFS),
        holds: number(limits::HOLDS),
        open_exports: number(limits::OPEN_EXPORTS),
        targets: number(limits::TARGETS),
        keep: number(limits::KEEP),
        blobs: number(common::BLOBS),
        writes: number(common::WRITES),
        refs: number(common::REFS),
        document_bytes: number(crate::image::Limits::default().document_bytes),
        config_bytes: number(MAX_CACHE_CONFIG),
        layers: number(MAX_CACHE_LAYERS),
        ref_bytes: number(limits::REF_BYTES),
        default_ttl: Some(duration_message(common::DEFAULT_TTL)),
        max_lifetime: Some(duration_message(common::MAX_LIFETIME)),
        result_retention: Some(duration_message(common::RESULT_RETENTION)),
        idle_timeout: Some(duration_message(common::IDLE)),
        lookups: number(limits::LOOKUPS),
        found: number(limits::FOUND),
        put_records: number(limits::PUT_RECORDS),
        put_positions: number(limits::PUT_POSITIONS),
        resolve_platforms: number(limits::RESOLVE_PLATFORMS),
        watches: number(limits::WATCHES),
        resolve_versions: number(limits::RESOLVE_VERSIONS),
    }
}
