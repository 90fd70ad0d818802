//! A site in a folder.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::io::AsyncWriteExt as _;
use tokio::task::spawn_blocking;

use super::files::{Files, MAX_READ};
use super::{PublishError, nginx};
use crate::source::Chunks;

/// The permissions of new files, before the umask.
const MODE: u32 = 0o666;
/// The folder of files that are not complete.
const STAGING: &str = ".linkspan-publish";
/// The file in it that is locked.
const LOCK: &str = "lock";
/// How old such a file is that a killed process left.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A folder that a static file server has as its root.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Locked, so that no other process reads a list and writes it again at the same time.
    _lock: File,
}

fn failed(path: &Path, what: &'static str) -> impl Fn(io::Error) -> PublishError {
    let path = path.to_owned();
    move |error| PublishError::File { path: path.clone(), what, error }
}

impl Folder {
    /// The folder at `path`, which is created.
    ///
    /// # Errors
    /// When it cannot be created, or another process publishes to it.
    pub fn open(path: &Path) -> Result<Self, PublishError> {
        let staging = path.join(STAGING);
        std::fs::create_dir_all(&staging).map_err(failed(&staging, "created"))?;
        let path_of_lock = staging.join(LOCK);
        let lock = File::options().create(true).append(true).open(&path_of_lock);
        let lock = lock.map_err(failed(&path_of_lock, "opened"))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(PublishError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, path = %path_of_lock.display(), "this file system has no locks");
            }
            Ok(()) => {}
        }
        for entry in std::fs::read_dir(&staging).map_err(failed(&staging, "read"))? {
            let entry = entry.map_err(failed(&staging, "read"))?;
            let written = entry.metadata().and_then(|found| found.modified()).ok();
            if entry.file_name() != LOCK
                && written.and_then(|written| written.elapsed().ok()).is_some_and(|age| age >= ABANDONED)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::debug!(%error, path = %entry.path().display(), "what a killed process left stays");
            }
        }
        Ok(Self { root: path.to_owned(), _lock: lock })
    }
}

#[async_trait]
impl Files for Folder {
    async fn size(&self, path: &str) -> Result<Option<u64>, PublishError> {
        let path = self.root.join(path);
        match tokio::fs::metadata(&path).await {
            Ok(found) if found.is_file() => Ok(Some(found.len())),
            Ok(_) => Err(failed(&path, "replaced")(io::ErrorKind::IsADirectory.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, "looked up")(error)),
        }
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>, PublishError> {
        if self.size(path).await?.is_none_or(|size| size > MAX_READ) {
            return Ok(None);
        }
        let path = self.root.join(path);
        match tokio::fs::read(&path).await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, "read")(error)),
        }
    }

    async fn write(&self, path: &str, kind: &str, bytes: Bytes) -> Result<(), PublishError> {
        let size = bytes.len() as u64;
        self.write_blob(path, kind, size, stream::iter([Ok(bytes)]).boxed()).await
    }

    async fn write_blob(&self, path: &str, _: &str, _: u64, mut chunks: Chunks) -> Result<(), PublishError> {
        let path = self.root.join(path);
        let write = failed(&path, "written");
        let mut temporary = tempfile::Builder::new();
        temporary.permissions(std::fs::Permissions::from_mode(MODE));
        let (file, staged) = temporary.tempfile_in(self.root.join(STAGING)).map_err(&write)?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        while let Some(chunk) = chunks.next().await {
            file.write_all(&chunk?).await.map_err(&write)?;
        }
        file.flush().await.map_err(&write)?;
        file.sync_all().await.map_err(&write)?;
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(&write)?;
        }
        staged.persist(&path).map_err(|error| write(error.error))
    }

    async fn names(&self, folder: &str) -> Result<Vec<String>, PublishError> {
        let folder = self.root.join(folder);
        let read = failed(&folder, "read");
        let mut entries = match tokio::fs::read_dir(&folder).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read(error)),
        };
        let mut names = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(&read)? {
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }

    async fn finish(&self) -> Result<(), PublishError> {
        let root = self.root.clone();
        let failed = failed(&self.root, "read");
        let text = spawn_blocking(move || nginx::locations(&root))
            .await
            .map_err(|_| failed(io::Error::other("it broke off")))?;
        let text = Bytes::from(text.map_err(&failed)?);
        if self.read(nginx::FILE).await?.is_some_and(|found| found == text) {
            return Ok(());
        }
        self.write(nginx::FILE, "text/plain", text).await
    }
}
