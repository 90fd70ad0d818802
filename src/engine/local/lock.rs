//! Locks between processes, and between tasks of one process.
//!
//! They are flock(2) locks: the kernel releases a lock when its process ends, in any way and in any pid namespace, so
//! no lock is ever stale and no pids are compared.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::paths::LayoutPaths;
use crate::engine::EngineError;

/// How long to wait for a lock. It is held for milliseconds; by a collector of a large layout for seconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// The delay between two attempts.
const INTERVAL: Duration = Duration::from_millis(2);

/// A lock, released when it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// A lock for changing the index or collecting.
#[derive(Debug)]
pub(super) struct IndexLock {
    _own: Lock,
    buildkit: File,
    paths: LayoutPaths,
}

/// For pinning blobs: shared among pinners, but not while the collector runs.
pub(super) fn shared(paths: &LayoutPaths) -> Result<Lock, EngineError> {
    let file = open(&paths.lock()).map_err(|error| paths.failed("locking", &error))?;
    wait(paths, || file.try_lock_shared())?;
    Ok(Lock { _file: file })
}

/// For changes that other processes must not see half done.
pub(super) fn exclusive(paths: &LayoutPaths) -> Result<IndexLock, EngineError> {
    let own = open(&paths.lock()).map_err(|error| paths.failed("locking", &error))?;
    wait(paths, || own.try_lock())?;
    Ok(IndexLock { _own: Lock { _file: own }, buildkit: buildkit(paths)?, paths: paths.clone() })
}

/// Takes BuildKit's lock of the index as well. BuildKit removes the file when it is done, so the locked file may no
/// longer be the one at that path.
fn buildkit(paths: &LayoutPaths) -> Result<File, EngineError> {
    let path = paths.buildkit_lock();
    let failed = |error: io::Error| paths.failed("locking the index", &error);
    loop {
        let file = open(&path).map_err(failed)?;
        wait(paths, || file.try_lock())?;
        let mine = file.metadata().map_err(failed)?.ino();
        if path.metadata().is_ok_and(|found| found.ino() == mine) {
            return Ok(file);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

/// Locks the file that shows other processes that this one lives. A process that checks holds the lock for a moment.
pub(crate) fn claim(paths: &LayoutPaths, file: &File) -> Result<(), EngineError> {
    wait(paths, || file.try_lock())
}

fn wait(paths: &LayoutPaths, attempt: impl Fn() -> Result<(), TryLockError>) -> Result<(), EngineError> {
    let end = Instant::now() + LOCK_TIMEOUT;
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(paths.failed("locking", &error)),
            Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(INTERVAL),
            Err(TryLockError::WouldBlock) => {
                let operation =
                    format!("waiting for another process that works on the layout {}", paths.root().display());
                return Err(EngineError::Timeout { operation, after: LOCK_TIMEOUT });
            }
        }
    }
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        // As BuildKit does, while the lock is still held. A file that cannot be removed does no harm.
        let _ = std::fs::remove_file(self.paths.buildkit_lock());
        let _ = self.buildkit.unlock();
    }
}
