//! The record of an export: stored with the engine's lease, so that it survives a restart of Linkspan.

use serde::{Deserialize, Serialize};
use tonic::Code;

use super::SERVICE;
use crate::cache_v1::proto;
use crate::export_v1::ApiError;
use crate::export_v1::limits::RECORD_BYTES;
use crate::net::Principal;

/// The request of Open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Distinguishes it from the records of other APIs, whose leases are of the same kind.
    service: String,
    /// Rises with every change that older versions cannot read.
    version: u32,
    /// The server that the export belongs to.
    pub(super) server: String,
    pub(super) key: String,
    /// Who opened it, as far as that outlives a connection.
    pub(super) principal: Principal,
    pub(super) builder: String,
    pub(super) targets: Vec<Target>,
}

/// One target of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) id: String,
    pub(super) reference: String,
    platform: String,
    target: String,
    filename: String,
    mode: String,
    keep: i32,
    expect_current: Option<String>,
    /// The key and the title of a part that is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copied_part: Option<(String, String)>,
}

/// The version of records that every release reads, and that of those with copied parts.
const VERSION: u32 = 1;
const COPIED: u32 = 2;

impl Record {
    pub(super) fn new(request: &proto::OpenRequest, server: &str, client: &Principal) -> Self {
        let is_copy = request.targets.iter().any(|target| target.copied_part.is_some());
        Self {
            service: SERVICE.to_owned(),
            version: if is_copy { COPIED } else { VERSION },
            server: server.to_owned(),
            key: request.idempotency_key.clone(),
            principal: client.beyond_its_connection(),
            builder: request.builder.clone(),
            targets: request.targets.iter().map(Target::new).collect(),
        }
    }

    /// The text that the engine keeps.
    pub(super) fn write(&self) -> Result<String, ApiError> {
        let text = serde_json::to_string(self).map_err(|error| ApiError::field("targets", error.to_string()))?;
        if text.len() > RECORD_BYTES {
            let message = format!("the targets come to {} bytes; at most {RECORD_BYTES} are kept", text.len());
            return Err(ApiError::limit(Code::InvalidArgument, "record_bytes", RECORD_BYTES, message));
        }
        Ok(text)
    }

    /// `None` if it is no record of this API, or one that this version cannot read.
    pub(super) fn read(text: &str) -> Option<Self> {
        let record: Self = serde_json::from_str(text).ok()?;
        (record.service == SERVICE && [VERSION, COPIED].contains(&record.version)).then_some(record)
    }

    /// The targets, as Open was given them.
    pub(super) fn targets(&self) -> Vec<proto::Target> {
        self.targets.iter().map(Target::message).collect()
    }
}

impl Target {
    fn new(target: &proto::Target) -> Self {
        let part = target.part.clone().unwrap_or_default();
        Self {
            id: target.id.clone(),
            reference: target.r#ref.clone(),
            platform: part.platform,
            target: part.target,
            filename: part.filename,
            mode: target.mode.clone(),
            keep: target.keep,
            expect_current: target.expect_current.as_ref().map(|expected| expected.version_id.clone()),
            copied_part: target.copied_part.clone().map(|part| (part.key, part.title)),
        }
    }

    pub(super) fn message(&self) -> proto::Target {
        let copied_part = self.copied_part.clone().map(|(key, title)| proto::CopiedPart { key, title });
        let part = proto::PartName {
            platform: self.platform.clone(),
            target: self.target.clone(),
            filename: self.filename.clone(),
        };
        proto::Target {
            id: self.id.clone(),
            r#ref: self.reference.clone(),
            part: Some(part).filter(|_| copied_part.is_none()),
            copied_part,
            mode: self.mode.clone(),
            keep: self.keep,
            expect_current: self.expect_current.clone().map(|version_id| proto::Expectation { version_id }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips() {
        let part = proto::PartName { platform: "linux/amd64".to_owned(), ..proto::PartName::default() };
        let target = proto::Target {
            id: "a".to_owned(),
            r#ref: "app".to_owned(),
            part: Some(part),
            keep: 2,
            expect_current: Some(proto::Expectation { version_id: String::new() }),
            ..proto::Target::default()
        };
        let request = proto::OpenRequest { targets: vec![target], ..proto::OpenRequest::default() };
        let record = Record::new(&request, "unix:///export.sock", &Principal::Internal);
        let text = record.write().unwrap();
        let read = Record::read(&text).unwrap();
        assert_eq!((read.targets(), read), (request.targets, record));
        for other in ["linkspan.export.v1", "linkspan.cache.v2"] {
            assert_eq!(Record::read(&text.replace(SERVICE, other)), None);
        }
        assert_eq!(Record::read(&text.replace("\"version\":1", "\"version\":3")), None);
    }

    #[test]
    fn a_copied_part_comes_back_and_is_no_record_of_an_earlier_release() {
        let copied_part = Some(proto::CopiedPart { key: String::new(), title: "linux/arm64".to_owned() });
        let target =
            proto::Target { id: "a".to_owned(), r#ref: "app".to_owned(), copied_part, ..proto::Target::default() };
        let request = proto::OpenRequest { targets: vec![target], ..proto::OpenRequest::default() };
        let text = Record::new(&request, "unix:///export.sock", &Principal::Internal).write().unwrap();
        assert!(text.contains("\"version\":2"), "{text}");
        assert_eq!(Record::read(&text).unwrap().targets(), request.targets);
    }
}
