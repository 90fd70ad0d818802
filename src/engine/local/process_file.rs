//! The file of a process, which it keeps locked while it lives.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::sync::{Mutex, PoisonError};

use super::files::open_file;
use super::lock;
use super::paths::{LayoutPaths, unique};
use crate::engine::EngineError;

/// The file of this process in one layout.
#[derive(Debug)]
pub(super) struct ProcessFile {
    paths: LayoutPaths,
    created: Mutex<Option<(String, File)>>,
}

impl ProcessFile {
    pub(super) fn new(paths: LayoutPaths) -> Self {
        Self { paths, created: Mutex::default() }
    }

    /// The name of this process in the layout; the first call creates the file.
    pub(super) fn name(&self) -> Result<String, EngineError> {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, _)) = &*created {
            return Ok(name.clone());
        }
        let failed = |error: io::Error| self.paths.failed("making a lock", &error);
        let name = unique();
        let path = self.paths.processes().join(&name);
        // Not synced, like every lock: it is of no use after a crash.
        let file = OpenOptions::new().append(true).create_new(true).open(path).map_err(failed)?;
        lock::claim(&self.paths, &file)?;
        *created = Some((name.clone(), file));
        Ok(name)
    }
}

impl Drop for ProcessFile {
    fn drop(&mut self) {
        if let Some((name, _)) = self.created.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = fs::remove_file(self.paths.processes().join(name));
        }
    }
}

/// Whether a process lives: then its file is locked.
pub(super) fn lives(paths: &LayoutPaths, process: &str) -> bool {
    if process.is_empty() || process.contains('/') {
        return false;
    }
    match open_file(&paths.processes().join(process)) {
        Ok(file) => matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)),
        Err(_) => false,
    }
}
