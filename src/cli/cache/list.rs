//! `linkspan cache ls`, `du` and `inspect`.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::super::settings::TargetSettings;
use super::super::{CommandError, block_on, engine, output, show};
use super::{ago, caches, title};
use crate::caches::{CacheError, CacheRef, ResolvedPart, VersionUsage};
use crate::engine::caches::CacheVersion;
use crate::image::cache::CacheConfig;
use crate::source::read_document;

/// Lists the build caches of the engine
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only this cache
    #[arg(value_name = "REF")]
    reference: Option<CacheRef>,

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
pub(super) struct DiskUsage {
    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

/// Prints what is known of a build cache, as JSON
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The cache
    #[arg(value_name = "REF")]
    reference: CacheRef,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

impl List {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        let versions = block_on(async {
            let caches = caches(&config, &target).await?;
            Ok::<_, CommandError>(caches.versions(self.reference.as_ref()).await?)
        })??;
        let mut rows =
            vec![["REF", "OF", "MODE", "LAYERS", "SIZE", "CREATED", "LAST USED"].map(str::to_owned).to_vec()];
        for version in &versions {
            match (self.quiet, self.json) {
                (true, _) => output::print(&version.id)?,
                (_, true) => output::print(&json_of(version).to_string())?,
                _ => rows.push(vec![
                    version.reference.clone(),
                    title(&version.title),
                    title(&version.mode),
                    version.layers.to_string(),
                    show::size_in_table(version.bytes),
                    ago(version.created),
                    ago(version.used),
                ]),
            }
        }
        if !self.quiet && !self.json {
            output::print(&show::table(&rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl DiskUsage {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        let (usage, over) = block_on(async {
            let caches = caches(&config, &target).await?;
            Ok::<_, CommandError>((caches.usage().await?, caches.exceeding().await?))
        })??;
        if self.json {
            let versions: Vec<_> = usage.versions.iter().map(usage_json).collect();
            let exceeding: Vec<_> = over.versions.iter().map(|usage| usage.version.id.as_str()).collect();
            let document = json!({
                "versions": versions, "total": usage.total, "exceeding": exceeding, "exceedingBytes": over.bytes,
            });
            output::print(&serde_json::to_string_pretty(&document)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = vec![["REF", "OF", "SIZE", "UNIQUE", "SHARED", "LAST USED"].map(str::to_owned).to_vec()];
        for VersionUsage { version, unique, shared, .. } in &usage.versions {
            rows.push(vec![
                version.reference.clone(),
                title(&version.title),
                show::size_in_table(unique.saturating_add(*shared)),
                show::size_in_table(*unique),
                show::size_in_table(*shared),
                ago(version.used),
            ]);
        }
        output::print(&show::table(&rows))?;
        output::print(&format!("Total: {}", show::size(usage.total)))?;
        if !over.versions.is_empty() {
            let (count, bytes) = (show::count(over.versions.len(), "version"), show::size(over.bytes));
            output::print(&format!("Beyond the limits: {count}, {bytes}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (config, target) = engine::target(self.target)?;
        let document = block_on(async {
            let caches = caches(&config, &target).await?;
            let parts = caches.resolve(&self.reference).await?;
            if parts.is_empty() {
                return Err(CacheError::Unknown { reference: self.reference.to_string() }.into());
            }
            let mut documents = Vec::new();
            for part in &parts {
                let bytes = read_document(&caches.blobs(), &part.listed.config).await.map_err(CacheError::from)?;
                let config = CacheConfig::parse(&part.listed.config, &bytes).map_err(CacheError::from)?;
                documents.push(part_json(part, &config));
            }
            Ok::<_, CommandError>(Value::Array(documents))
        })??;
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
        "id": version.id, "ref": version.reference, "part": version.part, "of": version.title, "mode": version.mode,
        "builder": version.builder, "created": time(version.created), "used": time(version.used),
        "root": version.root, "layers": version.layers, "size": version.bytes,
    })
}

fn usage_json(usage: &VersionUsage) -> Value {
    let mut document = json_of(&usage.version);
    document["unique"] = json!(usage.unique);
    document["shared"] = json!(usage.shared);
    document
}

fn part_json(part: &ResolvedPart, config: &CacheConfig) -> Value {
    let mut document = json_of(&part.version);
    document["config"] = json!(part.listed.config);
    document["records"] = json!(config.records);
    document["results"] = json!(config.results);
    document["missingLayers"] = json!(part.missing);
    let mut seen = HashSet::new();
    let layers = part.listed.layers.iter().filter(|layer| seen.insert(&layer.digest));
    document["layers"] = layers.map(|layer| json!(layer)).collect();
    document
}
