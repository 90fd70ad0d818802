//! The record of an export: stored with the engine's lease, so that it survives a restart of Linkspan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::export_v1::ApiError;
use crate::export_v1::limits::RECORD_BYTES;
use crate::export_v1::proto;
use crate::net::Principal;
use tonic::Code;

/// The request of Open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Rises with every change that older versions cannot read.
    version: u32,
    /// The server that the export belongs to; none in records of versions before this one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) server: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    /// Who opened it; [`Principal::Internal`] in records of versions before this one.
    #[serde(default = "unknown_principal")]
    pub(super) principal: Principal,
    pub(super) exporters: Vec<Exporter>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
}

/// One exporter of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exporter {
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attributes: BTreeMap<String, String>,
}

const VERSION: u32 = 1;

/// The principal of records from before it was recorded.
fn unknown_principal() -> Principal {
    Principal::Internal
}

impl Record {
    pub(super) fn new(request: &proto::OpenRequest, server: &str, client: &Principal) -> Self {
        let exporter = |exporter: &proto::Exporter| Exporter {
            id: exporter.id.clone(),
            kind: exporter.r#type.clone(),
            attributes: exporter.attributes.clone().into_iter().collect(),
        };
        Self {
            version: VERSION,
            server: server.to_owned(),
            key: request.idempotency_key.clone(),
            principal: client.beyond_its_connection(),
            exporters: request.exporters.iter().map(exporter).collect(),
            labels: request.labels.clone().into_iter().collect(),
        }
    }

    pub(super) fn exporter(&self, id: &str) -> Option<&Exporter> {
        self.exporters.iter().find(|exporter| exporter.id == id)
    }

    /// Whether `other` is a repetition of the same request, by the same client as far as that is known.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_known = |record: &Self| record.principal != Principal::Internal;
        let principal = self.principal.clone();
        (self.principal == other.principal || !is_known(self) || !is_known(other))
            && *self == Self { principal, ..other.clone() }
    }

    /// The text that the engine keeps.
    pub(super) fn write(&self) -> Result<String, ApiError> {
        let text = serde_json::to_string(self).map_err(|error| ApiError::field("labels", error.to_string()))?;
        if text.len() > RECORD_BYTES {
            let message = format!(
                "labels and attributes come to {} bytes; at most {RECORD_BYTES} are kept with an export",
                text.len()
            );
            return Err(ApiError::limit(Code::InvalidArgument, "record_bytes", RECORD_BYTES, message));
        }
        Ok(text)
    }

    /// Whether it is the record of another API, by its mark: leases of all of them are of the same kind.
    pub(super) fn is_of_another_service(text: &str) -> bool {
        #[derive(Deserialize)]
        struct Service {
            #[serde(rename = "service")]
            _service: String,
        }
        serde_json::from_str::<Service>(text).is_ok()
    }

    /// `None` if this version cannot read it.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|record: &Self| record.version == VERSION)
    }
}

impl Exporter {
    pub(super) fn message(&self) -> proto::Exporter {
        proto::Exporter {
            id: self.id.clone(),
            r#type: self.kind.clone(),
            attributes: self.attributes.clone().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(uid: u32) -> Principal {
        Principal::Unix { uid, gid: 2, pid: Some(3) }
    }

    fn request() -> proto::OpenRequest {
        proto::OpenRequest {
            idempotency_key: "k".to_owned(),
            exporters: vec![proto::Exporter {
                id: "a".to_owned(),
                r#type: "image".to_owned(),
                attributes: [("name".to_owned(), "demo".to_owned())].into(),
            }],
            labels: [("build".to_owned(), "b1".to_owned())].into(),
            ..proto::OpenRequest::default()
        }
    }

    #[test]
    fn a_record_round_trips() {
        let record = Record::new(&request(), "unix:///export.sock", &client(1));
        assert_eq!(Record::read(&record.write().unwrap()), Some(record));
    }

    #[test]
    fn the_client_is_part_of_it_and_its_process_is_not() {
        let record = |client| Record::new(&request(), "", &client);
        let other_process = Principal::Unix { uid: 1, gid: 2, pid: Some(4) };
        assert_eq!(record(client(1)), record(other_process));
        assert!(!record(client(1)).is_same(&record(client(7))));
        let of_port = |port| Principal::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        assert!(record(of_port(1)).is_same(&record(of_port(2))) && !record(of_port(1)).is_same(&record(client(1))));
        // A record of a version that kept none.
        let text = record(Principal::Internal).write().unwrap().replace("\"principal\":\"internal\",", "");
        assert!(!text.contains("principal") && Record::read(&text).unwrap().is_same(&record(client(1))), "{text}");
    }

    #[test]
    fn others_name_their_owner() {
        let text = Record::new(&request(), "unix:///export.sock", &client(1)).write().unwrap();
        assert!(!Record::is_of_another_service(&text));
        assert!(Record::is_of_another_service(&text.replacen('{', "{\"service\":\"other\",", 1)));
    }

    #[test]
    fn a_later_version_is_left_alone() {
        let text = Record::new(&request(), "unix:///export.sock", &client(1))
            .write()
            .unwrap()
            .replace("\"version\":1", "\"version\":2");
        assert_eq!(Record::read(&text), None);
    }

    #[test]
    fn is_bounded() {
        let mut request = request();
        request.labels.insert("long".to_owned(), "x".repeat(RECORD_BYTES));
        let refusal = Record::new(&request, "", &client(1)).write().unwrap_err();
        assert_eq!((refusal.code, refusal.reason), (Code::InvalidArgument, proto::Reason::LimitExceeded));
    }
}
