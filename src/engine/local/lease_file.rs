//! Lease files: a lease lists the blobs that an export pins, so that no process collects them.
//!
//! The first line is the process that owns the lease, or `durable` with its record; each further line is a pinned
//! digest, or `-` and an unpinned one. A lease is abandoned when its process no longer locks its own file. Leases need
//! not survive a power loss, since no export does: an export with a durable lease pins its blobs again.

use std::collections::HashSet;
use std::io::{self, BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskFile};
use super::files::{open_file, read_at_most};
use super::lock;
use super::paths::LayoutPaths;
use crate::engine::EngineError;
use crate::image::Digest;

/// The prefix of a durable lease's first line.
pub(super) const DURABLE: &str = "durable ";
/// The longest lease that is read, in bytes: 400,000 digests.
const MAX_BYTES: u64 = 32 << 20;
/// The longest first line: the record of a durable lease, in which JSON may take six bytes for one.
const MAX_OWNER: u64 = 512 << 10;
/// How many blobs a lease may pin: more than an export may have, and fewer than fit in `MAX_BYTES`.
const MAX_PINNED: usize = 250_000;
/// How many stale lines are left in a lease.
const STALE: usize = 1024;

/// What ends a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A lease that ends with this process.
    Process(String),
    /// A durable lease that ends by expiry, with this record.
    Expiry(String),
}

/// The first line of a durable lease, after the prefix.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DurableRecord {
    pub(super) record: String,
    /// Milliseconds since 1970.
    pub(super) opened: u64,
}

impl DurableRecord {
    pub(super) fn age(&self) -> Duration {
        let opened = UNIX_EPOCH + Duration::from_millis(self.opened);
        SystemTime::now().duration_since(opened).unwrap_or_default()
    }
}

/// The file of a lease of this process.
#[derive(Debug)]
pub(crate) struct LeaseFile {
    paths: LayoutPaths,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// The first line.
    owner: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` after it was closed.
    file: Option<Box<dyn DiskFile>>,
    pinned: HashSet<Digest>,
    /// How many lines the file has.
    lines: usize,
    /// Whether the last line may be cut off, because a write failed.
    is_torn: bool,
}

impl Inner {
    /// Appends `lines`, which are `count` lines.
    fn add(&mut self, lines: &str, count: usize) -> io::Result<()> {
        let released = || io::Error::new(io::ErrorKind::NotFound, "it is released");
        let file = self.file.as_mut().ok_or_else(released)?;
        let begun = std::mem::replace(&mut self.is_torn, true);
        let separator = if begun { "\n" } else { "" };
        file.write(format!("{separator}{lines}").as_bytes())?;
        self.lines += count;
        self.is_torn = false;
        Ok(())
    }
}

impl LeaseFile {
    /// Creates the lease of `export`, or reopens a durable one.
    pub(crate) fn open(paths: &LayoutPaths, disk: &Arc<dyn Disk>, export: &str, owner: &Owner) -> io::Result<Self> {
        let path = paths.lease(export);
        let found = match owner {
            Owner::Expiry(_) if path.exists() => Some(StoredLease::read(&path)?).filter(|found| found.kept().is_some()),
            _ => None,
        };
        let mut file = disk.append(&path)?;
        // A crash may have cut off the last line of a lease that is reopened.
        let is_torn = found.is_some();
        let (owner, pinned, lines) = match found {
            Some(StoredLease { owner, digests, lines }) => (owner, digests, lines),
            None => {
                let owner = match owner {
                    Owner::Process(process) => process.clone(),
                    Owner::Expiry(record) => {
                        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                        let opened = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                        let kept = DurableRecord { record: record.clone(), opened };
                        format!("{DURABLE}{}", serde_json::to_string(&kept)?)
                    }
                };
                file.clear()?;
                file.write(format!("{owner}\n").as_bytes())?;
                (owner, HashSet::new(), 0)
            }
        };
        let inner = Mutex::new(Inner { file: Some(file), pinned, lines, is_torn });
        Ok(Self { paths: paths.clone(), disk: disk.clone(), path, owner, inner })
    }

    /// Pins blobs. Those that are present after that stay: a collector has seen the pins, or has finished. Blocks.
    pub(crate) fn pin<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), EngineError> {
        let paths = &self.paths;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let new: HashSet<_> = digests.into_iter().filter(|digest| !inner.pinned.contains(digest)).collect();
        if new.is_empty() {
            return Ok(());
        }
        if inner.pinned.len() + new.len() > MAX_PINNED {
            return Err(paths.invalid(format!("an export relies on more than {MAX_PINNED} blobs; use several")));
        }
        let lines: String = new.iter().map(|digest| format!("{digest}\n")).collect();
        let _lock = lock::shared(paths)?;
        inner.add(&lines, new.len()).map_err(|error| paths.failed("adding to a lease", &error))?;
        inner.pinned.extend(new.into_iter().cloned());
        self.compact(&mut inner);
        Ok(())
    }

    /// Removes one pin. Blocks.
    pub(crate) fn unpin(&self, digest: &Digest) -> Result<(), EngineError> {
        let paths = &self.paths;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.pinned.remove(digest) {
            let _lock = lock::shared(paths)?;
            inner.add(&format!("-{digest}\n"), 1).map_err(|error| paths.failed("adding to a lease", &error))?;
            self.compact(&mut inner);
        }
        Ok(())
    }

    /// Rewrites a lease in which most lines are stale: a client may pin and unpin any number of times. The lock must be
    /// held.
    fn compact(&self, inner: &mut Inner) {
        if inner.lines <= 2 * inner.pinned.len() + STALE {
            return;
        }
        let mut text = format!("{}\n", self.owner);
        inner.pinned.iter().for_each(|digest| text.extend([digest.as_str(), "\n"]));
        let draft = self.paths.draft("lease");
        let written = self.disk.append(&draft).and_then(|mut file| {
            file.write(text.as_bytes())?;
            self.disk.rename(&draft, &self.path)?;
            Ok(file)
        });
        match written {
            Ok(file) => (inner.file, inner.lines, inner.is_torn) = (Some(file), inner.pinned.len(), false),
            Err(error) => {
                tracing::debug!(%error, "a lease stays longer than it need be");
                let _ = self.disk.remove(&draft);
            }
        }
    }

    /// Closes the file, which has been removed: an export that has ended is remembered for a while, and may have no descriptor.
    pub(crate) fn close(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).file = None;
    }

    /// The pins, in the order of their digests.
    pub(crate) fn pinned(&self) -> Vec<Digest> {
        let mut pinned: Vec<_> =
            self.inner.lock().unwrap_or_else(PoisonError::into_inner).pinned.iter().cloned().collect();
        pinned.sort();
        pinned
    }
}

/// A lease as it was read from the disk.
#[derive(Debug)]
pub(super) struct StoredLease {
    owner: String,
    pub(super) digests: HashSet<Digest>,
    lines: usize,
}

impl StoredLease {
    /// The owner of a lease. Also works for leases that are too long to be read as a whole.
    pub(super) fn owner(path: &Path) -> io::Result<String> {
        let mut owner = Vec::new();
        io::BufReader::new(open_file(path)?.take(MAX_OWNER)).read_until(b'\n', &mut owner)?;
        let owner = owner.strip_suffix(b"\n").unwrap_or(&owner);
        Ok(String::from_utf8_lossy(owner).into_owned())
    }

    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let text = read_at_most(path, MAX_BYTES)?;
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let (owner, mut found) = (lines.next().unwrap_or_default().to_owned(), (HashSet::new(), 0));
        for line in lines {
            found.1 += 1;
            // A line that a crash cut off pinned a blob of a process that is gone.
            match (line.strip_prefix('-'), line.strip_prefix('-').unwrap_or(line).parse::<Digest>()) {
                (Some(_), Ok(digest)) => drop(found.0.remove(&digest)),
                (None, Ok(digest)) => drop(found.0.insert(digest)),
                (_, Err(_)) => {}
            }
        }
        Ok(Self { owner, digests: found.0, lines: found.1 })
    }

    pub(super) fn kept(&self) -> Option<DurableRecord> {
        kept(&self.owner)
    }
}

pub(super) fn kept(owner: &str) -> Option<DurableRecord> {
    serde_json::from_str(owner.strip_prefix(DURABLE)?).ok()
}
