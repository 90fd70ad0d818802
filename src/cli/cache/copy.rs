//! `linkspan cache export` and `import`.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::super::settings::TargetSettings;
use super::super::{CommandError, block_on, engine, interruptible_leaving, output, show};
use super::access::{self, CacheAccess};
use super::archive::CacheFolder;
use super::{CacheFolderError, find, named};
use crate::byte_size;
use crate::caches::{CacheError, CacheRef};
use crate::engine::cache_tags;
use crate::engine::caches::CacheVersion;
use crate::image::layout::{INDEX_FILE, MARKER_FILE};

const EXPORT_EXAMPLES: &str = "\
BuildKit reads one part by a tag. The part that was written last has REF as its
tag, and each other one REF and its platform; the command prints all of them.

Examples:
  linkspan cache export app ./cache
  linkspan cache export app cache.tar
  docker buildx build --cache-from type=local,src=./cache,tag=app .";
const IMPORT_EXAMPLES: &str = "\
A part that REF has already is replaced: import caches of one folder that have
no parts (those that BuildKit wrote) under refs of their own. What `export`
wrote is imported with all parts.

Examples:
  linkspan cache import ./cache app
  linkspan cache import cache.tar app
  linkspan cache import cache.tar.zst app
  linkspan cache import --tag latest ./cache app";

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
        block_on(async {
            let from = access::connect(&config, &target).await?;
            let exported = async {
                let folder = CacheFolder::to_write(&self.folder)?;
                let versions = find::required(&from.versions().await?, &self.reference)?;
                let reference: CacheRef = match versions.first() {
                    Some(version) => version.reference.parse()?,
                    None => self.reference.clone(),
                };
                let to = access::folder(folder.path()).await?;
                let copied = copy(&*from, versions, &reference, &*to, &reference, self.json).await?;
                let tags = tags(folder.path(), &reference)?;
                folder.finish().await?;
                match self.json {
                    true => print_json(&copied, Some(&tags))?,
                    false => print_usage(&self.folder, &tags)?,
                }
                Ok(ExitCode::SUCCESS)
            };
            let exported = interruptible_leaving(exported, || from.remains()).await;
            from.finish().await;
            exported
        })?
    }
}

impl Import {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        block_on(async {
            let to = access::connect(&config, &target).await?;
            let copied = async {
                let folder = CacheFolder::to_read(&self.folder).await?;
                if !folder.path().join(MARKER_FILE).is_file() {
                    return Err(CacheFolderError::NotLayout { folder: self.folder.display().to_string() }.into());
                }
                let from = access::folder(folder.path()).await?;
                let mut versions = from.versions().await?;
                let tag = chosen(&versions, &self.folder, self.tag)?;
                versions.retain(|version| version.reference == tag.as_str());
                copy(&*from, versions, &tag, &*to, &self.reference, self.json).await
            };
            let copied = interruptible_leaving(copied, || to.remains()).await;
            // What was copied of a version that is not complete is released, before it is said that nothing is left.
            to.finish().await;
            let copied = copied?;
            if self.json {
                print_json(&copied, None)?;
            }
            Ok(ExitCode::SUCCESS)
        })?
    }
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

/// Copies the newest version of each part, and prints a line for each unless `is_quiet`.
async fn copy(
    from: &dyn CacheAccess,
    mut versions: Vec<CacheVersion>,
    tag: &CacheRef,
    to: &dyn CacheAccess,
    reference: &CacheRef,
    is_quiet: bool,
) -> Result<Vec<Value>, CommandError> {
    if versions.is_empty() {
        return Err(CacheError::Unknown { reference: tag.to_string() }.into());
    }
    let mut seen = HashSet::new();
    versions.retain(|version| seen.insert(version.part.clone()));
    let mut documents = Vec::new();
    // The newest comes last, and is the newest again.
    for source in from.open(versions).await?.iter().rev() {
        let copied = to.copy(source, reference, &engine::origin("cache")).await?;
        let (version, missing) = (&source.version, source.absent.len());
        let (layers, written) = (show::count(source.listed.layers.len(), "layer"), byte_size::human(copied.written));
        let replaced = copied.replaced.as_ref().map(|replaced| replaced.id.as_str());
        documents.push(json!({
            "id": copied.version.id, "ref": reference.as_str(), "of": version.title, "copied": copied.written,
            "layers": source.listed.layers.len(), "missingLayers": missing, "replaced": replaced,
        }));
        if !is_quiet {
            let missing = if missing == 0 { String::new() } else { format!(", {missing} missing") };
            let name = named(reference.as_str(), &version.title);
            let instead = if replaced.is_some() { ", in place of what the ref had of this part" } else { "" };
            output::print(&format!("{name}: {layers}{missing}, {written} copied{instead}"))?;
        }
    }
    Ok(documents)
}

/// What the versions of a cache in a folder are of, and the tags by which BuildKit finds them.
fn tags(folder: &Path, reference: &CacheRef) -> Result<Vec<(String, String)>, CommandError> {
    let path = folder.join(INDEX_FILE);
    let failed = |error| CacheFolderError::File { path: path.display().to_string(), error };
    let index = fs::read(&path).map_err(failed)?;
    Ok(cache_tags(&index, reference.as_str()).map_err(|error| failed(std::io::Error::other(error)))?)
}

/// Prints what was copied, and the tags by which BuildKit finds it.
fn print_json(copied: &[Value], tags: Option<&[(String, String)]>) -> Result<(), CommandError> {
    let mut document = json!({"versions": copied});
    if let Some(tags) = tags {
        document["tags"] = tags.iter().map(|(title, tag)| json!({"of": title, "tag": tag})).collect();
    }
    output::print(&document.to_string())
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
