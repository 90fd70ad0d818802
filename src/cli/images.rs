//! `linkspan images`.

mod filter;
mod format;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use prost_types::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use self::filter::{Ages, Filter, NameFilter};
use self::format::ListFormat;
use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, output};
use crate::engine::Engine;
use crate::engine::images::{Images, Record};
use crate::image::{Descriptor, Platform, Reference};
use crate::source::tree::{Image, Tree};

/// Lists the images of the engine.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct List {
    /// Only images of this repository, or with this name; may be a pattern with `*`, `?` and `[a-z]`
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<NameFilter>,

    /// Accepted for compatibility with docker; all images are always shown
    #[arg(short, long)]
    all: bool,

    /// Only images that match: `dangling=BOOL`, `label=KEY[=VALUE]`, `reference=PATTERN`, `before=REF`,
    /// `since=REF` or `until=TIME`; can be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,

    /// The output format: `table`, `json`, or a template such as `{{.Repository}}:{{.Tag}}`, in a table after the word
    /// `table`; it can name .ID, .Repository, .Tag, .Digest, .CreatedSince, .CreatedAt and .Size
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["quiet", "json"])]
    format: Option<ListFormat>,

    /// Show ids in full, and do not cut names and digests to the width of the terminal
    #[arg(long)]
    no_trunc: bool,

    /// Show digests
    #[arg(long)]
    digests: bool,

    /// Print image ids only
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON object for each image, one a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

const EXAMPLES: &str = "\
The id of an image is the digest of its root. SIZE is what its blobs take as
they are, over all platforms that are there.

Examples:
  linkspan images
  linkspan images --digests demo
  linkspan images 'team/*:1' \\
    --format '{{.Repository}}:{{.Tag}} {{.Size}}'
  linkspan images --filter dangling=true -q
  linkspan images -q --engine layout --layout ./layout
  linkspan images --to unix:///run/linkspan/export.sock";

impl List {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let Self { name, all: _, filter, format, no_trunc, digests, quiet, json, target } = self;
        let filters: Vec<_> = filter.into_iter().chain(name.map(Filter::Reference)).collect();
        let (_, target) = engine::target(target)?;
        let needs_facts = filters.iter().any(|filter| !matches!(filter, Filter::Reference(_) | Filter::Dangling(_)));
        block_on(engine::reading(&target, async |engine, images| {
            let ages = ages(&*engine, &*images, &filters).await?;
            let (mut rows, mut shown, mut partly) = (Vec::new(), std::collections::HashSet::new(), Vec::new());
            for record in engine::all(&*images).await? {
                let is_match = |facts: &Facts| filter::is_match(&filters, &record, facts, &ages);
                // Facts that no filter and no column needs are not read.
                if !needs_facts && !is_match(&Facts::default()) {
                    continue;
                }
                let facts =
                    if quiet && !needs_facts { Facts::default() } else { Facts::of(&*images, &record.target).await };
                if needs_facts && !is_match(&facts) {
                    continue;
                }
                let spread = if quiet { None } else { spread(&*images, &record).await? };
                if let Some((with, of)) = spread.as_ref().filter(|(with, of)| with.len() < *of && !json) {
                    let name = record.name.as_deref().unwrap_or_default();
                    let name = name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar());
                    partly.push(format!(
                        "linkspan: note: {name} ({}) is on {} of {of} nodes: {}",
                        id(&record.target, no_trunc),
                        with.len(),
                        with.join(", ")
                    ));
                }
                match (quiet, json) {
                    (true, _) if !shown.insert(record.target.digest.clone()) => {}
                    (true, _) => output::print(&id(&record.target, no_trunc))?,
                    (_, true) => output::print(&facts.json(&record, spread).to_string())?,
                    _ => rows.push(facts.row(&record, no_trunc)),
                }
            }
            if !quiet && !json {
                // Templates are for programs.
                let text = match format {
                    Some(format) => format.print(&rows),
                    None => ListFormat::usual(digests).print_within(&rows, output::columns(no_trunc)),
                };
                if !text.is_empty() {
                    output::print(&text)?;
                }
            }
            partly.iter().for_each(|note| output::note(note));
            Ok(ExitCode::SUCCESS)
        }))?
    }
}

/// The nodes of a cluster on which a record is, and how many there are; `None` in other engines.
async fn spread(images: &dyn Images, record: &Record) -> Result<Option<(Vec<String>, usize)>, CommandError> {
    let Some(Ok(name)) = record.name.as_deref().map(str::parse::<Reference>) else { return Ok(None) };
    let places = images.places(&name).await?;
    let is_it = |root: &Option<Descriptor>| root.as_ref().is_some_and(|root| root.digest == record.target.digest);
    let with = places.iter().filter(|(_, root)| is_it(root)).map(|(node, _)| node.clone()).collect();
    Ok((!places.is_empty()).then_some((with, places.len())))
}

/// The ages of the images that the filters name.
async fn ages(engine: &dyn Engine, images: &dyn Images, filters: &[Filter]) -> Result<Ages, CommandError> {
    let mut ages = Ages::default();
    for filter in filters {
        let (Filter::Before(given) | Filter::Since(given)) = filter else { continue };
        let root = engine::resolve(engine, images, given).await?;
        let found = Facts::of(images, &root).await.created.as_deref().and_then(age);
        let (reason, given) = ("it has no time of creation".to_owned(), given.clone());
        let found = found.ok_or(CommandError::NoDocument { given, reason })?;
        match filter {
            Filter::Before(_) => ages.before = Some(ages.before.map_or(found, |other| other.max(found))),
            _ => ages.since = Some(ages.since.map_or(found, |other| other.min(found))),
        }
    }
    Ok(ages)
}

/// The id of an image as docker shows it.
fn id(root: &Descriptor, is_whole: bool) -> String {
    if is_whole { root.digest.to_string() } else { root.digest.hex()[..12].to_owned() }
}

/// One image of a list.
#[derive(Debug)]
struct Row {
    id: String,
    repository: String,
    tag: String,
    digest: String,
    age: Option<Duration>,
    created_at: String,
    /// `None` if its root is absent.
    size: Option<u64>,
}

/// The facts about an image.
#[derive(Debug, Default)]
struct Facts {
    /// `None` if its root is absent.
    size: Option<u64>,
    /// The time of creation in the config (RFC 3339).
    created: Option<String>,
    labels: HashMap<String, String>,
}

impl Facts {
    /// Images that are incomplete are listed as well.
    async fn of(images: &dyn Images, root: &Descriptor) -> Self {
        let Ok(tree) = engine::tree(images, root).await else { return Self::default() };
        let mut size = 0_u64;
        for blob in tree.blobs() {
            size = size.saturating_add(images.readable_size(&blob.digest).await.ok().flatten().unwrap_or(0));
        }
        let Config { created, config } = config(&tree).unwrap_or_default();
        Self { size: Some(size), created, labels: config.and_then(|config| config.labels).unwrap_or_default() }
    }

    fn row(&self, record: &Record, no_trunc: bool) -> Row {
        let (repository, tag) = repository_and_tag(record);
        let created = self.created.as_deref();
        let digest = record.target.digest.to_string();
        let (age, created_at) = (created.and_then(age), created.and_then(created_at));
        let created_at = created_at.unwrap_or_else(|| "N/A".to_owned());
        Row { id: id(&record.target, no_trunc), repository, tag, digest, age, created_at, size: self.size }
    }

    /// `spread` is on which of an engine's nodes it is, and how many there are.
    fn json(&self, record: &Record, spread: Option<(Vec<String>, usize)>) -> Value {
        let (repository, tag) = repository_and_tag(record);
        let mut row = json!({
            "name": record.name, "repository": repository, "tag": tag, "digest": record.target.digest,
            "mediaType": record.target.media_type, "created": self.created, "size": self.size,
        });
        if let Some((with, of)) = spread {
            row["onNodes"] = with.len().into();
            row["nodeNames"] = with.into();
            row["nodes"] = of.into();
        }
        row
    }
}

/// Repository and tag as docker shows them.
fn repository_and_tag(record: &Record) -> (String, String) {
    let none = || "<none>".to_owned();
    let Some(name) = &record.name else { return (none(), none()) };
    let Ok(reference) = name.parse::<Reference>() else { return (name.clone(), none()) };
    let familiar = reference.familiar();
    let repository = familiar.split('@').next().unwrap_or_default();
    let repository = match reference.tag() {
        Some(tag) => repository.strip_suffix(tag).and_then(|rest| rest.strip_suffix(':')).unwrap_or(repository),
        None => repository,
    };
    (repository.to_owned(), reference.tag().map_or_else(none, str::to_owned))
}

/// The fields of a config that are shown.
#[derive(Debug, Default, Deserialize)]
struct Config {
    created: Option<String>,
    config: Option<Settings>,
}

/// The container settings in a config.
#[derive(Debug, Default, Deserialize)]
struct Settings {
    #[serde(rename = "Labels")]
    labels: Option<HashMap<String, String>>,
}

/// The config of the image for this machine, else of the first image with a config.
fn config(tree: &Tree) -> Option<Config> {
    let config = |image: Image<'_>| tree.document(&image.manifest?.1.config.digest);
    let own = tree.image_for(&Platform::host()).and_then(config);
    let config = own.or_else(|| tree.images().into_iter().find_map(config))?;
    serde_json::from_slice(&config.bytes).ok()
}

/// An RFC 3339 time as docker shows it, to the second.
fn created_at(time: &str) -> Option<String> {
    age(time)?;
    let zone = time.get(19..)?.trim_start_matches(|letter: char| letter == '.' || letter.is_ascii_digit());
    let zone = match zone {
        "Z" | "z" => "+0000 UTC".to_owned(),
        zone => format!("{0} {0}", zone.replace(':', "")),
    };
    Some(format!("{} {} {zone}", time.get(..10)?, time.get(11..19)?))
}

/// How long ago an RFC 3339 time was; `None` if it does not parse or is before 1970 (Go's zero time).
fn age(time: &str) -> Option<Duration> {
    // The parser also accepts a date alone.
    let then = time.contains(['T', 't', ' ']).then(|| time.parse::<Timestamp>().ok())??;
    let then = SystemTime::try_from(then).ok().filter(|then| *then >= UNIX_EPOCH)?;
    Some(SystemTime::now().duration_since(then).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (time, then) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.123456789Z", 951_825_600),
            ("2024-03-01T01:00:00+01:00", 1_709_251_200),
        ] {
            assert!(age(time).unwrap().as_secs().abs_diff(now - then) <= 1, "{time}");
        }
        for time in ["", "0001-01-01T00:00:00Z", "2024", "2024-13-01T00:00:00Z", "abcd-ef-ghTij:kl:mnZ"] {
            assert_eq!(age(time), None, "{time}");
        }
    }

    #[test]
    fn names_are_split_as_docker_does() {
        let target = Descriptor::new("", crate::image::Digest::sha256(b""), 0);
        for (name, expected) in [
            (Some("docker.io/library/alpine:3"), ("alpine", "3")),
            (Some("docker.io/team/app:latest"), ("team/app", "latest")),
            (Some("localhost:5000/app:1"), ("localhost:5000/app", "1")),
            (Some("NOT a name"), ("NOT a name", "<none>")),
            (None, ("<none>", "<none>")),
        ] {
            let record = Record { name: name.map(str::to_owned), target: target.clone() };
            let (repository, tag) = repository_and_tag(&record);
            assert_eq!((&*repository, &*tag), expected);
        }
    }
}
