//! `linkspan cache export` and `import`.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::super::save::Sink;
use super::super::settings::TargetSettings;
use super::super::{CommandError, Leftover, block_on, engine, interruptible, output};
use super::access::{self, CacheAccess, LeftOut, Readable};
use super::copied::{CopiedParts, Report};
use super::folder::CacheFolder;
use super::target::{ExportTarget, TargetFolder, write_archive};
use super::{CacheFolderError, find};
use crate::caches::{CacheError, CacheRef, CopySource, MAX_PARTS};
use crate::engine::caches::CacheVersion;
use crate::engine::{EngineError, cache_tags};
use crate::image::layout::INDEX_FILE;

const EXPORT_EXAMPLES: &str = "\
BuildKit reads one part by a tag. The part that was written last has REF as its
tag, and each other one REF and its platform; the command prints all of them.

Examples:
  linkspan cache export app ./cache
  linkspan cache export app cache.tar
  docker buildx build --cache-from type=local,src=./cache,tag=app .

An archive appears when it is complete. A new folder is removed if the export
fails or is interrupted before a part is complete. Parts that cannot be read
are left out, with a warning: exit code 0, or 1 if that leaves none.";
const IMPORT_EXAMPLES: &str = "\
A part that REF has already is replaced: import caches of one folder that have
no parts (those that BuildKit wrote) under refs of their own. What `export`
wrote is imported with all parts.

Examples:
  linkspan cache import ./cache app
  linkspan cache import cache.tar app
  linkspan cache import cache.tar.zst app
  linkspan cache import --tag latest ./cache app

Folders and uncompressed archives are read in place; of a compressed one an
unnamed copy is made in $TMPDIR. Parts that cannot be read, and those beyond
the 64 newest, are left out, with a warning: exit code 0, or 1 if that leaves
none. An import that is interrupted keeps the parts that are complete.";

/// Copies a build cache into a folder, or an archive of one, that BuildKit reads (`--cache-from type=local,src=DIR,tag=REF`)
#[derive(Debug, Args)]
#[command(after_long_help = EXPORT_EXAMPLES)]
pub(super) struct Export {
    /// The cache, of which the newest version of each part is copied; or the id of one version, or the beginning of it
    #[arg(value_name = "REF|ID")]
    reference: CacheRef,

    /// The folder, in which other caches stay; or an archive, if the name ends in `.tar`
    #[arg(value_name = "DIR|FILE.tar")]
    folder: PathBuf,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

/// Copies a build cache from a folder, or an archive of one, that BuildKit wrote (`--cache-to type=local,dest=DIR`), or `export`, into the engine
#[derive(Debug, Args)]
#[command(after_long_help = IMPORT_EXAMPLES)]
pub(super) struct Import {
    /// The folder, or a tar archive of it, which may be compressed (gzip, zstd, xz, bzip2)
    #[arg(value_name = "DIR|FILE.tar")]
    folder: PathBuf,

    /// The ref that it gets; what this has of the same part is replaced
    #[arg(value_name = "REF")]
    reference: CacheRef,

    /// The tag that BuildKit gave it, or the ref that `export` was given [default: the only one]
    #[arg(long, value_name = "TAG")]
    tag: Option<CacheRef>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

impl Export {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        let (path, reference, is_json) = (self.folder, self.reference, self.json);
        block_on(async {
            let from = access::connect(&config, &target).await?;
            let exported = export(&*from, &path, &reference, is_json).await;
            from.finish().await;
            exported.map(|()| ExitCode::SUCCESS)
        })?
    }
}

impl Import {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        let Self { folder: path, reference, tag, json: is_json, .. } = self;
        block_on(async {
            let folder = target.layout().map(TargetFolder::at);
            let to = access::connect(&config, &target).await?;
            let parts = CopiedParts::default();
            let copying = async {
                let from = CacheFolder::open(&path).await?;
                let mut versions = from.versions().await?;
                let tag = chosen(&versions, &path, tag)?;
                versions.retain(|version| version.reference == tag.as_str());
                let (versions, beyond) = newest(versions, &tag)?;
                let readable = from.readable(versions).await?;
                let mut report = Report::new(is_json);
                let sources = usable(readable, beyond, &mut report, &parts).map_err(|error| match error {
                    // It cannot be removed from where it is by a command of ours.
                    CommandError::Cache(CacheError::Unusable { reference, error, .. }) => {
                        CacheFolderError::Unusable { reference, reason: error.to_string() }.into()
                    }
                    error => error,
                })?;
                copy(&sources, &*to, &reference, &mut report, &parts).await?;
                Ok(report)
            };
            let copied = interruptible(copying).await;
            let remains = to.remains();
            // What was copied of a version that is not complete is released, before it is said what is left.
            to.finish().await;
            drop(to);
            let report = match (copied, folder) {
                (Err(error), Some(folder)) => return Err(broken_off(error, folder.clean(&parts).await, &parts)),
                (Err(error), None) if parts.complete() > 0 => {
                    let text = match remains {
                        Leftover::Nothing => parts.stay(),
                        rest => format!("{}; of the next one {rest}", parts.stay()),
                    };
                    return Err(broken_off(error, Leftover::Some(text), &parts));
                }
                (Err(error), None) => return Err(broken_off(error, remains, &parts)),
                (Ok(report), _) => report,
            };
            if is_json {
                report.print_json(None)?;
            }
            Ok(ExitCode::SUCCESS)
        })?
    }
}

/// Exports the cache `given`.
async fn export(from: &dyn CacheAccess, path: &Path, given: &CacheRef, is_json: bool) -> Result<(), CommandError> {
    let (parts, mut report) = (CopiedParts::default(), Report::new(is_json));
    let sources = async |report: &mut Report| {
        let versions = find::required(&from.versions().await?, given)?;
        let reference: CacheRef = match versions.first() {
            Some(version) => version.reference.parse()?,
            None => given.clone(),
        };
        let (versions, beyond) = newest(versions, &reference)?;
        Ok::<_, CommandError>((usable(from.open(versions).await?, beyond, report, &parts)?, reference))
    };
    let tags = match ExportTarget::of(path)? {
        ExportTarget::Archive(file) => {
            let exporting = async {
                let sink = Sink::open(&file)?;
                let (sources, reference) = sources(&mut report).await?;
                let (copied, index) = write_archive(sink, &sources, &reference, &engine::origin("cache")).await?;
                for (source, copied) in sources.iter().zip(&copied) {
                    report.add(source, copied, &reference)?;
                }
                tags(&index, &reference)
            };
            interruptible(exporting).await?
        }
        ExportTarget::Folder(folder) => {
            let folder = TargetFolder::at(&folder);
            let to = folder.caches().await?;
            let exporting = async {
                let (sources, reference) = sources(&mut report).await?;
                copy(&sources, &*to, &reference, &mut report, &parts).await.map_err(|error| folder.explain(error))?;
                let file = path.join(INDEX_FILE);
                let failed = |error| CacheFolderError::File { path: file.display().to_string(), error };
                tags(&fs::read(&file).map_err(failed)?, &reference)
            };
            let exported = interruptible(exporting).await;
            to.finish().await;
            drop(to);
            match exported {
                Ok(tags) => tags,
                Err(error) => return Err(broken_off(error, folder.clean(&parts).await, &parts)),
            }
        }
    };
    match is_json {
        true => report.print_json(Some(&tags)),
        false => print_usage(path, &tags),
    }
}

/// The error of a command that did not copy everything. Where it was no signal, parts that are complete are noted.
fn broken_off(error: CommandError, left: Leftover, parts: &CopiedParts) -> CommandError {
    match error {
        CommandError::Interrupted { signal, .. } => CommandError::Interrupted { signal, left },
        error => {
            if parts.complete() > 0 {
                output::note(&format!("linkspan: note: {left}"));
            }
            error
        }
    }
}

/// The newest version of each part, the newest first: as many as a cache may have, and the others.
fn newest(mut versions: Vec<CacheVersion>, tag: &CacheRef) -> Result<(Vec<CacheVersion>, Vec<LeftOut>), CommandError> {
    if versions.is_empty() {
        return Err(CacheError::Unknown { reference: tag.to_string() }.into());
    }
    let mut seen = HashSet::new();
    versions.retain(|version| seen.insert(version.part.clone()));
    let beyond = versions.split_off(versions.len().min(MAX_PARTS));
    let left_out = |version| LeftOut { version, error: CacheError::TooManyParts { limit: MAX_PARTS } };
    Ok((versions, beyond.into_iter().map(left_out).collect()))
}

/// The versions that can be copied, in the order in which they are: the newest comes last, and is the newest again. Says which
/// ones cannot.
///
/// # Errors
/// If none can.
fn usable(
    readable: Readable,
    beyond: Vec<LeftOut>,
    report: &mut Report,
    parts: &CopiedParts,
) -> Result<Vec<CopySource>, CommandError> {
    let Readable { mut sources, mut left_out } = readable;
    if sources.is_empty() && !left_out.is_empty() {
        let first = left_out.remove(0);
        left_out.iter().for_each(|left_out| report.leave_out(left_out));
        return Err(first.error.into());
    }
    left_out.iter().chain(&beyond).for_each(|left_out| report.leave_out(left_out));
    sources.reverse();
    parts.begin(sources.len());
    Ok(sources)
}

/// Copies one version after the other; those whose layers turn out to be damaged are left out.
///
/// # Errors
/// If that leaves none.
async fn copy(
    sources: &[CopySource],
    to: &dyn CacheAccess,
    reference: &CacheRef,
    report: &mut Report,
    parts: &CopiedParts,
) -> Result<(), CommandError> {
    let mut damaged = Vec::new();
    for source in sources {
        match to.copy(source, reference, &engine::origin("cache")).await {
            Ok(copied) => {
                parts.add();
                report.add(source, &copied, reference)?;
            }
            Err(error @ CacheError::Engine(EngineError::Corrupt { .. })) => {
                damaged.push(LeftOut { version: source.version.clone(), error });
            }
            Err(error) => return Err(error.into()),
        }
    }
    let first = if parts.complete() == 0 && !damaged.is_empty() { Some(damaged.remove(0)) } else { None };
    damaged.iter().for_each(|damaged| report.leave_out(damaged));
    first.map_or(Ok(()), |first| Err(first.error.into()))
}

/// The ref of the versions in a folder that was named, or the only one.
fn chosen(versions: &[CacheVersion], path: &Path, tag: Option<CacheRef>) -> Result<CacheRef, CommandError> {
    let refs: BTreeSet<_> = versions.iter().map(|version| version.reference.clone()).collect();
    let folder = path.display().to_string();
    match (tag, refs.first()) {
        (Some(tag), _) if refs.contains(tag.as_str()) => Ok(tag),
        (Some(tag), _) => {
            Err(CacheFolderError::Tag { folder, tag: tag.to_string(), tags: refs.into_iter().collect() }.into())
        }
        (None, Some(only)) if refs.len() == 1 => Ok(only.parse()?),
        _ => Err(CacheFolderError::Unnamed { folder, tags: refs.into_iter().collect() }.into()),
    }
}

/// What the versions of a cache are of, and the tags by which BuildKit finds them, in the `index` of a layout.
fn tags(index: &[u8], reference: &CacheRef) -> Result<Vec<(String, String)>, CommandError> {
    let unreadable = |reason| EngineError::Protocol { operation: "reading the new index".to_owned(), reason };
    Ok(cache_tags(index, reference.as_str()).map_err(unreadable)?)
}

/// Says how BuildKit reads what was exported.
fn print_usage(path: &Path, tags: &[(String, String)]) -> Result<(), CommandError> {
    let is_archive = !path.is_dir();
    output::print(match is_archive {
        true => "BuildKit reads it once it is unpacked into a folder DIR:",
        false => "BuildKit reads it:",
    })?;
    let folder = if is_archive { "DIR".to_owned() } else { path.display().to_string() };
    for (title, tag) in tags {
        let of = if title.is_empty() { String::new() } else { format!("   # {title}") };
        output::print(&format!("  --cache-from type=local,src={folder},tag={tag}{of}"))?;
    }
    Ok(())
}
