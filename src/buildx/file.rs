//! A builder's file, and the lock that buildx takes to change one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::Value;

use super::{Instance, MAX_BYTES, Store, StoreError};

/// How long buildx may take to change a builder.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to change builders: buildx's own lock (`store.Txn`, flock(2) on `.lock`).
#[derive(Debug)]
pub struct Locked<'a> {
    store: &'a Store,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

impl<'a> Locked<'a> {
    pub(super) fn new(store: &'a Store) -> Result<Self, StoreError> {
        let path = store.buildx.join(".lock");
        let failed = |source| StoreError::Io { what: "lock", path: path.clone(), source };
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { store, _lock: lock }),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(Errno::WOULDBLOCK) => return Err(StoreError::Busy { path, seconds: PATIENCE.as_secs() }),
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// Pins the node `node` of the builder `name` to `endpoint`. Everything else in its file stays as it is, also what
    /// later versions of buildx may have put there.
    ///
    /// # Errors
    /// When the builder or the node is gone, or the file cannot be replaced; it is then as it was.
    pub fn pin(&self, name: &str, node: &str, endpoint: &str) -> Result<(), StoreError> {
        let name = self.store.instance(name)?.name;
        let path = self.store.buildx.join("instances").join(&name);
        let wrong = |reason: String| StoreError::Format { path: path.clone(), reason };
        let mut document: Value = serde_json::from_slice(&read(&path)?).map_err(|error| wrong(error.to_string()))?;
        let nodes = document.get_mut("Nodes").and_then(Value::as_array_mut);
        let found = nodes.into_iter().flatten().find(|found| found.get("Name").and_then(Value::as_str) == Some(node));
        let place = found.and_then(|found| found.get_mut("Endpoint"));
        *place.ok_or_else(|| wrong(format!("it has no node `{node}` with an endpoint")))? = endpoint.into();
        let text = serde_json::to_vec(&document).map_err(|error| wrong(error.to_string()))?;
        self.replace(&path, &text)
    }

    /// The file appears with its new contents or not at all. It is made outside `instances/`, where buildx takes every
    /// file for a builder, and belongs to whom it belonged before: buildx may have been run with sudo.
    fn replace(&self, path: &Path, text: &[u8]) -> Result<(), StoreError> {
        let new: PathBuf = self.store.buildx.join(format!(".linkspan-{}", std::process::id()));
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { what, path, source }
        };
        let old = path.metadata().map_err(failed("read", path))?;
        let written = (|| {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            file.write_all(text)?;
            file.sync_all()
        })();
        written.map_err(failed("write", &new))?;
        fs::rename(&new, path).map_err(failed("replace", path))
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |source| StoreError::Io { what: "read", path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        let reason = format!("it is longer than {MAX_BYTES} bytes");
        return Err(StoreError::Format { path: path.to_owned(), reason });
    }
    Ok(text)
}

pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Instance, StoreError> {
    serde_json::from_slice(text)
        .map_err(|error| StoreError::Format { path: path.to_owned(), reason: error.to_string() })
}
