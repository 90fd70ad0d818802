//! Unsynced blobs: complete, but not yet synced when their process was killed.
//!
//! Their content is in the page cache, and as safe as on the disk until the machine restarts. An export that outlives
//! its process finds them by the digests in its lease.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::files::entries;
use super::paths::LayoutPaths;
use super::process_file::lives;
use crate::image::Digest;

/// The name of an unsynced blob's file, which [`LayoutPaths::unsynced`] makes.
#[derive(Debug)]
pub(super) struct UnsyncedBlob {
    pub(super) digest: Digest,
    boot: String,
    process: String,
}

impl UnsyncedBlob {
    /// Parses the name of a file; `None` if it is not an unsynced blob.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let mut parts = name.split('.');
        let digest = parts.next()?.replacen('-', ":", 1).parse().ok()?;
        let (boot, process) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        parts.next()?;
        Some(Self { digest, boot, process })
    }

    /// Whether the process that will publish it lives.
    pub(super) fn has_owner(&self, paths: &LayoutPaths) -> bool {
        lives(paths, &self.process)
    }

    /// Whether it was written in this boot.
    pub(super) fn is_of(&self, boot: &str) -> bool {
        !boot.is_empty() && self.boot == boot
    }
}

/// All unsynced blobs that this process can take over.
pub(super) fn find(paths: &LayoutPaths, boot: &str) -> io::Result<HashMap<Digest, PathBuf>> {
    let mut found = HashMap::new();
    // One process may have thousands.
    let mut owners: HashMap<String, bool> = HashMap::new();
    for entry in entries(&paths.ingest())? {
        let Some(blob) = UnsyncedBlob::parse(&entry.path()).filter(|blob| blob.is_of(boot)) else { continue };
        if !*owners.entry(blob.process.clone()).or_insert_with(|| blob.has_owner(paths)) {
            found.insert(blob.digest, entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_blobs_are_taken_for_some() {
        let (paths, digest) = (LayoutPaths::new(Path::new("/layout")), Digest::sha256(b"x"));
        let blob = UnsyncedBlob::parse(&paths.unsynced("boot-1", &digest, "12-ab-0")).unwrap();
        assert_eq!((&blob.digest, blob.boot.as_str(), blob.process.as_str()), (&digest, "boot-1", "12-ab-0"));
        assert!(blob.is_of("boot-1") && !blob.is_of("boot-2") && !blob.is_of(""));
        assert!(UnsyncedBlob::parse(&paths.partial("boot-1", &digest)).is_none());
        assert!(UnsyncedBlob::parse(&paths.temp_path("12-ab-0")).is_none());
    }
}
