//! The messages of the caching API as what commands work with.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

use crate::cache_v1::proto;
use crate::caches::{CacheError, Dropped, Limit};
use crate::engine::EngineError;
use crate::engine::caches::CacheVersion;
use crate::export_v1::ApiError;
use crate::export_v1::convert;
use crate::export_v1::proto::Descriptor as DescriptorMessage;
use crate::image::Descriptor;

/// A response that lacks `what`.
pub(super) fn absent(operation: &str, what: &str) -> CacheError {
    let reason = format!("the daemon did not say {what}");
    EngineError::Protocol { operation: operation.to_owned(), reason }.into()
}

/// An error within a response, with the daemon's words.
pub(super) fn failure(error: ApiError) -> CacheError {
    let hint = error.hint().map(str::to_owned);
    EngineError::Daemon { message: error.message, hint, is_lost: false }.into()
}

/// Bytes, or a number of things.
pub(super) fn amount(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A descriptor, which must be there.
pub(super) fn descriptor(operation: &str, message: Option<&DescriptorMessage>) -> Result<Descriptor, CacheError> {
    let message = message.ok_or_else(|| absent(operation, "a descriptor"))?;
    convert::descriptor("descriptor", message).map_err(|wrong| {
        let wrong: Vec<_> = wrong.into_iter().map(|(field, what)| format!("{field}: {what}")).collect();
        EngineError::Protocol { operation: operation.to_owned(), reason: wrong.join("; ") }.into()
    })
}

/// A version, which must be there.
pub(super) fn version(operation: &str, message: Option<proto::Version>) -> Result<CacheVersion, CacheError> {
    let message = message.ok_or_else(|| absent(operation, "a version"))?;
    Ok(CacheVersion {
        root: descriptor(operation, message.root.as_ref())?,
        id: message.id,
        reference: message.r#ref,
        part: message.part,
        title: message.title,
        mode: message.mode,
        builder: message.builder,
        created: time(message.create_time),
        used: time(message.use_time),
        layers: amount(message.layers),
        bytes: amount(message.bytes),
    })
}

/// A version that went because of a limit. A reason that this client does not know is one that the server's administrator set.
pub(super) fn dropped(operation: &str, message: proto::DroppedVersion) -> Result<Dropped, CacheError> {
    let limit = match message.reason() {
        proto::DropReason::Parts => Limit::Parts,
        proto::DropReason::Limits | proto::DropReason::Unspecified => Limit::Settings,
    };
    Ok(Dropped { version: version(operation, message.version)?, limit })
}

/// A time; 1970 for none.
fn time(stamp: Option<Timestamp>) -> SystemTime {
    stamp.and_then(|stamp| SystemTime::try_from(stamp).ok()).unwrap_or(UNIX_EPOCH)
}
