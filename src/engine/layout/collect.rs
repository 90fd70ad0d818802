//! The collector: removes blobs that no image of the index reaches and no export relies on, and what crashed processes
//! left behind.
//!
//! Other tools write blobs first and the index last, and know nothing of our leases. So a blob that nobody reaches is
//! removed only when it is an hour old, unless it belonged to an image that just lost its name to an export of ours.
//! What cannot be read stops the collector: it might have said what else is needed.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::lease::{age, entries, lives, survey};
use super::left::Left;
use super::lock;
use super::place::Place;
use super::read::read_index;
use super::shared::Shared;
use crate::engine::EngineError;
use crate::image::{Algorithm, Descriptor, Digest, Document, Kind, Limits};

/// How old a blob must be that another tool may just have written.
const GRACE: Duration = Duration::from_secs(3600);
/// How long the part of a blob waits for somebody to go on with it.
const PARTS: Duration = Duration::from_secs(24 * 3600);
/// How many blobs are followed at most; beyond that nothing is collected.
const MAX_BLOBS: usize = 4_000_000;

/// What was removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Blobs.
    pub(super) blobs: usize,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Exports of processes that are gone.
    pub(super) exports: usize,
}

/// Collects. `replaced` are roots that just lost a name: what only they reach goes at once. Blocks.
pub(super) fn collect(shared: &Shared, replaced: &[Descriptor]) -> Result<Outcome, EngineError> {
    let (place, mut outcome) = (&shared.place, Outcome::default());
    let _lock = lock::exclusive(place)?;
    let failed = |error: io::Error| place.failed("collecting", &error);
    let (held, abandoned) = survey(place).map_err(failed)?;
    for export in &abandoned {
        tracing::info!(export, "releasing an export that a former process left behind");
        let uploads = place.uploads_of(export);
        for entry in entries(&uploads).map_err(failed)? {
            shared.disk.remove(&entry.path()).map_err(failed)?;
        }
        shared.disk.remove_folder(&uploads).map_err(failed)?;
        shared.disk.remove(&place.lease(export)).map_err(failed)?;
    }
    outcome.exports = abandoned.len();
    let held: HashSet<Digest> = held.into_iter().collect();
    sweep_own(shared, &held).map_err(failed)?;

    let Some(index) = read_index(place)? else { return Ok(outcome) };
    let mut keep = Reached::default();
    keep.all.extend(held);
    for entry in index.entries() {
        keep.follow(place, &entry.target)?;
    }
    let mut gone = Reached::default();
    for root in replaced.iter().filter(|root| !keep.all.contains(&root.digest)) {
        // Nothing is lost if one cannot be followed: its blobs only stay for their hour.
        let _ = gone.follow(place, root);
    }
    sweep(shared, &keep, &gone, &mut outcome).map_err(failed)?;
    Ok(outcome)
}

/// Blobs that were found on the way from a root.
#[derive(Debug, Default)]
struct Reached {
    all: HashSet<Digest>,
    /// Documents whose children were looked at.
    followed: HashSet<Digest>,
}

impl Reached {
    /// Follows all that `root` reaches. A document that is not there reaches nothing: layouts may hold a part of an
    /// image. One that is there and not understood is an error.
    fn follow(&mut self, place: &Place, root: &Descriptor) -> Result<(), EngineError> {
        let mut next = vec![(root.clone(), true)];
        while let Some((blob, may_be_manifest)) = next.pop() {
            self.all.insert(blob.digest.clone());
            if self.all.len() > MAX_BLOBS {
                return Err(place.refuse(format!("it holds more than {MAX_BLOBS} blobs, so nothing is collected")));
            }
            let kind = blob.kind();
            if may_be_manifest && !matches!(kind, Kind::Index | Kind::Manifest) {
                let (digest, media_type) = (&blob.digest, &blob.media_type);
                let reason =
                    format!("nothing is collected: what {digest} of type `{media_type}` refers to is not known");
                return Err(place.refuse(reason));
            }
            if !matches!(kind, Kind::Index | Kind::Manifest) || !self.followed.insert(blob.digest.clone()) {
                continue;
            }
            let Some(document) = read(place, &blob)? else { continue };
            let is_index = kind == Kind::Index;
            next.extend(document.children().into_iter().map(|child| (child.clone(), is_index)));
        }
        Ok(())
    }
}

fn read(place: &Place, blob: &Descriptor) -> Result<Option<Document>, EngineError> {
    let limits = Limits::default();
    let bytes = match super::place::read_at_most(&place.blob(&blob.digest), limits.bytes_of(blob.kind())) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(place.failed("collecting", &error)),
    };
    let document = Document::parse_within(blob.clone(), bytes.into(), &limits);
    document.map(Some).map_err(|error| place.refuse(format!("nothing is collected: {error}")))
}

/// Removes the blobs that nobody needs.
fn sweep(shared: &Shared, keep: &Reached, gone: &Reached, outcome: &mut Outcome) -> io::Result<()> {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for entry in entries(&shared.place.blobs_of(algorithm))? {
            // What has no digest for a name is not ours to judge.
            let name = format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy());
            let Ok(digest) = name.parse::<Digest>() else { continue };
            let found = entry.metadata()?;
            if keep.all.contains(&digest) || found.is_dir() {
                continue;
            }
            if gone.all.contains(&digest) || age(&entry.path()) > GRACE {
                shared.disk.remove(&entry.path())?;
                outcome.blobs += 1;
                outcome.bytes += found.len();
            }
        }
    }
    Ok(())
}

/// Removes files of processes that are gone, but for complete blobs that an export still holds, and parts that nobody
/// went on with.
fn sweep_own(shared: &Shared, held: &HashSet<Digest>) -> io::Result<()> {
    let place = &shared.place;
    for entry in entries(&place.ingest())? {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_part = name.starts_with("sha");
        let owner = name.split('.').next().unwrap_or_default();
        if let Some(left) = Left::parse(&path) {
            let is_of_use = left.is_of(&shared.boot) && held.contains(&left.digest);
            if !is_of_use && !left.has_owner(place) {
                shared.disk.remove(&path)?;
            }
            continue;
        }
        if age(&path) > PARTS && !is_locked(&path) || !is_part && !lives(place, owner) {
            shared.disk.remove(&path)?;
        }
    }
    for entry in entries(&place.processes())? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !lives(place, &name) && age(&entry.path()) > Duration::from_secs(60) {
            shared.disk.remove(&entry.path())?;
        }
    }
    // A draft of a file that was to be put in place.
    for entry in entries(&place.own())? {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if (name.starts_with("index.json.") || name.starts_with("oci-layout.")) && age(&path) > GRACE {
            shared.disk.remove(&path)?;
        }
    }
    Ok(())
}

fn is_locked(path: &Path) -> bool {
    std::fs::File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}
