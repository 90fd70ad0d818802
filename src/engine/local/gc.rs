//! The garbage collector: removes blobs that no root of the index reaches and no lease pins, and files that crashed
//! processes left behind.
//!
//! Other tools write blobs first and the index last, read the index first and blobs later, and know nothing of our leases.
//! So an unreachable blob is removed only when it is an hour old and has been unreachable for an hour
//! ([`super::unreached`]).
//!
//! A file that cannot be read might refer to any blob: then no blob is removed, but temporary files still are. A file
//! that cannot be removed does not stop the collection.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::blob_store::BlobStore;
use super::files::{entries, open_file};
use super::lease_store::{LeaseStore, Survey};
use super::name_index::NameIndex;
use super::process_file::lives;
use super::reachable::Reachable;
use super::seal::Seal;
use super::unreached::Unreached;
use super::unsynced::UnsyncedBlob;
use super::verified;
use crate::engine::EngineError;
use crate::image::{Algorithm, Digest};

/// How long an unreachable blob is kept: another tool may be using it.
pub(crate) const GRACE: Duration = Duration::from_secs(3600);
/// How long the part of a blob is kept for an export that resumes it.
const PARTS: Duration = Duration::from_secs(24 * 3600);
/// How many reasons are logged at most.
const REASONS: usize = 5;
/// The files that are replaced as a whole; their drafts have these names, followed by a dot and more.
const DRAFTS: [&str; 5] = ["index.json", "oci-layout", "lease", "unreached", "verified"];

/// What was removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Blobs.
    pub(crate) blobs: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Abandoned exports.
    pub(crate) exports: usize,
    /// Whether there are unreachable blobs that are not old enough yet.
    pub(crate) is_more: bool,
}

/// Runs the collector. A blob that became unreachable only now stays for an hour. Blocks.
///
/// # Errors
/// When the layout is locked or cannot be read at all. Errors of single files are logged.
pub(crate) fn collect(blobs: &BlobStore, names: &NameIndex, leases: &LeaseStore) -> Result<Collected, EngineError> {
    let (paths, mut outcome) = (&blobs.paths, Collected::default());
    let _lock = names.lock()?;
    let failed = |error: io::Error| paths.failed("collecting", &error);
    let Survey { pinned, abandoned, unnamed, mut doubts } = leases.survey().map_err(failed)?;
    outcome.exports = abandoned.iter().chain(&unnamed).filter(|export| release_abandoned(blobs, export)).count();
    sweep_own(blobs, doubts.is_empty().then_some(&pinned));
    ok_or_warn(verified::compact(paths), &paths.verified());

    let Some((index, seal)) = names.read_sealed()? else { return Ok(outcome) };
    let mut keep = Reachable::default();
    for entry in index.entries() {
        keep.follow(paths, &entry.target);
    }
    doubts.extend(index.doubts());
    doubts.append(&mut keep.doubts);
    if !doubts.is_empty() {
        for doubt in doubts.iter().take(REASONS) {
            tracing::warn!(layout = %paths.root().display(), "no blob is collected: {doubt}");
        }
        return Ok(outcome);
    }
    keep.all.extend(pinned);
    sweep(blobs, &keep.all, seal, &mut outcome);
    Ok(outcome)
}

/// Whether `path` could be changed or removed; an error is logged.
fn ok_or_warn(outcome: io::Result<()>, path: &Path) -> bool {
    if let Err(error) = &outcome {
        tracing::warn!(%error, path = %path.display(), "it cannot be changed or removed, and stays as it is");
    }
    outcome.is_ok()
}

/// The entries of a folder of ours; an error is logged.
fn listed(folder: &Path) -> Vec<DirEntry> {
    entries(folder).unwrap_or_else(|error| {
        tracing::warn!(%error, folder = %folder.display(), "it cannot be listed, and stays");
        Vec::new()
    })
}

/// Removes the ingests and the lease of an abandoned export; `false` if the lease stays.
fn release_abandoned(blobs: &BlobStore, export: &str) -> bool {
    tracing::info!(export, "releasing an export that a former process left behind");
    let (paths, disk) = (&blobs.paths, &blobs.disk);
    let uploads = paths.uploads_of(export);
    for entry in listed(&uploads) {
        ok_or_warn(disk.remove(&entry.path()), &entry.path());
    }
    ok_or_warn(disk.remove_folder(&uploads), &uploads);
    ok_or_warn(disk.remove(&paths.lease(export)), &paths.lease(export))
}

/// Removes unreachable blobs that are old enough. `index` is the seal of the index from which `keep` was computed.
fn sweep(blobs: &BlobStore, keep: &HashSet<Digest>, index: Seal, outcome: &mut Collected) {
    let (paths, now) = (&blobs.paths, blobs.clock.now());
    let noted = Unreached::read(paths);
    // Another tool changed the index since then: a blob that is unreachable now may have been reachable a moment ago.
    let begun_anew = Unreached::default();
    let former = if noted.is_of(&index) { &noted } else { &begun_anew };
    let mut unreached = Unreached::of(index);
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for entry in listed(&paths.blobs_of(algorithm)) {
            // A file that is not named by a digest is not ours.
            let name = format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy());
            let Ok(digest) = name.parse::<Digest>() else { continue };
            let Ok(found) = entry.metadata() else { continue };
            if keep.contains(&digest) || found.is_dir() {
                continue;
            }
            if former.age(&digest, now) >= GRACE
                && blobs.clock.age_of(&found) >= GRACE
                && ok_or_warn(blobs.disk.remove(&entry.path()), &entry.path())
            {
                outcome.blobs += 1;
                outcome.bytes += found.len();
                continue;
            }
            unreached.note(digest, former, now);
        }
    }
    outcome.is_more = !unreached.is_empty();
    if !outcome.is_more {
        unreached = Unreached::default();
    }
    if unreached != noted {
        ok_or_warn(unreached.write(paths), &paths.unreached());
    }
}

/// Removes files of dead processes, except complete blobs that a lease pins; also removes parts that no export resumed
/// in time. `pinned` is `None` if some leases cannot be read.
fn sweep_own(blobs: &BlobStore, pinned: Option<&HashSet<Digest>>) {
    let (paths, clock) = (&blobs.paths, &blobs.clock);
    let remove = |path: &Path| ok_or_warn(blobs.disk.remove(path), path);
    let is_folder = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    for entry in listed(&paths.ingest()).iter().filter(|entry| !is_folder(entry)) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_part = name.starts_with("sha");
        let owner = name.split('.').next().unwrap_or_default();
        if let Some(blob) = UnsyncedBlob::parse(&path) {
            let is_of_use = blob.is_of(&blobs.boot) && pinned.is_none_or(|pinned| pinned.contains(&blob.digest));
            if !is_of_use && !blob.has_owner(paths) {
                remove(&path);
            }
            continue;
        }
        if clock.age(&path) > PARTS && !is_locked(&path) || !is_part && !lives(paths, owner) {
            remove(&path);
        }
    }
    for entry in listed(&paths.processes()).iter().filter(|entry| !is_folder(entry)) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !lives(paths, &name) && clock.age(&entry.path()) > Duration::from_secs(60) {
            remove(&entry.path());
        }
    }
    // A draft that was never renamed.
    for entry in listed(&paths.own()).iter().filter(|entry| !is_folder(entry)) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_draft = |of: &&str| name.strip_prefix(*of).is_some_and(|rest| rest.starts_with('.'));
        if DRAFTS.iter().any(is_draft) && clock.age(&path) > GRACE {
            remove(&path);
        }
    }
}

fn is_locked(path: &Path) -> bool {
    open_file(path).is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}
