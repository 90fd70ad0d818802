//! Blobs that were complete and not yet synced when their process was killed.
//!
//! Their content is in the kernel's memory, and as good as on the disk as long as the machine does not restart. An export
//! that outlives its process finds them again by the digests that its lease holds.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::lease_file::{entries, lives};
use super::place::Place;
use crate::image::Digest;

/// A file that [`Place::complete`] named.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) digest: Digest,
    boot: String,
    process: String,
}

impl Left {
    /// What a file is by its name; `None` if it is something else.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let mut parts = name.split('.');
        let digest = parts.next()?.replacen('-', ":", 1).parse().ok()?;
        let (boot, process) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        parts.next()?;
        Some(Self { digest, boot, process })
    }

    /// Whether the process lives that will give it its name.
    pub(super) fn has_owner(&self, place: &Place) -> bool {
        lives(place, &self.process)
    }

    /// Whether it is of this boot.
    pub(super) fn is_of(&self, boot: &str) -> bool {
        !boot.is_empty() && self.boot == boot
    }
}

/// All that can be taken over.
pub(super) fn find(place: &Place, boot: &str) -> io::Result<HashMap<Digest, PathBuf>> {
    let mut found = HashMap::new();
    // There may be thousands of one process.
    let mut owners: HashMap<String, bool> = HashMap::new();
    for entry in entries(&place.ingest())? {
        let Some(left) = Left::parse(&entry.path()).filter(|left| left.is_of(boot)) else { continue };
        if !*owners.entry(left.process.clone()).or_insert_with(|| left.has_owner(place)) {
            found.insert(left.digest, entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_blobs_are_taken_for_some() {
        let (place, digest) = (Place::new(Path::new("/layout")), Digest::sha256(b"x"));
        let left = Left::parse(&place.unsynced("boot-1", &digest, "12-ab-0")).unwrap();
        assert_eq!((&left.digest, left.boot.as_str(), left.process.as_str()), (&digest, "boot-1", "12-ab-0"));
        assert!(left.is_of("boot-1") && !left.is_of("boot-2") && !left.is_of(""));
        assert!(Left::parse(&place.partial("boot-1", &digest)).is_none());
        assert!(Left::parse(&super::super::pipe::private(&place, "12-ab-0")).is_none());
    }
}
