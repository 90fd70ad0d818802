//! `linkspan cache rm` and `prune`.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::super::settings::TargetSettings;
use super::super::{CommandError, block_on, engine, output, show};
use super::{caches, title};
use crate::caches::{CacheError, CacheRef, Pruned, Selection};
use crate::config::{bytes_of, duration_of};
use crate::engine::caches::VERSION_PREFIX;

/// Removes build caches, with all their parts
#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The caches: their refs, or ids of single versions
    #[arg(value_name = "REF", required = true)]
    references: Vec<CacheRef>,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

/// Removes build caches that match
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["all", "filter", "keep_storage"])))]
pub(super) struct Prune {
    /// All of them, whatever does not filter them
    #[arg(short, long)]
    all: bool,

    /// Only those that match: `until=TIME`, which were not used for this long (`24h`, `30d`), or `ref=PATTERN`, in which `*`
    /// matches any characters; can be repeated, several refs match if one does
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,

    /// Only so many of them that all that stay have at most these bytes; those that were not used for longest go first
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    keep_storage: Option<u64>,

    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Accepted for compatibility with docker; nothing is asked
    #[arg(short, long)]
    force: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

/// A condition of a prune.
#[derive(Debug, Clone)]
enum Filter {
    Until(Duration),
    Reference(String),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("until", time)) => {
                let wanted = duration_of(time).map(Self::Until);
                wanted.ok_or_else(|| "expected a time such as `24h` or `30d`".to_owned())
            }
            Some(("ref", pattern)) if !pattern.is_empty() => Ok(Self::Reference(pattern.to_owned())),
            _ => Err("expected `until=TIME` or `ref=PATTERN`".to_owned()),
        }
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    bytes_of(text).ok_or_else(|| "expected a number of bytes such as `10GB` or `512MiB`".to_owned())
}

impl Remove {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        block_on(async {
            let caches = caches(&config, &target).await?;
            let all = caches.versions(None).await?;
            // Everything is looked up before anything is removed.
            let mut ids = Vec::new();
            for reference in &self.references {
                let is_id = reference.as_str().starts_with(VERSION_PREFIX);
                let found = all.iter().filter(|version| {
                    version.reference == reference.as_str() || is_id && version.id == reference.as_str()
                });
                let found: Vec<_> = found.map(|version| version.id.clone()).collect();
                if found.is_empty() {
                    return Err(CacheError::Unknown { reference: reference.to_string() }.into());
                }
                ids.extend(found);
            }
            caches.delete(ids).await?;
            Ok(ExitCode::SUCCESS)
        })?
    }
}

impl Prune {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let mut selection = Selection { keep_bytes: self.keep_storage, ..Selection::default() };
        for filter in self.filter {
            match filter {
                // The strictest one counts.
                Filter::Until(time) => {
                    selection.unused_for = Some(selection.unused_for.map_or(time, |other| other.max(time)));
                }
                Filter::Reference(pattern) => selection.references.push(pattern),
            }
        }
        let (config, target) = engine::target(self.target)?;
        let (is_dry, is_json) = (self.dry_run, self.json);
        let pruned = block_on(async {
            let caches = caches(&config, &target).await?;
            Ok::<_, CommandError>(caches.prune(&selection, is_dry).await?)
        })??;
        if is_json {
            let ids: Vec<_> = pruned.versions.iter().map(|usage| &usage.version.id).collect();
            let document = serde_json::json!({"versions": ids, "bytes": pruned.bytes, "dryRun": is_dry});
            output::print(&document.to_string())?;
        } else {
            report(&pruned, is_dry)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn report(pruned: &Pruned, is_dry: bool) -> Result<(), CommandError> {
    let (verb, total) = match is_dry {
        true => ("Would delete", "Would reclaim"),
        false => ("Deleted", "Total reclaimed space"),
    };
    for usage in &pruned.versions {
        let version = &usage.version;
        let size = show::size(usage.unique);
        output::print(&format!("{verb}: {} ({}), {size} of its own", version.reference, title(&version.title)))?;
    }
    output::print(&format!("{total}: {}", show::size(pruned.bytes)))
}
