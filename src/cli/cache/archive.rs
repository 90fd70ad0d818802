//! Archives of the folders that caches are exported into and imported from.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};
use tokio::task::spawn_blocking;

use super::super::{CommandError, output};
use super::CacheFolderError;
use crate::image::layout::{INDEX_FILE, MARKER_FILE};
use crate::source::archive::unpack;
use crate::tar::{END, member, padding};

/// How the names of compressed archives end.
const COMPRESSED: [&str; 7] = [".tgz", ".tar.gz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2"];

/// A folder, or an archive with a folder that stands in for it meanwhile.
#[derive(Debug)]
pub(super) struct CacheFolder {
    folder: PathBuf,
    archive: Option<(PathBuf, TempDir)>,
}

impl CacheFolder {
    /// A place to export into: an archive if its name ends in `.tar`.
    pub(super) fn to_write(path: &Path) -> Result<Self, CommandError> {
        refuse_stream(path)?;
        let name = path.to_string_lossy();
        if path.is_dir() {
            return Ok(Self { folder: path.to_owned(), archive: None });
        }
        if COMPRESSED.iter().any(|end| name.ends_with(end)) {
            return Err(named(path, "archives are written without compression"));
        }
        if path.extension().is_none_or(|extension| extension != "tar") {
            return Ok(Self { folder: path.to_owned(), archive: None });
        }
        let beside = beside(path).map_err(|error| failed(path, error))?;
        Ok(Self { folder: beside.path().to_owned(), archive: Some((path.to_owned(), beside)) })
    }

    /// A place to import from: a folder, or an archive, which is unpacked.
    pub(super) async fn to_read(path: &Path) -> Result<Self, CommandError> {
        refuse_stream(path)?;
        let found = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CacheFolderError::Absent { path: path.display().to_string() }.into(),
            _ => failed(path, error),
        })?;
        if found.is_dir() {
            return Ok(Self { folder: path.to_owned(), archive: None });
        }
        // Where the archive lies there may be no right to write.
        let beside = beside(path).or_else(|_| TempDir::new()).map_err(|error| failed(path, error))?;
        if let Some(remark) = unpack(path, beside.path()).await.map_err(CacheFolderError::from)? {
            output::note(&remark);
        }
        Ok(Self { folder: beside.path().to_owned(), archive: Some((path.to_owned(), beside)) })
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Writes the archive, if it is one.
    pub(super) async fn finish(self) -> Result<(), CommandError> {
        let Some((path, folder)) = self.archive else { return Ok(()) };
        let target = path.clone();
        let packed = spawn_blocking(move || pack(folder.path(), &target)).await;
        packed.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| failed(&path, error))
    }
}

/// A temporary folder beside `path`, on the same file system.
fn beside(path: &Path) -> io::Result<TempDir> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    tempfile::Builder::new().prefix(".linkspan-").tempdir_in(parent.unwrap_or(Path::new(".")))
}

fn failed(path: &Path, error: io::Error) -> CommandError {
    CacheFolderError::File { path: path.display().to_string(), error }.into()
}

fn named(path: &Path, reason: &'static str) -> CommandError {
    CacheFolderError::Name { path: path.display().to_string(), reason }.into()
}

/// Refuses `-`, which other programs take for a stream.
fn refuse_stream(path: &Path) -> Result<(), CommandError> {
    if path.as_os_str() == "-" {
        return Err(named(path, "caches are not copied through standard input and output"));
    }
    Ok(())
}

/// Writes the layout in `folder` into the archive `path`, which is replaced in one step.
fn pack(folder: &Path, path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut archive = NamedTempFile::new_in(parent)?;
    let mut files = vec![MARKER_FILE.to_owned(), INDEX_FILE.to_owned()];
    for algorithm in ["sha256", "sha512"] {
        let blobs = format!("blobs/{algorithm}");
        let Ok(entries) = fs::read_dir(folder.join(&blobs)) else { continue };
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        files.extend(names.iter().map(|name| format!("{blobs}/{}", name.to_string_lossy())));
    }
    for name in files {
        let mut file = File::open(folder.join(&name))?;
        let size = file.metadata()?.len();
        archive.write_all(&member(&name, size))?;
        if io::copy(&mut file, &mut archive)? != size {
            return Err(io::Error::other(format!("`{name}` changed while it was read")));
        }
        archive.write_all(&END[..padding(size)])?;
    }
    archive.write_all(&END)?;
    archive.as_file().sync_all()?;
    archive.persist(path)?;
    Ok(())
}
