//! `linkspan images`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, output, show};
use crate::engine::images::{Images, Query, Record};
use crate::image::{Descriptor, Platform, Reference};
use crate::source::tree::{Image, Tree};

/// Lists the images of the engine.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct List {
    /// Only images of this repository, or with this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,

    /// Show digests in full
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
The id of an image is the digest of its root. SIZE is what its blobs take as they are, over all platforms that are there.

Examples:
  linkspan images
  linkspan images --digests demo
  linkspan images -q --engine layout --layout ./layout
  linkspan images --to unix:///run/linkspan/export.sock";

impl List {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let Self { name, digests, quiet, json, target } = self;
        let (_, target) = engine::target(target)?;
        block_on(engine::reading(&target, async |_, images| {
            let mut rows = vec![header(digests)];
            let mut shown = std::collections::HashSet::new();
            for record in all(&*images).await? {
                if name.as_deref().is_some_and(|wanted| !is_wanted(&record, wanted)) {
                    continue;
                }
                if quiet {
                    if shown.insert(record.target.digest.clone()) {
                        output::print(&record.target.digest.hex()[..12])?;
                    }
                    continue;
                }
                let facts = Facts::of(&*images, &record.target).await;
                if json {
                    output::print(&facts.json(&record).to_string())?;
                } else {
                    rows.push(facts.row(&record, digests));
                }
            }
            if !quiet && !json {
                output::print(&show::table(&rows))?;
            }
            Ok(ExitCode::SUCCESS)
        }))?
    }
}

/// Every record of an engine.
pub(super) async fn all(images: &dyn Images) -> Result<Vec<Record>, CommandError> {
    let (mut query, mut records) = (Query::default(), Vec::new());
    loop {
        let page = images.list(&query).await?;
        records.extend(page.records);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(records),
        }
    }
}

/// A repository without a tag means all of its images, as with docker.
fn is_wanted(record: &Record, wanted: &str) -> bool {
    let Some(name) = record.name.as_deref() else { return false };
    let (Ok(own), Ok(reference)) = (name.parse::<Reference>(), wanted.parse::<Reference>()) else {
        return name == wanted;
    };
    let last = wanted.rsplit('/').next().unwrap_or_default();
    own.name() == reference.name() && (!last.contains([':', '@']) || own == reference)
}

fn header(digests: bool) -> Vec<String> {
    let digest = digests.then_some("DIGEST");
    ["REPOSITORY", "TAG"].into_iter().chain(digest).chain(["IMAGE ID", "CREATED", "SIZE"]).map(str::to_owned).collect()
}

/// What is found out about an image.
struct Facts {
    /// `None` if not even its root is there.
    size: Option<u64>,
    /// RFC 3339, as the config has it.
    created: Option<String>,
}

impl Facts {
    /// An image that is not all there is listed all the same.
    async fn of(images: &dyn Images, root: &Descriptor) -> Self {
        let Ok(tree) = engine::tree(images, root).await else { return Self { size: None, created: None } };
        let mut size = 0_u64;
        for blob in tree.blobs() {
            size = size.saturating_add(images.size(&blob.digest).await.ok().flatten().unwrap_or(0));
        }
        Self { size: Some(size), created: created(&tree) }
    }

    fn row(&self, record: &Record, digests: bool) -> Vec<String> {
        let (repository, tag) = repository_and_tag(record);
        let digest = record.target.digest.to_string();
        let age = self.created.as_deref().and_then(age);
        let mut row = vec![repository, tag];
        row.extend(digests.then_some(digest));
        row.push(record.target.digest.hex()[..12].to_owned());
        row.push(age.map_or_else(|| "N/A".to_owned(), show::ago));
        row.push(self.size.map_or_else(|| "incomplete".to_owned(), show::size_in_table));
        row
    }

    fn json(&self, record: &Record) -> Value {
        let (repository, tag) = repository_and_tag(record);
        json!({
            "name": record.name, "repository": repository, "tag": tag, "digest": record.target.digest,
            "mediaType": record.target.media_type, "created": self.created, "size": self.size,
        })
    }
}

/// As docker shows them.
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

/// When the image for this machine was made, else the first one that is there.
fn created(tree: &Tree) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Created {
        created: Option<String>,
    }
    let config = |image: Image<'_>| tree.document(&image.manifest?.1.config.digest);
    let own = tree.image_for(&Platform::host()).and_then(config);
    let config = own.or_else(|| tree.images().into_iter().find_map(config))?;
    serde_json::from_slice::<Created>(&config.bytes).ok()?.created
}

/// How long ago an RFC 3339 time was; `None` if it is none, or the year that stands for no time.
fn age(time: &str) -> Option<Duration> {
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let zone = time.get(19..)?.trim_start_matches(|letter: char| letter == '.' || letter.is_ascii_digit());
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            sign * (zone.get(1..3)?.parse::<i64>().ok()? * 3600 + zone.get(4..6)?.parse::<i64>().ok()? * 60)
        }
    };
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 of a date in the Gregorian calendar; the year begins in March, so that leap days come last.
    let (shifted, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let then = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.saturating_sub(Duration::from_secs(u64::try_from(then).ok()?)))
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
