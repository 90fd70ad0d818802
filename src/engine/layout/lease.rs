//! Leases: files that say which blobs an export relies on, so that no process collects them.
//!
//! The first line is the process that the lease belongs to, or `durable` with what is kept with it; each further line is
//! a digest, after a `-` one that was given up. A process that lives holds a lock on a file of its own, by which a lease
//! is known to be abandoned. Leases need not survive a power
//! loss, which no export survives either: a durable one pins again what it relies on.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskFile};
use super::lock;
use super::place::{Place, read_at_most};
use crate::engine::{Durable, EngineError};
use crate::image::Digest;

/// How the owner of a lease begins that outlives its process.
const DURABLE: &str = "durable ";
/// How long a durable lease lasts after it was opened first, as long as a containerd's.
const LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// The longest lease that is read, in bytes: 400,000 digests.
const MAX_BYTES: u64 = 32 << 20;

/// Whose end ends a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// This process.
    Process(String),
    /// Nobody: it is taken up again by its name, or expires. With this record.
    Nobody(String),
}

/// What is kept with a durable lease.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    record: String,
    /// Milliseconds since 1970.
    opened: u64,
}

impl Kept {
    fn age(&self) -> Duration {
        let opened = UNIX_EPOCH + Duration::from_millis(self.opened);
        SystemTime::now().duration_since(opened).unwrap_or_default()
    }
}

/// A lease that this process holds.
#[derive(Debug)]
pub(super) struct Lease {
    inner: Mutex<(Box<dyn DiskFile>, HashSet<Digest>)>,
}

impl Lease {
    /// Creates the lease at `path`, or takes a durable one up again.
    pub(super) fn open(disk: &dyn Disk, path: &Path, owner: &Owner) -> io::Result<Self> {
        let found = match owner {
            Owner::Nobody(_) if path.exists() => Some(Found::read(path)?).filter(|found| found.kept().is_some()),
            _ => None,
        };
        let mut file = disk.append(path)?;
        if found.is_none() {
            let owner = match owner {
                Owner::Process(process) => process.clone(),
                Owner::Nobody(record) => {
                    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let opened = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                    let kept = Kept { record: record.clone(), opened };
                    format!("{DURABLE}{}", serde_json::to_string(&kept)?)
                }
            };
            file.clear()?;
            file.write(format!("{owner}\n").as_bytes())?;
        }
        let held = found.map(|found| found.digests.into_iter().collect()).unwrap_or_default();
        Ok(Self { inner: Mutex::new((file, held)) })
    }

    /// Adds to what is held. From then on what is found stays: a collector has seen this, or is done. Blocks.
    pub(super) fn hold<'a>(
        &self,
        place: &Place,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<(), EngineError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, held) = &mut *inner;
        let new: Vec<_> = digests.into_iter().filter(|digest| !held.contains(digest)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let lines: String = new.iter().map(|digest| format!("{digest}\n")).collect();
        let _lock = lock::shared(place)?;
        file.write(lines.as_bytes()).map_err(|error| place.failed("adding to a lease", &error))?;
        held.extend(new.into_iter().cloned());
        Ok(())
    }

    /// Gives up one blob. Blocks.
    pub(super) fn let_go(&self, digest: &Digest) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, held) = &mut *inner;
        if held.remove(digest) {
            file.write(format!("-{digest}\n").as_bytes())?;
        }
        Ok(())
    }

    /// What is held, in the order of the digests.
    pub(super) fn held(&self) -> Vec<Digest> {
        let mut held: Vec<_> = self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.iter().cloned().collect();
        held.sort();
        held
    }
}

/// A lease as it is found on the disk.
#[derive(Debug)]
pub(super) struct Found {
    owner: String,
    pub(super) digests: Vec<Digest>,
}

impl Found {
    fn read(path: &Path) -> io::Result<Self> {
        let text = read_at_most(path, MAX_BYTES)?;
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let owner = lines.next().unwrap_or_default().to_owned();
        let mut held = HashSet::new();
        for line in lines {
            // A line that was cut off by a crash held a blob for a process that is gone.
            match line.strip_prefix('-') {
                Some(gone) => held.retain(|digest: &Digest| digest.as_str() != gone),
                None => held.extend(line.parse()),
            }
        }
        Ok(Self { owner, digests: held.into_iter().collect() })
    }

    fn kept(&self) -> Option<Kept> {
        serde_json::from_str(self.owner.strip_prefix(DURABLE)?).ok()
    }
}

/// The leases that outlive their processes.
pub(super) fn durables(place: &Place) -> io::Result<Vec<Durable>> {
    let mut durables = Vec::new();
    for entry in entries(&place.leases())? {
        let Ok(found) = Found::read(&entry.path()) else { continue };
        if let Some(Kept { record, opened }) = found.kept() {
            let export = entry.file_name().to_string_lossy().into_owned();
            durables.push(Durable { export, record, opened: UNIX_EPOCH + Duration::from_millis(opened) });
        }
    }
    Ok(durables)
}

/// All leases: those that hold their blobs, and the exports whose leases are abandoned.
pub(super) fn survey(place: &Place) -> io::Result<(Vec<Digest>, Vec<String>)> {
    let (mut held, mut abandoned) = (Vec::new(), Vec::new());
    for entry in entries(&place.leases())? {
        let found = match Found::read(&entry.path()) {
            // Released at this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        let lives = match found.owner.as_str() {
            durable if durable.starts_with(DURABLE) => found.kept().is_some_and(|kept| kept.age() < LIFETIME),
            process => lives(place, process),
        };
        match lives {
            true => held.extend(found.digests),
            false => abandoned.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
    Ok((held, abandoned))
}

/// Whether a process lives: then it has its file locked. An empty name is that of a process that was just about to say
/// who it is.
pub(super) fn lives(place: &Place, process: &str) -> bool {
    if process.is_empty() {
        return age(&place.leases()) < Duration::from_secs(60);
    }
    match File::open(place.processes().join(process)) {
        Ok(file) => matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// How long ago a file was changed; no time if that is not known.
pub(super) fn age(path: &Path) -> Duration {
    let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
    modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok()).unwrap_or_default()
}

/// The entries of a folder; none if there is no folder.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
