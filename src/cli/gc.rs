//! `linkspan gc`.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::settings::EngineSettings;
use super::{CommandError, Leftover, block_on, engine, interruptible, output, show};
use crate::byte_size;
use crate::config::duration_of;
use crate::engine::collect::{Collected, Collection};
use crate::engine::select::select;
use crate::image::Digest;

/// The longest wait: after it another machine would take the collection over.
const MAX_WAIT: Duration = Duration::from_secs(30 * 60);

/// Deletes what no image, build cache or running export in a bucket refers to any more; others may write to it meanwhile.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Gc {
    /// Keep what was written, or lost its tag, less than this ago; it is what protects pushes through other registries
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    grace: Duration,

    /// Wait this long between the first and the second look, at most 30m; for stores whose lists lag behind
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = wait)]
    wait: Duration,

    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,

    /// Accepted for compatibility with docker; nothing is asked
    #[arg(short, long)]
    force: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineSettings,
}

/// What an interruption leaves.
const UNFINISHED: &str =
    "the next `linkspan gc` finishes what was begun, and exports of what was being deleted wait for it";

const EXAMPLES: &str = "\
Kept are images with a tag, those without a name that `images` lists, what their
indexes and referrers need, build caches, and what running exports have pinned.
All else goes: manifests that have lost their tags, and blobs. Every Linkspan
that writes to the bucket must be of this version or later. Other registries on
the bucket pin nothing: what they push is safe for the time of --grace, except
blobs that were there, unused, before the push. A collection that was killed is
finished by the next one. The other engines collect by themselves.

Examples:
  linkspan gc --object s3://bucket/images --dry-run
  linkspan gc --object s3://bucket/images
  linkspan gc --object s3://bucket/images --grace 7d --json";

fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    duration_of(text).ok_or_else(|| "expected a time such as `24h`, `1h30m` or `7d`".to_owned())
}

fn wait(text: &str) -> Result<Duration, String> {
    duration(text)
        .ok()
        .filter(|time| *time <= MAX_WAIT)
        .ok_or_else(|| "expected a time such as `30s`, at most `30m`".to_owned())
}

impl Gc {
    /// The flags that choose the engine.
    pub(super) fn repeated(&self) -> String {
        self.engine.repeated()
    }

    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let Self { grace, wait, dry_run: is_dry, json: is_json, engine, .. } = self;
        let config = engine::configure(engine)?;
        let digests = Mutex::new(Vec::new());
        let failure = Mutex::new(None);
        let deleted = |digest: &Digest, size: u64| {
            if is_json {
                digests.lock().unwrap_or_else(PoisonError::into_inner).push(digest.clone());
                return;
            }
            let line = format!("{}: {digest}, {}", verb(is_dry), byte_size::human(size));
            if let Err(error) = output::print(&line) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        };
        let wanted = Collection { grace, wait, is_dry, deleted: &deleted };
        let collecting = interruptible(async {
            let engine = select(&config.engine).await?.engine;
            Ok(engine.collect(&wanted).await?)
        });
        let collected = block_on(collecting)?.map_err(|error| match error {
            CommandError::Interrupted { signal, .. } if !is_dry => {
                CommandError::Interrupted { signal, left: Leftover::Some(UNFINISHED.to_owned()) }
            }
            error => error,
        })?;
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        if is_json {
            let digests = digests.into_inner().unwrap_or_else(PoisonError::into_inner);
            output::print(&document(&digests, &collected, is_dry).to_string())?;
        } else {
            report(&collected, is_dry)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn verb(is_dry: bool) -> &'static str {
    if is_dry { "Would delete" } else { "Deleted" }
}

fn document(digests: &[Digest], collected: &Collected, is_dry: bool) -> serde_json::Value {
    let Collected { bytes, links, leases, uploads, finished, others, .. } = collected;
    json!({
        "digests": digests, "bytes": bytes, "links": links, "leases": leases, "uploads": uploads, "finished": finished,
        "others": others, "dryRun": is_dry,
    })
}

fn report(collected: &Collected, is_dry: bool) -> Result<(), CommandError> {
    let count = |number: u64, thing: &str| show::count(usize::try_from(number).unwrap_or(usize::MAX), thing);
    for (number, thing) in [(collected.leases, "abandoned lease"), (collected.uploads, "abandoned upload")] {
        if number > 0 {
            output::print(&format!("Deleted: {}", count(number, thing)))?;
        }
    }
    if collected.finished > 0 {
        output::note(&format!(
            "linkspan: note: {} that had been interrupted was finished",
            count(collected.finished, "collection")
        ));
    }
    if collected.others > 0 {
        output::note(&format!(
            "linkspan: note: {} of other processes is under way",
            count(collected.others, "collection")
        ));
    }
    let total = if is_dry { "Would reclaim" } else { "Total reclaimed space" };
    output::print(&format!("{total}: {}", byte_size::human(collected.bytes)))
}
