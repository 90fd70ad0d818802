//! A lease as a bucket has it: an object of JSON, with what it pins and the uploads that are under way under it.
//!
//! One is abandoned when its process is gone, which only a process of the same boot can tell, else when it has not been written
//! for a day; a durable one eight hours after it was created, and what clocks may differ by.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::host::{Host, SKEW};
use crate::engine::process::Process;
use crate::image::Digest;

/// How long a durable lease lasts after it was created, the same as in other engines.
pub(super) const LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// How long a lease of a process that cannot be seen from here lasts after it was written.
pub(super) const UNSEEN: Duration = Duration::from_secs(24 * 3600);

/// A lease as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredLease {
    /// The process that wrote it.
    pub(super) process: String,
    /// What makes it durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) record: Option<String>,
    /// When it was created, in milliseconds since 1970.
    pub(super) created: u64,
    #[serde(default)]
    pub(super) pinned: BTreeSet<Digest>,
    #[serde(default)]
    pub(super) uploads: Vec<StoredUpload>,
}

/// A multipart upload as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredUpload {
    pub(super) key: String,
    pub(super) id: String,
    /// With what another process can go on, once parts are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<StoredProgress>,
}

/// How far an ingest's upload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredProgress {
    /// The ref of the ingest.
    pub(super) reference: String,
    /// What was expected of it when it was opened first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u64>,
    pub(super) part_size: u64,
    /// What the store calls the parts, in their order.
    pub(super) parts: Vec<String>,
    /// The hash of their bytes so far ([`crate::image::Hasher`]).
    pub(super) hash: String,
}

impl StoredLease {
    pub(super) fn created(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.created)).unwrap_or(UNIX_EPOCH)
    }

    /// Whether nobody uses it any more; `written` is the store's time of its object.
    pub(super) fn is_abandoned(&self, host: &Host, written: SystemTime) -> bool {
        if self.record.is_some() {
            return host.age(self.created()) >= LIFETIME + SKEW;
        }
        match self.process.parse::<Process>() {
            Ok(process) if process.is_of_this_boot() && process.is_gone() => true,
            // One of another container of this machine cannot be seen either, and no process trusts its own for so long.
            _ => host.age(written) >= UNSEEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pins::TRUSTED;
    use super::*;
    use crate::engine::caches::milliseconds;

    /// A process in another container of this machine cannot be seen: it may live, but trusts its lease for 12 hours only.
    #[test]
    fn a_lease_of_a_container_of_this_machine_is_not_kept_until_the_machine_restarts() {
        let host = Host::this();
        let other = format!("{}/pid:[1]/1/1", crate::engine::process::boot());
        let lease = |process: &str| StoredLease {
            process: process.to_owned(),
            record: None,
            created: milliseconds(host.now()),
            pinned: BTreeSet::new(),
            uploads: Vec::new(),
        };
        let ago = |age: Duration| host.now().checked_sub(age).unwrap();
        let (young, old) = (ago(TRUSTED), ago(UNSEEN));
        assert!(!lease(&other).is_abandoned(&host, young) && lease(&other).is_abandoned(&host, old));
        assert!(!lease(&host.process).is_abandoned(&host, young), "this process lives");
        let gone = format!("{}/1/1", host.process.rsplitn(3, '/').last().unwrap());
        assert!(lease(&gone).is_abandoned(&host, host.now()), "a process of here that is gone");
    }
}
