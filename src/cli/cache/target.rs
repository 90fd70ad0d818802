//! Folders and archives that caches are exported into.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::super::progress::ProgressMode;
use super::super::save::{self, SaveError, Sink};
use super::super::{CommandError, Leftover};
use super::CacheFolderError;
use super::access::{self, CacheAccess, UNLISTED};
use super::copied::CopiedParts;
use crate::caches::{CacheError, CacheRef, Copied, CopySource};
use crate::engine::caches::CacheContent;
use crate::engine::{EngineError, NewLayout, Origin, new_cache_index};
use crate::image::Digest;
use crate::image::cache::CacheConfig;
use crate::output::archive::Archive;

/// How the names of compressed archives end.
const COMPRESSED: [&str; 7] = [".tgz", ".tar.gz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2"];
/// How long to wait for what a command has begun in a folder that it removes, and between two looks.
const REMOVAL: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(20);

/// Where a cache is exported to.
#[derive(Debug)]
pub(super) enum ExportTarget {
    Folder(PathBuf),
    /// A file whose name ends in `.tar`.
    Archive(PathBuf),
}

impl ExportTarget {
    /// The one at `path`.
    pub(super) fn of(path: &Path) -> Result<Self, CommandError> {
        refuse_stream(path)?;
        let name = path.to_string_lossy();
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if COMPRESSED.iter().any(|end| name.ends_with(end)) {
            return Err(named(path, "archives are written without compression"));
        }
        let is_archive = path.extension().is_some_and(|extension| extension == "tar");
        Ok(if is_archive { Self::Archive(path.to_owned()) } else { Self::Folder(path.to_owned()) })
    }
}

fn named(path: &Path, reason: &'static str) -> CommandError {
    CacheFolderError::Name { path: path.display().to_string(), reason }.into()
}

/// Refuses `-`, which other programs take for a stream.
pub(super) fn refuse_stream(path: &Path) -> Result<(), CommandError> {
    if path.as_os_str() == "-" {
        return Err(named(path, "caches are not copied through standard input and output"));
    }
    Ok(())
}

/// A layout folder that may be made by a command.
#[derive(Debug)]
pub(super) struct TargetFolder {
    path: PathBuf,
    /// If there was nothing before.
    new: Option<NewLayout>,
}

impl TargetFolder {
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), new: NewLayout::at(path) }
    }

    /// The caches in it.
    pub(super) async fn caches(&self) -> Result<Arc<dyn CacheAccess>, CommandError> {
        access::folder(&self.path).await.map_err(|error| self.explain(error))
    }

    /// The error with what to do about this folder.
    pub(super) fn explain(&self, error: CommandError) -> CommandError {
        // Errors of a layout have its absolute path.
        let own = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()).display().to_string();
        let given = || self.path.display().to_string();
        match error {
            CommandError::Engine(error) | CommandError::Cache(CacheError::Engine(error)) => match error {
                EngineError::LayoutFull { path, message, .. } if path == own => {
                    CacheFolderError::Full { path: given(), message }.into()
                }
                // Only one that may not be written has a hint, of a flag that chooses the engine.
                EngineError::Layout { path, reason } if path == own => {
                    let error = EngineError::Layout { path, reason: reason.clone() };
                    match error.hint() {
                        Some(_) => CacheFolderError::Denied { path: given(), reason }.into(),
                        None => error.into(),
                    }
                }
                error => error.into(),
            },
            error => error,
        }
    }

    /// Removes what was made here by a command that has failed, when it has let go of it. What complete parts there are stays.
    pub(super) async fn clean(&self, parts: &CopiedParts) -> Leftover {
        let path = self.path.display();
        if parts.complete() > 0 {
            return Leftover::Some(format!("{} in {path}", parts.stay()));
        }
        let Some(new) = &self.new else {
            return Leftover::Some(format!("layers that were copied stay in {path} {UNLISTED}"));
        };
        let begin = tokio::time::Instant::now();
        loop {
            let new = new.clone();
            match spawn_blocking(move || new.remove()).await {
                Ok(Ok(true)) => return Leftover::Nothing,
                // Threads of this command may be about to end.
                Ok(Ok(false)) if begin.elapsed() < REMOVAL => sleep(INTERVAL).await,
                Ok(Ok(false)) => return Leftover::Some(format!("{path} stays: another process works in it")),
                Ok(Err(error)) => return Leftover::Some(format!("{path} stays: {error}")),
                Err(error) => return Leftover::Some(format!("{path} stays: {error}")),
            }
        }
    }
}

/// Writes an archive with these versions alone, each as `reference`. Returns them as they are in it, in the same order, and its
/// index.
pub(super) async fn write_archive(
    sink: Sink,
    sources: &[CopySource],
    reference: &CacheRef,
    origin: &Origin,
) -> Result<(Vec<Copied>, Vec<u8>), CommandError> {
    let (mut contents, mut blobs, mut seen) = (Vec::new(), Vec::new(), HashSet::<Digest>::new());
    let mut written = Vec::new();
    for source in sources {
        let (config, root) = source.documents().await?;
        CacheConfig::parse(&config.descriptor, &config.bytes).map_err(CacheError::from)?;
        let new = source.new_version(reference.as_str());
        let content =
            CacheContent { config, root, layers: source.listed.layers.clone(), absent: source.absent.clone() };
        let layers = content.present();
        let fresh = layers.iter().filter(|layer| !seen.contains(&layer.digest));
        written.push(fresh.fold(0, |sum: u64, layer| sum.saturating_add(layer.size)));
        let documents = [&content.root.descriptor, &content.config.descriptor];
        let own = documents.into_iter().chain(&layers).filter(|blob| seen.insert(blob.digest.clone()));
        blobs.extend(own.cloned());
        contents.push((new, content));
    }
    let (versions, index) = new_cache_index(&contents, &origin.builder)?;
    // All versions are of one place.
    if let Some(first) = sources.first() {
        let archive = Archive::layout(index.clone(), blobs).map_err(SaveError::Archive)?;
        save::write(Arc::new(archive), first.blobs.clone(), sink, ProgressMode::Quiet).await?;
    }
    let copied = |(version, written)| Copied { version, written, replaced: None, dropped: Vec::new() };
    Ok((versions.into_iter().zip(written).map(copied).collect(), index))
}
