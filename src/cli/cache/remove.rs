//! `linkspan cache rm` and `prune`.

use std::collections::HashSet;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::super::settings::EngineSettings;
use super::super::{CommandError, block_on, engine, output, show};
use super::{find, named, placed};
use crate::caches::{CacheRef, Pruned, Selection};
use crate::config::{bytes_of, duration_of};

/// A folder keeps what just became garbage for a while.
const FREED_LATER: &str = "The folder keeps these bytes for an hour; a change of it after that frees them.";
const REMOVE_EXAMPLES: &str = "\
Examples:
  linkspan cache rm app team/app:main
  linkspan cache rm $(linkspan cache ls -q app)";
const PRUNE_EXAMPLES: &str = "\
When a cache was used is noted to the hour.

Examples:
  linkspan cache prune --filter until=168h --dry-run
  linkspan cache prune --filter 'ref=ci/*' --keep-storage 20GB
  linkspan cache prune --all";

/// Removes build caches, with all their parts
#[derive(Debug, Args)]
#[command(after_long_help = REMOVE_EXAMPLES)]
pub(super) struct Remove {
    /// The caches: their refs; or ids of single versions, or beginnings of ids
    #[arg(value_name = "REF|ID", required = true)]
    references: Vec<CacheRef>,

    #[command(flatten)]
    pub(super) target: EngineSettings,
}

/// Removes build caches that match
#[derive(Debug, Args)]
#[command(after_long_help = PRUNE_EXAMPLES)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["all", "filter", "keep_storage"])))]
pub(super) struct Prune {
    /// Every cache that no --filter leaves out
    #[arg(short, long)]
    all: bool,

    /// Only those that match: `until=TIME`, which were not used for this long (`24h`, `1h30m`, `30d`; the last use is noted
    /// to the hour), or `ref=PATTERN`, in which `*` matches any characters; can be repeated, and one of several refs has
    /// to match
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,

    /// Remove until all caches together have at most these bytes, beginning with those that were not used for longest
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
    pub(super) target: EngineSettings,
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
                let until = duration_of(time).map(Self::Until);
                until.ok_or_else(|| "expected a time such as `24h`, `1h30m` or `30d`".to_owned())
            }
            Some(("ref", pattern)) if pattern.contains(',') => {
                Err("expected one pattern; repeat --filter for several".to_owned())
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
        let flags = self.target.repeated();
        let config = engine::configure(self.target)?;
        block_on(async {
            let (caches, is_folder) = placed(&config).await?;
            let all = caches.versions(None).await?;
            let (mut gone, mut seen, mut code) = (Vec::new(), HashSet::new(), ExitCode::SUCCESS);
            for given in &self.references {
                match find::required(&all, given) {
                    Ok(found) => gone.extend(found.into_iter().filter(|version| seen.insert(version.id.clone()))),
                    // The others go nevertheless.
                    Err(error) => {
                        let error = CommandError::from(error);
                        output::complain(&error, error.hint(&flags));
                        code = ExitCode::FAILURE;
                    }
                }
            }
            caches.delete(gone.iter().map(|version| version.id.clone()).collect()).await?;
            for version in &gone {
                output::print(&format!("Deleted: {}", named(&version.reference, &version.title)))?;
            }
            if !gone.is_empty() && is_folder {
                output::print(FREED_LATER)?;
            }
            Ok(code)
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
        let config = engine::configure(self.target)?;
        let (is_dry, is_json) = (self.dry_run, self.json);
        let (pruned, is_folder) = block_on(async {
            let (caches, is_folder) = placed(&config).await?;
            Ok::<_, CommandError>((caches.prune(&selection, is_dry).await?, is_folder))
        })??;
        if is_json {
            let ids: Vec<_> = pruned.versions.iter().map(|usage| &usage.version.id).collect();
            let document = serde_json::json!({"versions": ids, "bytes": pruned.bytes, "dryRun": is_dry});
            output::print(&document.to_string())?;
        } else {
            report(&pruned, is_dry, is_folder)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn report(pruned: &Pruned, is_dry: bool, is_folder: bool) -> Result<(), CommandError> {
    let (verb, total) = match is_dry {
        true => ("Would delete", "Would reclaim"),
        false => ("Deleted", "Total reclaimed space"),
    };
    for usage in &pruned.versions {
        let version = &usage.version;
        let size = show::size(usage.unique);
        output::print(&format!("{verb}: {}, {size} of its own", named(&version.reference, &version.title)))?;
    }
    output::print(&format!("{total}: {}", show::size(pruned.bytes)))?;
    if pruned.bytes > 0 && is_folder && !is_dry { output::print(FREED_LATER) } else { Ok(()) }
}
