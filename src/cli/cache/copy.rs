//! `linkspan cache export` and `import`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::super::settings::TargetSettings;
use super::super::{CommandError, block_on, engine, interruptible, output, show};
use super::archive::Place;
use super::{caches, title};
use crate::caches::{CacheError, CacheRef, CacheSettings, Caches};
use crate::engine::select::{Selection, select};

/// Copies a build cache into a folder, or an archive of one, that BuildKit reads (`--cache-from type=local,src=DIR,tag=REF`)
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The cache
    #[arg(value_name = "REF")]
    reference: CacheRef,

    /// The folder, in which other caches stay; or an archive, if the name ends in `.tar`
    #[arg(value_name = "DIR|FILE.tar")]
    folder: PathBuf,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

/// Copies a build cache from a folder, or an archive of one, that BuildKit wrote (`--cache-to type=local,dest=DIR`), or `export`, into the engine
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The folder, or a tar archive of it that is not compressed
    #[arg(value_name = "DIR|FILE.tar")]
    folder: PathBuf,

    /// The ref that it gets
    #[arg(value_name = "REF")]
    reference: CacheRef,

    /// The tag (or ref) that it has in the folder [default: the only one]
    #[arg(long, value_name = "TAG")]
    tag: Option<CacheRef>,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

impl Export {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        block_on(interruptible(async {
            let from = caches(&config, &target).await?;
            let place = Place::to_write(&self.folder)?;
            let done = copy(&from, &self.reference, &folder(place.folder()).await?, &self.reference).await?;
            place.finish().await?;
            Ok(done)
        }))?
    }
}

impl Import {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        block_on(interruptible(async {
            let place = Place::to_read(&self.folder).await?;
            let from = folder(place.folder()).await?;
            let tag = match self.tag {
                Some(tag) => tag,
                None => only(&from, &self.folder).await?,
            };
            copy(&from, &tag, &caches(&config, &target).await?, &self.reference).await
        }))?
    }
}

/// The caches in a folder.
async fn folder(path: &Path) -> Result<Arc<Caches>, CommandError> {
    let engine = select(&Selection::layout(path)).await?.engine;
    Ok(Caches::new(&*engine, CacheSettings::default())?)
}

/// The only ref in a folder.
async fn only(caches: &Caches, path: &Path) -> Result<CacheRef, CommandError> {
    let refs: BTreeSet<_> = caches.versions(None).await?.into_iter().map(|version| version.reference).collect();
    match refs.first() {
        Some(only) if refs.len() == 1 => Ok(only.parse()?),
        _ => Err(CommandError::CacheTags { folder: path.display().to_string(), tags: refs.into_iter().collect() }),
    }
}

async fn copy(
    from: &Arc<Caches>,
    tag: &CacheRef,
    to: &Arc<Caches>,
    reference: &CacheRef,
) -> Result<ExitCode, CommandError> {
    let parts = from.resolve(tag).await?;
    if parts.is_empty() {
        return Err(CacheError::Unknown { reference: tag.to_string() }.into());
    }
    // The newest comes last, and is the newest again.
    for part in parts.iter().rev() {
        let copied = to.copy(from, part, reference, &engine::origin("cache")).await?;
        let (layers, written) = (show::count(part.listed.layers.len(), "layer"), show::size(copied.written));
        let missing = if part.missing == 0 { String::new() } else { format!(", {} missing", part.missing) };
        output::print(&format!("{reference} ({}): {layers}{missing}, {written} copied", title(&part.version.title)))?;
    }
    Ok(ExitCode::SUCCESS)
}
