//! The messages of `PolicyVerifier.CheckPolicy` (BuildKit `sourcepolicy/policysession/policysession.proto`).

use std::collections::BTreeMap;

use super::super::wire::{WireError, entry, fields, put_bytes, put_map, put_varint};
use crate::image::Platform;

/// The call.
pub(super) const CHECK_POLICY: &str = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";

/// `CheckPolicyRequest.Platform` and `.Source`, and the `Source` within the latter.
const PLATFORM: u32 = 1;
const SOURCE_META: u32 = 2;
const SOURCE: u32 = 1;
/// `SourceOp.identifier` and `.attrs` (BuildKit `solver/pb/ops.proto`).
const IDENTIFIER: u32 = 1;
const ATTRS: u32 = 2;
/// `CheckPolicyResponse.decision`, `DecisionResponse.action` and `.update`.
const DECISION: u32 = 1;
const ACTION: u32 = 1;
const UPDATE: u32 = 3;
/// `PolicyAction` (BuildKit `sourcepolicy/pb/policy.proto`).
const ALLOW: u64 = 0;
const CONVERT: u64 = 2;

/// A source that the builder asks about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CheckedSource {
    /// The platform, where the source is for one.
    pub(super) platform: Option<Platform>,
    /// As in `docker-image://docker.io/library/demo:1`.
    pub(super) identifier: String,
    /// How it is read.
    pub(super) attrs: BTreeMap<String, String>,
}

impl CheckedSource {
    /// Reads a `CheckPolicyRequest`.
    pub(super) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut read = Self::default();
        for field in fields(message) {
            let field = field?;
            match field.number {
                PLATFORM => read.platform = Some(platform(field.bytes)?),
                SOURCE_META => read.read_meta(field.bytes)?,
                _ => {}
            }
        }
        Ok(read)
    }

    fn read_meta(&mut self, message: &[u8]) -> Result<(), WireError> {
        for source in fields(message) {
            let source = source?;
            if source.number != SOURCE {
                continue;
            }
            for field in fields(source.bytes) {
                let field = field?;
                match field.number {
                    IDENTIFIER => field.text()?.clone_into(&mut self.identifier),
                    ATTRS => self.attrs.extend([entry(field.bytes)?]),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn platform(message: &[u8]) -> Result<Platform, WireError> {
    let mut read = Platform::default();
    for field in fields(message) {
        let field = field?;
        match field.number {
            1 => field.text()?.clone_into(&mut read.architecture),
            2 => field.text()?.clone_into(&mut read.os),
            3 => read.variant = Some(field.text()?.to_owned()).filter(|it| !it.is_empty()),
            4 => read.os_version = Some(field.text()?.to_owned()).filter(|it| !it.is_empty()),
            5 => read.os_features.push(field.text()?.to_owned()),
            _ => {}
        }
    }
    Ok(read)
}

/// The response that lets a source be as it is.
pub(super) fn allow() -> Vec<u8> {
    let mut message = Vec::new();
    put_bytes(&mut message, DECISION, &[]);
    message
}

/// The response that replaces a source.
pub(super) fn convert(identifier: &str, attrs: &BTreeMap<String, String>) -> Vec<u8> {
    let (mut source, mut decision, mut message) = (Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut source, IDENTIFIER, identifier.as_bytes());
    put_map(&mut source, ATTRS, attrs);
    put_varint(&mut decision, ACTION, CONVERT);
    put_bytes(&mut decision, UPDATE, &source);
    put_bytes(&mut message, DECISION, &decision);
    message
}

/// Whether a `CheckPolicyResponse` lets the source be as it is: neither another decision nor a request for more.
pub(super) fn allows(message: &[u8]) -> Result<bool, WireError> {
    let mut allows = false;
    for field in fields(message) {
        let field = field?;
        // Of several results of a `oneof` the last one counts.
        allows = field.number == DECISION;
        for decision in fields(field.bytes).filter(|_| allows) {
            let decision = decision?;
            if decision.number == ACTION && decision.varint != ALLOW {
                return Ok(false);
            }
        }
    }
    Ok(allows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_with_its_platform_and_its_attributes() {
        let (mut source, mut meta, mut platform, mut message) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut source, IDENTIFIER, b"docker-image://docker.io/library/demo:1");
        let attrs = BTreeMap::from([("image.resolvemode".to_owned(), "pull".to_owned())]);
        put_map(&mut source, ATTRS, &attrs);
        put_bytes(&mut meta, SOURCE, &source);
        put_bytes(&mut meta, 2, b"\x0a\x01x");
        put_bytes(&mut platform, 1, b"arm");
        put_bytes(&mut platform, 2, b"linux");
        put_bytes(&mut platform, 3, b"v7");
        put_bytes(&mut message, PLATFORM, &platform);
        put_bytes(&mut message, SOURCE_META, &meta);
        let read = CheckedSource::read(&message).unwrap();
        assert_eq!((&*read.identifier, &read.attrs), ("docker-image://docker.io/library/demo:1", &attrs));
        assert_eq!(read.platform.map(|it| it.to_string()).as_deref(), Some("linux/arm/v7"));
        assert!(CheckedSource::read(&message[..message.len() - 1]).is_err());
    }

    #[test]
    fn only_a_decision_to_allow_allows() {
        let (mut deny, mut request) = (Vec::new(), Vec::new());
        put_bytes(&mut deny, DECISION, &[1 << 3, 1]);
        put_bytes(&mut request, 2, &[]);
        let convert = convert("oci-layout://a@sha256:b", &BTreeMap::new());
        for (message, expected) in
            [(allow(), true), (deny, false), (convert, false), (request, false), (Vec::new(), false)]
        {
            assert_eq!(allows(&message), Ok(expected), "{message:?}");
        }
    }
}
