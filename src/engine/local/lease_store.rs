//! The lease store of a layout: a file for each lease, which tells every process which blobs must not be collected.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::clock::Clock;
use super::disk::Disk;
use super::files::entries;
use super::lease_file::{DURABLE, DurableRecord, LeaseFile, Owner, StoredLease, kept};
use super::lock;
use super::paths::LayoutPaths;
use super::process_file::{ProcessFile, lives};
use crate::engine::{DurableLease, EngineError};
use crate::image::Digest;

/// How long a durable lease lasts after it was created, the same as in the containerd engine.
const LIFETIME: Duration = Duration::from_secs(8 * 3600);

/// A survey of all leases.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The pins of leases in force.
    pub(super) pinned: HashSet<Digest>,
    /// The exports of abandoned leases.
    pub(super) abandoned: Vec<String>,
    /// The exports whose leases do not say yet whose they are. Nobody is at that while the index is locked: then they are
    /// abandoned, too.
    pub(super) unnamed: Vec<String>,
    /// Why there may be more pins: leases in force that cannot be read.
    pub(super) doubts: Vec<String>,
}

/// The leases of a layout. Every method blocks.
#[derive(Debug)]
pub(crate) struct LeaseStore {
    paths: LayoutPaths,
    disk: Arc<dyn Disk>,
    process: Arc<ProcessFile>,
}

impl LeaseStore {
    pub(super) fn new(paths: LayoutPaths, disk: Arc<dyn Disk>, process: Arc<ProcessFile>) -> Self {
        Self { paths, disk, process }
    }

    /// Whether leases can be created without changing another tool's layout.
    pub(crate) fn is_ready(&self) -> bool {
        self.paths.leases().is_dir() && self.paths.processes().is_dir()
    }

    /// Creates the lease of `export`, which ends with this process, or is durable if there is a `record`. Reopens a
    /// durable one.
    pub(crate) fn open(&self, export: &str, record: Option<String>) -> Result<LeaseFile, EngineError> {
        let owner = match record {
            Some(record) => Owner::Expiry(record),
            None => Owner::Process(self.process.name()?),
        };
        let _lock = lock::shared(&self.paths)?;
        let file = LeaseFile::open(&self.paths, &self.disk, export, &owner);
        file.map_err(|error| self.paths.failed("making a lease", &error))
    }

    /// Removes the lease of `export`.
    pub(crate) fn remove(&self, export: &str) -> Result<(), EngineError> {
        let removed = self.disk.remove(&self.paths.lease(export));
        removed.map_err(|error| self.paths.failed("releasing an export", &error))
    }

    /// The durable leases.
    pub(crate) fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        self.read_durable().map_err(|error| self.paths.failed("reading leases", &error))
    }

    /// The exports whose leases are abandoned.
    pub(crate) fn abandoned(&self) -> Result<Vec<String>, EngineError> {
        let survey = self.survey().map_err(|error| self.paths.failed("reading leases", &error))?;
        Ok(survey.abandoned)
    }

    fn read_durable(&self) -> io::Result<Vec<DurableLease>> {
        let mut durables = Vec::new();
        for entry in entries(&self.paths.leases())? {
            let Ok(found) = StoredLease::read(&entry.path()) else { continue };
            if let Some(DurableRecord { record, opened }) = found.kept() {
                let export = entry.file_name().to_string_lossy().into_owned();
                durables.push(DurableLease { export, record, created: UNIX_EPOCH + Duration::from_millis(opened) });
            }
        }
        Ok(durables)
    }

    /// Reads all leases.
    pub(super) fn survey(&self) -> io::Result<Survey> {
        let mut survey = Survey::default();
        for entry in entries(&self.paths.leases())? {
            // A lease's file is named by its export's id; other files are not ours.
            let Ok(export) = entry.file_name().into_string() else { continue };
            if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            let path = entry.path();
            let lives = match StoredLease::owner(&path) {
                Ok(nobody) if nobody.is_empty() => {
                    survey.unnamed.push(export);
                    continue;
                }
                // A lease that a later version wrote, or that is damaged, is as old as its file.
                Ok(durable) if durable.starts_with(DURABLE) => {
                    kept(&durable).map_or_else(|| Clock::default().age(&path), |kept| kept.age()) < LIFETIME
                }
                Ok(process) => lives(&self.paths, &process),
                // Released meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => true,
            };
            if !lives {
                survey.abandoned.push(export);
                continue;
            }
            match StoredLease::read(&path) {
                Ok(found) => survey.pinned.extend(found.digests),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => survey.doubts.push(format!("the lease {} cannot be read: {error}", path.display())),
            }
        }
        Ok(survey)
    }
}
