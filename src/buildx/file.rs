//! A builder's file, and buildx's lock for changing it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::Value;

use super::owned::OwnedFolder;
use super::{INSTANCES, Instance, MAX_BYTES, Store, StoreError};

/// How long to wait for buildx's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The name of buildx's lock file.
const LOCK: &str = ".lock";

/// The right to change builders: buildx's own lock (`store.Txn`, flock(2) on `.lock`).
#[derive(Debug)]
pub struct Locked<'a> {
    store: &'a Store,
    folder: OwnedFolder,
    /// The open lock file: closing it unlocks.
    _lock: File,
}

impl<'a> Locked<'a> {
    pub(super) fn new(store: &'a Store) -> Result<Self, StoreError> {
        let path = store.buildx.join(LOCK);
        let failed = |source| StoreError::Io { what: "lock", path: path.clone(), source };
        let folder = OwnedFolder::open(&store.buildx).map_err(failed)?;
        let lock = folder.lock_file(LOCK.as_ref()).map_err(failed)?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { store, folder, _lock: lock }),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(Errno::WOULDBLOCK) => return Err(StoreError::Busy { path, seconds: LOCK_TIMEOUT.as_secs() }),
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// The builder `name`, read under the lock.
    ///
    /// # Errors
    /// As [`Store::instance`].
    pub fn instance(&self, name: &str) -> Result<Instance, StoreError> {
        self.store.instance(name)
    }

    /// The path of buildx's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.store.buildx
    }

    /// buildx's folder.
    pub(crate) fn folder(&self) -> &OwnedFolder {
        &self.folder
    }

    /// Pins the node `node` of the builder `name` to `endpoint`. Everything else in its file stays, including keys of later
    /// versions of buildx.
    ///
    /// # Errors
    /// When the builder or the node does not exist, or the file cannot be replaced; it then stays as it was.
    pub fn pin(&self, name: &str, node: &str, endpoint: &str) -> Result<(), StoreError> {
        let (file, _) = self.store.file(name)?;
        let path = self.store.buildx.join(INSTANCES).join(&file);
        let failed = |what| move |path: &Path, source| StoreError::Io { what, path: path.to_owned(), source };
        let instances = self.folder.subfolder(INSTANCES).map_err(|error| failed("open")(&path, error))?;
        let wrong = |reason: String| StoreError::Format { path: path.clone(), reason };
        let mut document: Value =
            serde_json::from_slice(&read(&instances, &file, &path)?).map_err(|error| wrong(error.to_string()))?;
        let nodes = document.get_mut("Nodes").and_then(Value::as_array_mut);
        let found = nodes.into_iter().flatten().find(|found| found.get("Name").and_then(Value::as_str) == Some(node));
        let place = found.and_then(|found| found.get_mut("Endpoint"));
        *place.ok_or_else(|| wrong(format!("it has no node `{node}` with an endpoint")))? = endpoint.into();
        let text = serde_json::to_vec(&document).map_err(|error| wrong(error.to_string()))?;
        // The new file is made outside of `instances/`, because buildx reads every file there as a builder.
        instances.replace(&file, &text, &self.folder).map_err(|error| failed("replace")(&path, error))
    }
}

/// Reads the file `name` in `folder`, which is at `path`.
pub(super) fn read(folder: &OwnedFolder, name: &OsStr, path: &Path) -> Result<Vec<u8>, StoreError> {
    folder.read(name, MAX_BYTES).map_err(|source| match source.kind() {
        std::io::ErrorKind::FileTooLarge => StoreError::Format { path: path.to_owned(), reason: source.to_string() },
        _ => StoreError::Io { what: "read", path: path.to_owned(), source },
    })
}

pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Instance, StoreError> {
    serde_json::from_slice(text)
        .map_err(|error| StoreError::Format { path: path.to_owned(), reason: error.to_string() })
}
