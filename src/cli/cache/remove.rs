//! `linkspan cache rm` and `prune`.

use std::collections::HashSet;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::json;

use super::super::settings::TargetSettings;
use super::super::{CommandError, output, show};
use super::access::{Measured, Pruned};
use super::filter::{self, Filter};
use super::{find, named, on_caches};
use crate::byte_size;
use crate::caches::{CacheRef, Selection};
use crate::config::bytes_of;
use crate::engine::caches::CacheVersion;

/// A folder keeps what just became garbage for a while.
const FREED_LATER: &str = "The folder keeps these bytes for an hour; a change of it after that frees them.";
const REMOVE_EXAMPLES: &str = "\
Examples:
  linkspan cache rm app team/app:main
  linkspan cache rm --dry-run 3f8a52c0d911
  linkspan cache rm $(linkspan cache ls -q app)";
const PRUNE_EXAMPLES: &str = "\
When a cache was used is noted to the hour. The bytes are the most that becomes
free: what images have of them stays, and a folder keeps all for an hour.

Examples:
  linkspan cache prune --filter until=168h --dry-run
  linkspan cache prune --filter 'ref=ci/*' --keep-storage 20GB
  linkspan cache prune --all";

/// Removes build caches, with all their parts
#[derive(Debug, Args)]
#[command(after_long_help = REMOVE_EXAMPLES)]
pub(super) struct Remove {
    /// The caches: their refs; or ids of single versions, or beginnings of ids
    #[arg(value_name = "REF|ID", required = true, value_parser = find::exact)]
    references: Vec<CacheRef>,

    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

/// Removes build caches that match
#[derive(Debug, Args)]
#[command(
    after_long_help = PRUNE_EXAMPLES,
    override_usage = "linkspan cache prune --all [OPTIONS]
       linkspan cache prune --filter <KEY=VALUE> [OPTIONS]
       linkspan cache prune --keep-storage <BYTES> [OPTIONS]"
)]
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
    pub(super) target: TargetSettings,
}

fn bytes(text: &str) -> Result<u64, String> {
    bytes_of(text).ok_or_else(|| "expected a number of bytes such as `10GB` or `512MiB`".to_owned())
}

impl Remove {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let flags = self.target.repeated();
        let Self { references, dry_run: is_dry, json: is_json, target } = self;
        on_caches(target, async |caches| {
            let all = caches.versions().await?;
            let (mut meant, mut seen, mut code) = (Vec::new(), HashSet::new(), ExitCode::SUCCESS);
            // The others go nevertheless.
            let mut complain = |error| {
                let error = CommandError::Cache(error);
                output::complain(&error, error.hint(&flags));
                code = ExitCode::FAILURE;
            };
            for given in &references {
                match find::required(&all, given) {
                    Ok(found) => meant.extend(found.into_iter().filter(|version| seen.insert(version.id.clone()))),
                    Err(error) => complain(error),
                }
            }
            let deleted = caches.delete(meant, is_dry).await;
            if !is_dry {
                caches.finish().await;
            }
            let (gone, refused) = deleted?;
            refused.into_iter().for_each(complain);
            if is_json {
                let ids: Vec<_> = gone.iter().map(|version| &version.id).collect();
                output::print(&json!({"versions": ids, "dryRun": is_dry}).to_string())?;
                return Ok(code);
            }
            for version in &gone {
                output::print(&format!("{}: {}", verb(is_dry), shown(version)))?;
            }
            if !gone.is_empty() && caches.is_folder() && !is_dry {
                output::print(FREED_LATER)?;
            }
            Ok(code)
        })
    }
}

impl Prune {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let selection = Selection { keep_bytes: self.keep_storage, ..filter::selection(self.filter) };
        let (is_dry, is_json) = (self.dry_run, self.json);
        let (pruned, is_folder) = on_caches(self.target, async |caches| {
            let pruned = caches.prune(&selection, is_dry).await;
            if !is_dry {
                caches.finish().await;
            }
            Ok((pruned?, caches.is_folder()))
        })?;
        if pruned.denied > 0 {
            let count = show::count(usize::try_from(pruned.denied).unwrap_or(usize::MAX), "version");
            output::note(&format!(
                "linkspan: note: the daemon lets {count} stay, whose refs it does not let be written"
            ));
        }
        if is_json {
            let ids: Vec<_> = pruned.versions.iter().map(|usage| &usage.version.id).collect();
            let document = json!({"versions": ids, "bytes": pruned.bytes, "dryRun": is_dry});
            output::print(&document.to_string())?;
        } else {
            report(&pruned, is_dry, is_folder)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn verb(is_dry: bool) -> &'static str {
    if is_dry { "Would delete" } else { "Deleted" }
}

/// A version as tables have it: its cache may have others, which stay.
fn shown(version: &CacheVersion) -> String {
    format!("{} {}", find::short_id(version), named(&version.reference, &version.title))
}

fn report(pruned: &Pruned, is_dry: bool, is_folder: bool) -> Result<(), CommandError> {
    for Measured { version, unique, .. } in &pruned.versions {
        let size = byte_size::human(*unique);
        output::print(&format!("{}: {}, {size} of its own", verb(is_dry), shown(version)))?;
    }
    let total = match (is_dry, is_folder && pruned.bytes > 0) {
        (true, _) => "Would reclaim",
        (false, true) => "To be reclaimed",
        (false, false) => "Total reclaimed space",
    };
    // Which of them images have as well is not known here.
    let (most, rest) = if pruned.bytes == 0 { ("", "") } else { ("up to ", "; what images have of it stays") };
    output::print(&format!("{total}: {most}{}{rest}", byte_size::human(pruned.bytes)))?;
    if pruned.bytes > 0 && is_folder && !is_dry { output::print(FREED_LATER) } else { Ok(()) }
}
