//! The paths of a layout, and its errors.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::disk::Disk;
use super::files::is_full;
use super::seal::Seal;
use crate::engine::EngineError;
use crate::image::layout::{INDEX_FILE, MARKER_FILE};
use crate::image::{Algorithm, Digest};

/// Our own folder in a layout. Tools that read layouts follow digests and do not look at other names.
const OWN: &str = ".linkspan";

/// The paths of one layout.
#[derive(Debug, Clone)]
pub(crate) struct LayoutPaths {
    root: PathBuf,
    is_private: bool,
}

impl LayoutPaths {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), is_private: false }
    }

    /// Those of a layout that is for this user alone.
    pub(crate) fn private(root: &Path) -> Self {
        Self { root: root.to_owned(), is_private: true }
    }

    pub(super) fn is_private(&self) -> bool {
        self.is_private
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join(INDEX_FILE)
    }

    /// The file that BuildKit locks while it writes or reads the index (buildkit `client/ociindex/ociindex.go`).
    pub(crate) fn buildkit_lock(&self) -> PathBuf {
        self.root.join("index.json.lock")
    }

    pub(crate) fn marker(&self) -> PathBuf {
        self.root.join(MARKER_FILE)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn blobs_of(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs().join(algorithm.name())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs_of(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn own(&self) -> PathBuf {
        self.root.join(OWN)
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.own().join("lock")
    }

    /// The records of verified blobs ([`super::verified`]).
    pub(crate) fn verified(&self) -> PathBuf {
        self.own().join("verified")
    }

    /// Since when blobs have been unreachable ([`super::unreached`]).
    pub(crate) fn unreached(&self) -> PathBuf {
        self.own().join("unreached")
    }

    /// A unique name for a file that will be renamed to `name`.
    pub(crate) fn draft(&self, name: &str) -> PathBuf {
        self.own().join(format!("{name}.{}", unique()))
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.own().join("leases")
    }

    pub(crate) fn lease(&self, export: &str) -> PathBuf {
        self.leases().join(export)
    }

    pub(crate) fn uploads(&self) -> PathBuf {
        self.own().join("uploads")
    }

    pub(crate) fn uploads_of(&self, export: &str) -> PathBuf {
        self.uploads().join(export)
    }

    /// Files of processes: a process that lives has its own locked.
    pub(crate) fn processes(&self) -> PathBuf {
        self.own().join("processes")
    }

    /// Blobs that are incomplete, or complete and not synced.
    pub(crate) fn ingest(&self) -> PathBuf {
        self.own().join("ingest")
    }

    /// A blob that `process` is writing and no other process resumes.
    pub(crate) fn temp_path(&self, process: &str) -> PathBuf {
        self.ingest().join(format!("{process}.{}", unique()))
    }

    /// The part of a blob that a later writer resumes. One written before the machine restarted is not trusted: a power
    /// loss may have left holes in it.
    pub(crate) fn partial(&self, boot: &str, digest: &Digest) -> PathBuf {
        self.ingest().join(format!("{}-{}.{boot}", digest.algorithm().name(), digest.hex()))
    }

    /// A complete blob that `process` has not synced yet. Its name identifies it if that process is killed; one written
    /// before the machine restarted is not trusted either.
    pub(crate) fn unsynced(&self, boot: &str, digest: &Digest, process: &str) -> PathBuf {
        let (algorithm, hex) = (digest.algorithm().name(), digest.hex());
        self.ingest().join(format!("{algorithm}-{hex}.{boot}.{process}.{}", unique()))
    }

    /// Replaces the content of `path` by `content`, atomically even on a power loss. Returns the file's seal before the
    /// rename, which changes its ctime.
    pub(crate) fn put(&self, disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<Seal> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft = self.draft(&name);
        let mut file = disk.append(&draft)?;
        let written = file.write(content).and_then(|()| file.sync()).and_then(|()| {
            let seal = Seal::of(&file.file().metadata()?);
            disk.rename(&draft, path).map(|()| seal)
        });
        if written.is_err() {
            // The first error is the one to report.
            let _ = disk.remove(&draft);
        }
        let seal = written?;
        disk.sync_folder(&self.root).map(|()| seal)
    }

    /// Replaces the content of a file of ours by `content`, or leaves it as it is. Not synced: for files whose loss
    /// does no harm, such as locks.
    pub(crate) fn jot(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let draft = self.draft(&path.file_name().unwrap_or_default().to_string_lossy());
        let written = fs::write(&draft, content).and_then(|()| fs::rename(&draft, path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }

    /// The error for a layout that cannot be used.
    pub(crate) fn invalid(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Layout { path: self.root.display().to_string(), reason: reason.into() }
    }

    /// The error for a file operation that failed.
    pub(crate) fn failed(&self, operation: &str, error: &io::Error) -> EngineError {
        match error.kind() {
            _ if is_full(error) => EngineError::LayoutFull {
                path: self.root.display().to_string(),
                operation: operation.to_owned(),
                message: error.to_string(),
            },
            io::ErrorKind::CrossesDevices => self.invalid(format!(
                "{operation}: its folder blobs lies on another file system; it must be on the same one"
            )),
            _ => self.invalid(format!("{operation}: {error}")),
        }
    }
}

/// A name that is unique among the files of all processes.
pub(super) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    // The time distinguishes processes with the same pid in other namespaces and on other machines.
    format!("{}-{now:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
