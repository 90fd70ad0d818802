//! The target of an archive: a file that appears when it is complete, or a pipe or device.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempPath;
use tokio::io::AsyncWriteExt as _;

use crate::output::archive::ArchiveError;
use crate::source::SourceError;
use crate::source::archive::system_error;

/// The permissions of a new file, before the umask.
const MODE: u32 = 0o666;
/// How the names of files begin that are being written.
const PREFIX: &str = ".linkspan-save-";
/// How old a file must be to be taken for that of a process which was killed: a new one is not locked yet.
const ABANDONED: Duration = Duration::from_secs(60);

/// Why images were not saved. No file is left.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum SaveError {
    #[error("an archive is not written to a terminal")]
    Terminal,
    #[error("--json and the archive cannot both be on standard output")]
    Mixed,
    #[error("{path} is a folder", path = path.display())]
    Folder { path: PathBuf },
    #[error("{path} cannot be written: {error}")]
    Write { path: String, error: io::Error },
    #[error(transparent)]
    Archive(ArchiveError),
    #[error(transparent)]
    Read(SourceError),
}

impl SaveError {
    pub(in crate::cli) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Mixed => "name a file with -o",
            Self::Folder { .. } => "name a file in it; `linkspan copy` copies into layout folders, `oci:DIR:NAME`",
            Self::Write { error, .. } if error.kind() == io::ErrorKind::NotFound => "create its folder first",
            Self::Write { error, .. } => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free space on its disk, or name a file on another one"
                }
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    "name a file in a folder that you may write"
                }
                _ => return None,
            },
            Self::Read(SourceError::Read { reason, .. }) if reason.starts_with("it is damaged") => {
                "export the image again, from where it was built or pulled; nothing is saved of a damaged one"
            }
            Self::Read(SourceError::NotFound { .. }) => "the image was removed meanwhile, or is incomplete",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// An open target.
#[derive(Debug)]
pub(in crate::cli) struct Sink {
    /// For messages.
    name: String,
    file: tokio::fs::File,
    /// For a regular file the temporary path, which is removed when dropped, and the final one.
    places: Option<(TempPath, PathBuf)>,
}

impl Sink {
    /// Opens `path`; `-` is standard output.
    pub(in crate::cli) fn open(path: &Path) -> Result<Self, SaveError> {
        let failed = |error| SaveError::Write { path: path.display().to_string(), error };
        if path == Path::new("-") {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(SaveError::Terminal);
            }
            let file: File = stdout.as_fd().try_clone_to_owned().map_err(failed)?.into();
            return Ok(Self { name: "standard output".to_owned(), file: file.into(), places: None });
        }
        let name = path.display().to_string();
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(SaveError::Folder { path: path.to_owned() }),
            // A device or a pipe cannot be replaced: it is written directly.
            Ok(found) if !found.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
                return Ok(Self { name, file: file.into(), places: None });
            }
            _ => {}
        }
        // A link is followed: its target is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = target.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let before = fs::metadata(&target).ok();
        let mut temporary = tempfile::Builder::new();
        // Nobody may read the new file who may not read the old one.
        let mode = before.as_ref().map_or(MODE, |_| 0o600);
        temporary.prefix(PREFIX).permissions(Permissions::from_mode(mode));
        let (file, place) = temporary.tempfile_in(folder).map_err(|error| failed(system_error(error)))?.into_parts();
        // Where there are no locks nobody removes it either.
        let _ = file.try_lock();
        remove_abandoned(folder);
        if let Some(before) = before {
            // Only root can change the owner; otherwise the file is this user's.
            let _ = std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()));
            file.set_permissions(Permissions::from_mode(before.mode() & 0o777)).map_err(failed)?;
        }
        Ok(Self { name, file: file.into(), places: Some((place, target)) })
    }

    /// Writes bytes.
    pub(in crate::cli) async fn write(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        let written = self.file.write_all(bytes).await;
        written.map_err(|error| SaveError::Write { path: self.name.clone(), error })
    }

    /// Syncs a file and gives it its name.
    pub(in crate::cli) async fn finish(mut self) -> Result<(), SaveError> {
        let failed = |error| SaveError::Write { path: self.name.clone(), error };
        self.file.flush().await.map_err(failed)?;
        if let Some((temporary, target)) = self.places {
            self.file.sync_all().await.map_err(failed)?;
            temporary.persist(target).map_err(|error| failed(error.error))?;
        }
        Ok(())
    }
}

/// Removes the files in `folder` that processes were writing which were killed: a process keeps its own locked.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Of a link this is the link's own type.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let Some(file) = is_file.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        let written = file.metadata().and_then(|found| found.modified()).ok();
        let is_old = written.and_then(|written| written.elapsed().ok()).is_some_and(|age| age >= ABANDONED);
        if is_old && file.try_lock().is_ok() {
            // One that cannot be removed does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}
