//! The caches that a command works on: those of an engine of this machine, or those behind a daemon.

mod local;
mod remote;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

pub(super) use self::local::LocalCaches;
use self::remote::RemoteCaches;
use super::super::daemon::daemon_at;
use super::super::engine::Target;
use super::super::{CommandError, Leftover};
use crate::caches::{CacheError, CacheRef, Copied, CopySource, Selection};
use crate::config::Config;
use crate::engine::caches::CacheVersion;
use crate::engine::{EngineError, EngineKind, Origin};
use crate::image::Descriptor;

/// What becomes of layers in a folder that no version lists.
pub(super) const UNLISTED: &str = "for an hour, unlisted, and the next copy there uses them";

/// A version, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) version: CacheVersion,
    /// The bytes that no other version has.
    pub(super) unique: u64,
    /// The bytes that other versions have as well.
    pub(super) shared: u64,
}

/// What all caches take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    /// The newest first.
    pub(super) versions: Vec<Measured>,
    /// The bytes of all blobs, each counted once.
    pub(super) total: u64,
    /// The ids of the versions that the limits would delete, and the bytes that no version that stays has.
    pub(super) exceeding: Vec<String>,
    pub(super) exceeding_bytes: u64,
}

/// What a prune deleted, or would delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pruned {
    pub(super) versions: Vec<Measured>,
    /// The bytes that no version that stays has.
    pub(super) bytes: u64,
    /// How many versions stay that were meant, because a daemon's policy protects them.
    pub(super) denied: u64,
}

/// What is in a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) config: Descriptor,
    /// Each once.
    pub(super) layers: Vec<Descriptor>,
    pub(super) records: u64,
    pub(super) results: u64,
    pub(super) missing: u64,
}

/// The caches that a command works on.
#[async_trait]
pub(super) trait CacheAccess: Debug + Send + Sync {
    /// Whether they are in a folder, which keeps for a while what becomes garbage.
    fn is_folder(&self) -> bool;

    /// All versions, the newest first.
    async fn versions(&self) -> Result<Vec<CacheVersion>, CacheError>;

    /// What they take.
    async fn usage(&self) -> Result<Usage, CacheError>;

    /// What is in one of them.
    async fn inspect(&self, version: &CacheVersion) -> Result<Contents, CacheError>;

    /// Deletes versions, unless `is_dry`; those that are gone are fine. Returns those that went, or would go, and why the others
    /// stay.
    async fn delete(
        &self,
        versions: Vec<CacheVersion>,
        is_dry: bool,
    ) -> Result<(Vec<CacheVersion>, Vec<CacheError>), CacheError>;

    /// Deletes what `selection` means, unless `is_dry`.
    async fn prune(&self, selection: &Selection, is_dry: bool) -> Result<Pruned, CacheError>;

    /// Versions of one cache, to be copied, in the order that is given, and those that cannot be read.
    async fn open(&self, versions: Vec<CacheVersion>) -> Result<Readable, CacheError>;

    /// Stores a version of other caches.
    async fn copy(&self, from: &CopySource, reference: &CacheRef, origin: &Origin) -> Result<Copied, CacheError>;

    /// What is left if a copy is interrupted now.
    fn remains(&self) -> Leftover;

    /// Releases what is held, and in an engine what killed processes left. To be called at the end of a command that copies or
    /// deletes, also of one that failed.
    async fn finish(&self);
}

/// The caches of `target`.
pub(super) async fn connect(config: &Config, target: &Target) -> Result<Arc<dyn CacheAccess>, CommandError> {
    Ok(match target {
        Target::Engine(selection) => Arc::new(LocalCaches::of(selection, config.caches.clone()).await?),
        Target::Daemon(daemon) => match RemoteCaches::connect(daemon).await {
            Ok(caches) => Arc::new(caches),
            Err(error @ CacheError::Engine(EngineError::NoAnswer { .. })) => return Err(error.into()),
            Err(error) => {
                // A Linkspan of an earlier version has the exporter API alone; of anything else it is said what it is.
                daemon_at(daemon).await?;
                return Err(error.into());
            }
        },
    })
}

/// The caches in the folder `path`.
pub(super) async fn folder(path: &Path) -> Result<Arc<dyn CacheAccess>, CommandError> {
    Ok(Arc::new(LocalCaches::folder(path).await?))
}

/// Whether an engine keeps its caches in a folder.
fn is_folder(kind: EngineKind) -> bool {
    matches!(kind, EngineKind::Layout | EngineKind::DockerClassic | EngineKind::DockerApi)
}

/// Versions that are to be copied.
#[derive(Debug, Default)]
pub(super) struct Readable {
    pub(super) sources: Vec<CopySource>,
    pub(super) left_out: Vec<LeftOut>,
}

/// A version that cannot be copied.
#[derive(Debug, Clone)]
pub(super) struct LeftOut {
    pub(super) version: CacheVersion,
    pub(super) error: CacheError,
}

impl Readable {
    /// Adds a version, or why it cannot be read.
    ///
    /// # Errors
    /// When the failure says nothing of this version.
    pub(super) fn add(
        &mut self,
        version: CacheVersion,
        opened: Result<CopySource, CacheError>,
    ) -> Result<(), CacheError> {
        match opened {
            Ok(source) => self.sources.push(source),
            Err(error @ (CacheError::Unusable { .. } | CacheError::Unknown { .. })) => {
                self.left_out.push(LeftOut { version, error })
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
