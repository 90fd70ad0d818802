//! What is stored with the lease of a push, so that a later process finds its uploads.

use serde::{Deserialize, Serialize};

use crate::net::Principal;

/// What distinguishes it from the records of other doors.
const SERVICE: &str = "registry";
/// Rises with every change that older versions cannot read.
const VERSION: u32 = 1;

/// Who pushes what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    service: String,
    version: u32,
    /// The address of the door.
    pub(super) server: String,
    /// The repository's name in the engine.
    pub(super) repository: String,
    pub(super) principal: Principal,
}

impl Record {
    pub(super) fn new(server: &str, repository: &str, principal: &Principal) -> Self {
        Self {
            service: SERVICE.to_owned(),
            version: VERSION,
            server: server.to_owned(),
            repository: repository.to_owned(),
            principal: principal.beyond_its_connection(),
        }
    }

    /// The text that the engine keeps: less than a kilobyte.
    pub(super) fn write(&self) -> String {
        // Strings and numbers: writing those cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// `None` if it is another door's, or of a version that this one cannot read.
    pub(super) fn read(text: &str) -> Option<Self> {
        let record: Self = serde_json::from_str(text).ok()?;
        (record.service == SERVICE && record.version == VERSION).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        let client = Principal::Unix { uid: 1, gid: 2, pid: Some(3) };
        let record = Record::new("tcp://127.0.0.1:5000", "docker.io/library/app", &client);
        let text = record.write();
        assert_eq!(Record::read(&text), Some(record.clone()));
        assert_eq!(record.principal, client.beyond_its_connection());
        for other in [text.replace("\"registry\"", "\"cache\""), text.replace("\"version\":1", "\"version\":2")] {
            assert_eq!(Record::read(&other), None);
        }
    }
}
