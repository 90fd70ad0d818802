//! Between the messages and the model.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use super::error::ApiError;
use super::proto;
use crate::image::{Descriptor, Digest, Platform};

/// The most that the annotations of one descriptor may come to, in bytes.
const ANNOTATION_BYTES: usize = 64 << 10;

/// A digest in the field `field`.
pub(crate) fn digest(field: &str, text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error| ApiError::field(field, format!("{error}")))
}

/// A descriptor in the field `field`; everything that is wrong with it at once.
pub(crate) fn descriptor(field: &str, message: &proto::Descriptor) -> Result<Descriptor, Vec<(String, String)>> {
    let mut wrong = Vec::new();
    let digest: Result<Digest, _> = message.digest.parse();
    if let Err(error) = &digest {
        wrong.push((format!("{field}.digest"), error.to_string()));
    }
    let size = u64::try_from(message.size);
    if size.is_err() {
        wrong.push((format!("{field}.size"), format!("{} is no size; expected bytes from 0 on", message.size)));
    }
    let annotations: usize = message.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if annotations > ANNOTATION_BYTES {
        let what = format!("{annotations} bytes of annotations; at most {ANNOTATION_BYTES} are allowed");
        wrong.push((format!("{field}.annotations"), what));
    }
    match (digest, size) {
        (Ok(digest), Ok(size)) if wrong.is_empty() => Ok(Descriptor {
            media_type: message.media_type.clone(),
            digest,
            size,
            annotations: message.annotations.clone().into_iter().collect(),
            platform: message.platform.as_ref().map(platform),
            artifact_type: Some(message.artifact_type.clone()).filter(|kind| !kind.is_empty()),
        }),
        _ => Err(wrong),
    }
}

pub(crate) fn platform(message: &proto::Platform) -> Platform {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Platform {
        architecture: message.architecture.clone(),
        os: message.os.clone(),
        os_version: text(&message.os_version),
        os_features: message.os_features.clone(),
        variant: text(&message.variant),
    }
}

pub(crate) fn descriptor_message(descriptor: &Descriptor) -> proto::Descriptor {
    proto::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        annotations: descriptor.annotations.clone().into_iter().collect(),
        platform: descriptor.platform.as_ref().map(platform_message),
        artifact_type: descriptor.artifact_type.clone().unwrap_or_default(),
    }
}

pub(crate) fn platform_message(platform: &Platform) -> proto::Platform {
    proto::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone().unwrap_or_default(),
        os_features: platform.os_features.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
    }
}

pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    time.into()
}

pub(crate) fn duration_message(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: 0 }
}

/// A time to live in the field `field`.
pub(crate) fn duration(field: &str, message: prost_types::Duration) -> Result<Duration, ApiError> {
    match Duration::try_from(message) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(ApiError::field(field, "expected a time of more than zero")),
    }
}
