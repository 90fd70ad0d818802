//! The caches of an engine of this machine.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::{CacheAccess, Contents, Measured, Pruned, Readable, UNLISTED, Usage, is_folder};
use crate::caches::{CacheError, CacheRef, CacheSettings, Caches, Copied, CopySource, Selection, VersionUsage};
use crate::cli::abandoned::AbandonedLeases;
use crate::cli::{CommandError, Leftover};
use crate::engine::caches::CacheVersion;
use crate::engine::select::{self, select};
use crate::engine::{Engine, Origin};

/// Caches that this process opens itself.
#[derive(Debug)]
pub(in super::super) struct LocalCaches {
    caches: Arc<Caches>,
    is_folder: bool,
    /// The engine in which a command that changes it releases what killed processes left; none for a folder that is copied.
    engine: Option<Arc<dyn Engine>>,
}

impl LocalCaches {
    /// Those of the engine that `selection` chooses.
    pub(super) async fn of(selection: &select::Selection, settings: CacheSettings) -> Result<Self, CommandError> {
        let engine = select(selection).await?.engine;
        let is_folder = is_folder(engine.identity().kind);
        let caches = Caches::new(&*engine, settings)?;
        Ok(Self { caches, is_folder, engine: Some(engine.cache_engine().unwrap_or(engine)) })
    }

    /// Those in the folder `path`.
    pub(super) async fn folder(path: &Path) -> Result<Self, CommandError> {
        let caches = Self::of(&select::Selection::layout(path), CacheSettings::default()).await?;
        Ok(Self { engine: None, ..caches })
    }
}

fn measured(usage: VersionUsage) -> Measured {
    let VersionUsage { version, unique, shared, .. } = usage;
    Measured { version, unique, shared }
}

#[async_trait]
impl CacheAccess for LocalCaches {
    fn is_folder(&self) -> bool {
        self.is_folder
    }

    async fn versions(&self) -> Result<Vec<CacheVersion>, CacheError> {
        self.caches.versions(None).await
    }

    async fn usage(&self) -> Result<Usage, CacheError> {
        let usage = self.caches.usage().await?;
        let exceeding = self.caches.exceeding_in(&usage);
        Ok(Usage {
            total: usage.total,
            versions: usage.versions.into_iter().map(measured).collect(),
            exceeding: exceeding.versions.into_iter().map(|usage| usage.version.id).collect(),
            exceeding_bytes: exceeding.bytes,
        })
    }

    async fn inspect(&self, version: &CacheVersion) -> Result<Contents, CacheError> {
        let (details, layers) = self.caches.inspect_version(version).await?;
        let [records, results, missing] = [details.records, details.results, details.missing].map(|it| it as u64);
        Ok(Contents { config: details.config, layers, records, results, missing })
    }

    async fn delete(
        &self,
        versions: Vec<CacheVersion>,
        is_dry: bool,
    ) -> Result<(Vec<CacheVersion>, Vec<CacheError>), CacheError> {
        if !is_dry {
            self.caches.delete(versions.iter().map(|version| version.id.clone()).collect()).await?;
        }
        Ok((versions, Vec::new()))
    }

    async fn prune(&self, selection: &Selection, is_dry: bool) -> Result<Pruned, CacheError> {
        let pruned = self.caches.prune(selection, is_dry).await?;
        Ok(Pruned { versions: pruned.versions.into_iter().map(measured).collect(), bytes: pruned.bytes, denied: 0 })
    }

    async fn open(&self, versions: Vec<CacheVersion>) -> Result<Readable, CacheError> {
        let mut readable = Readable::default();
        for version in versions {
            let opened = self.caches.copy_source(version.clone()).await;
            readable.add(version, opened)?;
        }
        Ok(readable)
    }

    async fn copy(&self, from: &CopySource, reference: &CacheRef, origin: &Origin) -> Result<Copied, CacheError> {
        self.caches.copy(from, reference, origin).await
    }

    fn remains(&self) -> Leftover {
        match self.is_folder {
            true => Leftover::Some(format!("layers that were copied stay in its folder {UNLISTED}")),
            false => Leftover::Nothing,
        }
    }

    async fn finish(&self) {
        self.caches.finish().await;
        let Some(engine) = &self.engine else { return };
        AbandonedLeases::of(engine).await.release(&[]).await;
        if let Err(error) = self.caches.recover().await {
            tracing::debug!(%error, "unfinished build caches of killed processes stay");
        }
    }
}
