//! `linkspan publish static`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde_json::json;

use super::extent::{Extent, SelectedPart};
use super::progress::{ProgressMode, summary};
use super::read_leases::ReadLeases;
use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, interruptible, output, save};
use crate::engine::images::Images;
use crate::engine::{BucketAddress, BucketAddressError, Engine, ObjectVariables};
use crate::export::Outcome;
use crate::image::{Graph, Reference};
use crate::publish::{Bucket, Folder, Publication, PublishError, Site, Written};
use crate::source::Source;

/// Publishes images where others pull them
#[derive(Debug, Args)]
pub(super) struct Publish {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, Subcommand)]
enum Way {
    Static(Static),
}

/// Writes images as the files of a registry that can only be read, for a static file server, a bucket or a CDN
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
struct Static {
    /// The images: names with tags
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,

    /// A folder, which is created, or a bucket: `s3://BUCKET/PREFIX`, also gs:// and az://
    #[arg(value_name = "DEST", value_parser = NonEmptyStringValueParser::new())]
    dest: String,

    #[command(flatten)]
    extent: Extent,

    /// Say only what was published
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: TargetSettings,
}

const EXAMPLES: &str = "\
What is there already is not written again, and a tag is written after all
that it names. In a bucket each object has its media type. A folder has the
types of its files in `nginx-locations.conf`, to be included in the `server`
whose root it is. Whoever reaches the files can pull; nobody can push.

Examples:
  linkspan publish static app:1 app:latest /srv/registry
  linkspan publish static ghcr.io/o/app:1 s3://public-images
  linkspan publish static --engine layout --layout ./images app:1 ./site

Exit code: 0 when all of them were published, 1 when one was not, 2 for a
wrong command line.";

impl Publish {
    /// The flags that choose the engine.
    pub(super) fn repeated(&self) -> String {
        let Way::Static(Static { target, .. }) = &self.way;
        target.repeated()
    }

    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let Way::Static(Static { references, dest, extent, quiet, json, target }) = self.way;
        let (_, target) = engine::target(target)?;
        let mode = ProgressMode::of(quiet || json);
        let held = ReadLeases::default();
        block_on(async {
            let publishing = engine::reading(&target, async |engine, images| {
                let selected = find(&*engine, &images, &references, &extent, &held).await?;
                let site = site(&dest)?;
                let absent = save::absent(&*images, selected.iter().map(|(_, graph)| &**graph)).await?;
                let publications: Vec<_> =
                    selected.iter().map(|(name, graph)| Publication { graph, name, absent: &absent }).collect();
                let source: Arc<dyn Source> = Arc::new(images.clone());
                let publish = async |events| site.publish(&publications, &source, &events).await;
                let (written, _) = mode.show(publish).await;
                report(&selected, written?, json, mode)
            });
            let published = interruptible(publishing).await;
            held.end().await;
            published
        })??;
        Ok(ExitCode::SUCCESS)
    }
}

/// The site at `to`.
fn site(to: &str) -> Result<Site, CommandError> {
    if !["s3://", "gs://", "az://"].iter().any(|scheme| to.starts_with(scheme)) {
        return Ok(Folder::open(Path::new(to))?.into());
    }
    let address: BucketAddress = to.parse().map_err(|BucketAddressError { reason }| {
        CommandError::Publish(PublishError::Place { place: to.to_owned(), reason })
    })?;
    Ok(Bucket::open(&address, &ObjectVariables::default())?.into())
}

async fn find(
    engine: &dyn Engine,
    images: &Arc<dyn Images>,
    references: &[String],
    extent: &Extent,
    held: &ReadLeases,
) -> Result<Vec<(Reference, Arc<Graph>)>, CommandError> {
    let mut selected: Vec<(Reference, _)> = Vec::new();
    for given in references {
        let root = engine::resolve(engine, &**images, given).await?;
        let name = engine::name(&**images, given).await?;
        let name = name.ok_or_else(|| CommandError::DigestAsName { name: given.clone() })?;
        if selected.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let SelectedPart { root, graph, note } = extent.take(images, &root).await?;
        if let Some(part) = note {
            let kind = engine.identity().kind;
            output::note(&format!(
                "{kind} holds only a part of `{given}`; {part} published, and named by the whole index"
            ));
        }
        let graph = Arc::new(match graph {
            Some(graph) => graph,
            None => engine::graph(&**images, root).await?,
        });
        held.add(engine, &graph, "publish").await;
        selected.push((name, graph));
    }
    Ok(selected)
}

fn report(
    selected: &[(Reference, Arc<Graph>)],
    written: Written,
    json: bool,
    mode: ProgressMode,
) -> Result<(), CommandError> {
    let Written { blobs, bytes, present } = written;
    if json {
        let images =
            selected.iter().map(|(name, graph)| json!({ "name": name.to_string(), "digest": graph.root().digest }));
        let report = json!({
            "images": images.collect::<Vec<_>>(), "sentBlobs": blobs, "sentBytes": bytes, "presentBlobs": present,
        });
        return output::print(&report.to_string());
    }
    for (name, _) in selected {
        output::print(&format!("Published image: {}", name.familiar()))?;
    }
    if mode != ProgressMode::Quiet {
        output::note(&summary(Outcome { sent_blobs: blobs, sent_bytes: bytes, present_blobs: present }, 0));
    }
    Ok(())
}
