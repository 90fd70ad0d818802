//! The blobs that belong to one export: what its clients see instead of the engine's whole store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use tonic::{Code, Status};

use crate::export_v1::ApiError;
use crate::export_v1::limits::{BLOBS, LABEL_BYTES, LABELS, REFS};
use crate::image::Digest;

/// The labels of a blob in this export. The engine never sees them.
pub(crate) type Labels = BTreeMap<String, String>;

/// One blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) size: u64,
    pub(crate) created: SystemTime,
    pub(crate) updated: SystemTime,
    pub(crate) labels: Labels,
}

/// What is known of a ref beyond what the engine keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) started: SystemTime,
    pub(crate) updated: SystemTime,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    blobs: HashMap<Digest, Blob>,
    bytes: u64,
    /// Refs that a stream writes at this moment.
    writing: HashSet<String>,
    /// Of every ref that was begun, and is neither committed nor aborted.
    times: HashMap<String, Times>,
    /// Blobs that clients have sent.
    received: HashSet<Digest>,
}

impl Scope {
    pub(crate) fn get(&self, digest: &Digest) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    pub(crate) fn len(&self) -> usize {
        self.blobs.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every blob, by digest.
    pub(crate) fn list(&self) -> Vec<(Digest, Blob)> {
        let mut blobs: Vec<_> = self.blobs.iter().map(|(digest, blob)| (digest.clone(), blob.clone())).collect();
        blobs.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
        blobs
    }

    /// Takes a blob in; one that is there stays as it is.
    pub(crate) fn add(&mut self, digest: Digest, size: u64, labels: Labels) -> Result<(), ApiError> {
        if self.blobs.contains_key(&digest) {
            return Ok(());
        }
        if self.blobs.len() >= BLOBS {
            let message = format!("the export holds {BLOBS} blobs already");
            return Err(ApiError::limit(Code::ResourceExhausted, "blobs", BLOBS, message));
        }
        let now = SystemTime::now();
        self.bytes = self.bytes.saturating_add(size);
        self.blobs.insert(digest, Blob { size, created: now, updated: now, labels });
        Ok(())
    }

    /// Adds `blobs` of an export of an earlier process; `false` if some were left out, because the limit is reached.
    pub(crate) fn restore(&mut self, blobs: impl IntoIterator<Item = (Digest, u64)>) -> bool {
        // To the last one: what is there already needs no room.
        let added = blobs.into_iter().map(|(digest, size)| self.add(digest, size, Labels::new()).is_ok());
        added.fold(true, |all, is_added| all & is_added)
    }

    /// A client has sent a blob.
    pub(crate) fn receive(&mut self, digest: &Digest) {
        self.received.insert(digest.clone());
    }

    /// Blobs that clients have sent.
    pub(crate) fn received(&self) -> &HashSet<Digest> {
        &self.received
    }

    /// Takes a blob out; whether it was there.
    pub(crate) fn remove(&mut self, digest: &Digest) -> bool {
        let removed = self.blobs.remove(digest);
        self.bytes = self.bytes.saturating_sub(removed.as_ref().map_or(0, |blob| blob.size));
        removed.is_some()
    }

    /// Changes labels as containerd does (`core/metadata/content.go`, `Update`): without paths all of them are replaced,
    /// else those that the paths name; one that is named and not given goes.
    pub(crate) fn update(&mut self, digest: &Digest, given: Labels, paths: &[String]) -> Result<Blob, Status> {
        let blob = self.blobs.get_mut(digest).ok_or_else(|| not_found(digest))?;
        let mut labels = if paths.is_empty() { given.clone() } else { blob.labels.clone() };
        for path in paths {
            match path.strip_prefix("labels.") {
                Some(key) => match given.get(key).filter(|value| !value.is_empty()) {
                    Some(value) => _ = labels.insert(key.to_owned(), value.clone()),
                    None => _ = labels.remove(key),
                },
                None if path == "labels" => labels.clone_from(&given),
                None => {
                    let what = format!("`{path}` of a blob cannot be changed; expected `labels` or `labels.KEY`");
                    return Err(ApiError::field("update_mask", what).into());
                }
            }
        }
        check_labels(&labels)?;
        blob.labels = labels;
        blob.updated = SystemTime::now();
        Ok(blob.clone())
    }

    /// Marks a ref as being written; `false` if it is already.
    pub(crate) fn lock(&mut self, name: &str) -> bool {
        self.writing.insert(name.to_owned())
    }

    pub(crate) fn unlock(&mut self, name: &str) {
        self.writing.remove(name);
    }

    pub(crate) fn writing(&self) -> usize {
        self.writing.len()
    }

    /// Whether the ref `name`, which is being written, is one of not too many.
    pub(crate) fn check_room(&self, name: &str) -> Result<(), ApiError> {
        let new = self.writing.iter().filter(|name| !self.times.contains_key(*name)).count();
        if self.times.contains_key(name) || self.times.len() + new <= REFS {
            return Ok(());
        }
        let message = format!("the export has {REFS} refs that are not committed; commit or abort one of them");
        Err(ApiError::limit(Code::ResourceExhausted, "refs", REFS, message))
    }

    /// When a ref was begun and last written to.
    pub(crate) fn times(&self, name: &str) -> Option<Times> {
        self.times.get(name).copied()
    }

    pub(crate) fn set_times(&mut self, name: &str, times: Times) {
        self.times.insert(name.to_owned(), times);
    }

    pub(crate) fn forget_times(&mut self, name: &str) {
        self.times.remove(name);
    }
}

/// Labels that containerd would take (`pkg/labels/validate.go`), and not too many.
pub(crate) fn check_labels(labels: &Labels) -> Result<(), ApiError> {
    if labels.len() > LABELS {
        return Err(ApiError::field("labels", format!("{} labels; a blob has at most {LABELS}", labels.len())));
    }
    match labels.iter().find(|(key, value)| key.len() + value.len() > LABEL_BYTES) {
        Some((key, _)) => {
            let shown: String = key.chars().take(80).collect();
            Err(ApiError::field("labels", format!("`{shown}` and its value are longer than {LABEL_BYTES} bytes")))
        }
        None => Ok(()),
    }
}

/// The status of containerd, which its clients act on.
pub(crate) fn not_found(digest: &Digest) -> Status {
    Status::not_found(format!("content {digest}: not found in this export"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn updates_follow_their_paths() {
        let (mut scope, digest) = (Scope::default(), Digest::sha256(b"x"));
        scope.add(digest.clone(), 1, labels(&[("a", "1"), ("b", "2")])).unwrap();
        let paths = ["labels.a".to_owned(), "labels.b".to_owned(), "labels.c".to_owned()];
        let blob = scope.update(&digest, labels(&[("a", "3"), ("d", "4")]), &paths).unwrap();
        assert_eq!(blob.labels, labels(&[("a", "3")]));
        assert_eq!(scope.update(&digest, labels(&[("e", "5")]), &[]).unwrap().labels, labels(&[("e", "5")]));
        assert_eq!(
            scope.update(&digest, Labels::new(), &["size".to_owned()]).unwrap_err().code(),
            Code::InvalidArgument
        );
        assert_eq!(scope.update(&Digest::sha256(b"y"), Labels::new(), &[]).unwrap_err().code(), Code::NotFound);
    }

    #[test]
    fn at_most_so_many_refs_are_taken() {
        let mut scope = Scope::default();
        let times = Times { started: SystemTime::now(), updated: SystemTime::now() };
        for at in 1..REFS {
            scope.set_times(&at.to_string(), times);
        }
        assert!(scope.lock("new"));
        scope.check_room("new").unwrap();
        // One that has no times yet counts.
        assert!(scope.lock("newer"));
        assert_eq!(scope.check_room("newer").unwrap_err().metadata["limit"], "refs");
        scope.check_room("1").unwrap();
        scope.unlock("new");
        scope.check_room("newer").unwrap();
    }

    #[test]
    fn a_restored_export_says_what_is_left_out_of_it() {
        let mut scope = Scope::default();
        let blobs = |count| (0..count).map(|at: usize| (Digest::sha256(at.to_string().as_bytes()), 1));
        assert!(scope.restore(blobs(BLOBS)));
        assert!(scope.restore(blobs(BLOBS)), "they are there");
        assert!(!scope.restore(blobs(BLOBS + 1)));
        assert_eq!((scope.len(), scope.bytes()), (BLOBS, BLOBS as u64));
    }

    #[test]
    fn counts_what_is_in_it() {
        let (mut scope, digest) = (Scope::default(), Digest::sha256(b"x"));
        for _ in 0..2 {
            scope.add(digest.clone(), 7, Labels::new()).unwrap();
        }
        assert_eq!((scope.len(), scope.bytes()), (1, 7));
        assert!(scope.remove(&digest) && !scope.remove(&digest));
        assert_eq!((scope.len(), scope.bytes()), (0, 0));
    }
}
