//! `linkspan cache ls`, `du` and `inspect`.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::super::settings::TargetSettings;
use super::super::{CommandError, output, show};
use super::access::{Contents, Measured};
use super::filter::{self, Filter};
use super::find::{self, Selector};
use super::{ago, on_caches};
use crate::byte_size;
use crate::caches::CacheRef;
use crate::engine::caches::CacheVersion;

/// The columns that may be cut: refs, and what they are of.
const NAMES: [usize; 2] = [1, 2];

const LIST_EXAMPLES: &str = "\
A line is the newest version of a part, or an older one that `keep=N` keeps.
OF is the platform, target and Dockerfile. SIZE counts layers that other
caches and images have as well; --json has the times of creation and the
layers. ID is the short id, of which the beginning does, too (four characters
or more), for inspect, export and rm; -q prints it alone. On a terminal long
refs are cut to its width; --no-trunc shows them, and whole ids.

Examples:
  linkspan cache ls
  linkspan cache ls app team/app:main
  linkspan cache ls 'ci/*' --filter until=168h
  linkspan cache ls -q app
  linkspan cache ls --json | jq -r .ref";
const USAGE_EXAMPLES: &str = "\
UNIQUE are the bytes that no other cache has: the most that becomes free when
this one is removed; what an image has of them stays. SHARED are those that
other caches have, too.

Examples:
  linkspan cache du
  linkspan cache du --json | jq .total";
const INSPECT_EXAMPLES: &str = "\
Examples:
  linkspan cache inspect app
  linkspan cache inspect app | jq '.[].layers[].digest'";

/// Lists the build caches of the engine
#[derive(Debug, Args)]
#[command(after_long_help = LIST_EXAMPLES)]
pub(super) struct List {
    /// Only these: refs, patterns of refs in which `*` matches any characters, ids or beginnings of ids
    #[arg(value_name = "REF|PATTERN|ID")]
    selectors: Vec<Selector>,

    /// Only those that match: `until=TIME`, which were not used for this long (`24h`, `1h30m`, `30d`), or `ref=PATTERN`;
    /// can be repeated, and one of several refs has to match
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,

    /// Print whole ids, and do not cut refs to the width of the terminal
    #[arg(long)]
    no_trunc: bool,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON object for each version of a part, one a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

/// Shows how many bytes the build caches of the engine take
#[derive(Debug, Args)]
#[command(after_long_help = USAGE_EXAMPLES)]
pub(super) struct DiskUsage {
    /// Do not cut refs to the width of the terminal
    #[arg(long)]
    no_trunc: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

/// Prints what is known of build caches, as JSON
#[derive(Debug, Args)]
#[command(after_long_help = INSPECT_EXAMPLES)]
pub(super) struct Inspect {
    /// The caches: refs, ids or beginnings of ids
    #[arg(value_name = "REF|ID", required = true, value_parser = find::exact)]
    references: Vec<CacheRef>,

    /// Accepted for likeness with other commands; the output always is JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

impl List {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let mut versions = on_caches(self.target, async |caches| Ok(caches.versions().await?))?;
        if !self.selectors.is_empty() {
            let selected = self.selectors.iter().flat_map(|selector| selector.matching(&versions));
            let selected: HashSet<_> = selected.map(|version| version.id).collect();
            versions.retain(|version| selected.contains(&version.id));
        }
        let (selection, now) = (filter::selection(self.filter), SystemTime::now());
        versions.retain(|version| selection.includes(version, now));
        let mut rows = vec![["ID", "REF", "OF", "MODE", "SIZE", "LAST USED"].map(str::to_owned).to_vec()];
        for version in &versions {
            let id = if self.no_trunc { version.id.clone() } else { find::short_id(version) };
            match (self.quiet, self.json) {
                (true, _) => output::print(&id)?,
                (_, true) => output::print(&json_of(version).to_string())?,
                _ => rows.push(vec![
                    id,
                    version.reference.clone(),
                    version.title.clone(),
                    version.mode.clone(),
                    byte_size::human_in_table(version.bytes),
                    ago(version.used),
                ]),
            }
        }
        if !self.quiet && !self.json {
            output::print(&show::cut_table(&rows, &NAMES, output::columns(self.no_trunc)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl DiskUsage {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let usage = on_caches(self.target, async |caches| Ok(caches.usage().await?))?;
        if self.json {
            let versions: Vec<_> = usage.versions.iter().map(usage_json).collect();
            let document = json!({
                "versions": versions, "total": usage.total, "exceeding": usage.exceeding,
                "exceedingBytes": usage.exceeding_bytes,
            });
            output::print(&serde_json::to_string_pretty(&document)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = vec![["ID", "REF", "OF", "UNIQUE", "SHARED", "LAST USED"].map(str::to_owned).to_vec()];
        for Measured { version, unique, shared } in &usage.versions {
            rows.push(vec![
                find::short_id(version),
                version.reference.clone(),
                version.title.clone(),
                byte_size::human_in_table(*unique),
                byte_size::human_in_table(*shared),
                ago(version.used),
            ]);
        }
        output::print(&show::cut_table(&rows, &NAMES, output::columns(self.no_trunc)))?;
        output::print(&format!("Total: {}", byte_size::human(usage.total)))?;
        if !usage.exceeding.is_empty() {
            let (count, bytes) =
                (show::count(usage.exceeding.len(), "version"), byte_size::human(usage.exceeding_bytes));
            output::print(&format!("Beyond the limits: {count}, up to {bytes}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let references = self.references;
        let document = on_caches(self.target, async |caches| {
            let (all, mut documents, mut shown) = (caches.versions().await?, Vec::new(), HashSet::new());
            for given in &references {
                for version in find::required(&all, given)? {
                    if shown.insert(version.id.clone()) {
                        documents.push(contents_json(&version, &caches.inspect(&version).await?));
                    }
                }
            }
            Ok(Value::Array(documents))
        })?;
        output::print(&serde_json::to_string_pretty(&document)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn time(time: SystemTime) -> String {
    let stamp = Timestamp::from(time);
    Timestamp { seconds: stamp.seconds, nanos: 0 }.to_string()
}

fn json_of(version: &CacheVersion) -> Value {
    json!({
        "id": version.id, "shortId": find::short_id(version), "ref": version.reference, "part": version.part, "of": version.title, "mode": version.mode,
        "builder": version.builder, "created": time(version.created), "used": time(version.used),
        "root": version.root, "layers": version.layers, "size": version.bytes,
    })
}

fn usage_json(usage: &Measured) -> Value {
    let mut document = json_of(&usage.version);
    document["unique"] = json!(usage.unique);
    document["shared"] = json!(usage.shared);
    document
}

fn contents_json(version: &CacheVersion, contents: &Contents) -> Value {
    let mut document = json_of(version);
    document["config"] = json!(contents.config);
    document["records"] = json!(contents.records);
    document["results"] = json!(contents.results);
    document["missingLayers"] = json!(contents.missing);
    document["layers"] = json!(contents.layers);
    document
}
