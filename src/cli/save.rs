//! `linkspan save`.

mod sink;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use serde_json::json;

use super::extent::{Extent, SelectedPart};
use super::progress::ProgressMode;
use super::read_leases::ReadLeases;
use super::settings::TargetSettings;
use super::{CommandError, Leftover, block_on, engine, output, show};
use crate::engine::Engine;
use crate::engine::images::Images;
use crate::image::{Digest, Graph, Kind, Reference};
use crate::output::Output as _;
use crate::output::archive::{Archive, ArchiveFormat, Saved};
use crate::source::{Source, SourceError, Verified};

pub(super) use sink::{SaveError, Sink};

/// Saves images to an archive.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Save {
    /// The images: names, digests, or beginnings of those
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,

    /// The file to write; `-` is standard output. An existing file is replaced when the new one is complete
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    output: PathBuf,

    /// The format: `docker` is an OCI image layout with a `manifest.json` for the platform of this machine, which is what
    /// docker saves and every tool reads; `oci` is the layout alone
    #[arg(long, value_enum, value_name = "docker|oci", default_value_t, hide_possible_values = true)]
    format: FormatFlag,

    #[command(flatten)]
    extent: Extent,

    /// Say nothing
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON object for each image, one a line; not together with an archive on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

const EXAMPLES: &str = "\
`docker load`, `ctr image import`, `linkspan load`, skopeo and crane read the
archive. Of an image that is there for some of its platforms only, these are
saved, under the index as it is: so it keeps its digest, as with
`docker save`.

Examples:
  linkspan save -o demo.tar demo
  linkspan save demo registry.example/app:1 | ssh host docker load
  linkspan save --format oci --platform linux/arm64 -o app.tar \\
    registry.example/app:1
  linkspan save --to unix:///run/linkspan/export.sock -o demo.tar demo

Exit code: 0 when all of them were saved, 1 when one was not (nothing is left
then), 2 for a wrong command line.";

/// The values of `--format`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum FormatFlag {
    #[default]
    Docker,
    Oci,
}

/// An image that goes into the archive.
struct SelectedImage {
    graph: Arc<Graph>,
    names: Vec<Reference>,
}

impl Save {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let Self { references, output, format, extent, quiet, json, target } = self;
        if json && output == Path::new("-") {
            return Err(SaveError::Mixed.into());
        }
        let (_, target) = engine::target(target)?;
        let format = match format {
            FormatFlag::Docker => ArchiveFormat::Save,
            FormatFlag::Oci => ArchiveFormat::Oci,
        };
        let mode = ProgressMode::of(quiet || json);
        let held = ReadLeases::default();
        let saving = super::interruptible(async {
            // Opened first: a terminal is refused before the engine is asked.
            let sink = Sink::open(&output)?;
            let save = async |engine: Arc<dyn Engine>, images: Arc<dyn Images>| {
                let selected = find(&*engine, &images, &references, &extent, mode, &held).await?;
                let absent = absent(&*images, selected.iter().map(|image| &*image.graph)).await?;
                let saved: Vec<_> =
                    selected.iter().map(|image| Saved { graph: &image.graph, names: &image.names }).collect();
                let archive = Archive::of(&saved, format, &absent).map_err(SaveError::Archive)?;
                let bytes = archive.size();
                write(Arc::new(archive), images, sink, mode).await?;
                report(&selected, bytes, &output, json, mode)
            };
            engine::reading(&target, save).await
        });
        block_on(async {
            let saved = saving.await.map_err(|error| match error {
                CommandError::Interrupted { signal, .. } if output == Path::new("-") => {
                    CommandError::Interrupted { signal, left: Leftover::HalfAnArchive }
                }
                error => error,
            });
            held.end().await;
            saved
        })??;
        Ok(ExitCode::SUCCESS)
    }
}

/// The images to save, those with the same root as one.
async fn find(
    engine: &dyn Engine,
    images: &Arc<dyn Images>,
    references: &[String],
    extent: &Extent,
    mode: ProgressMode,
    held: &ReadLeases,
) -> Result<Vec<SelectedImage>, CommandError> {
    let mut selected = Vec::<SelectedImage>::new();
    for given in references {
        let root = engine::resolve(engine, &**images, given).await?;
        let SelectedPart { root, graph, note } = extent.take(images, &root).await?;
        if let Some(part) = note.filter(|_| mode != ProgressMode::Quiet) {
            let kind = engine.identity().kind;
            output::note(&format!("{kind} holds only a part of `{given}`; {part} saved, and named by the whole index"));
        }
        let name = engine::name(&**images, given).await?;
        match selected.iter_mut().find(|image| image.graph.root().digest == root.digest) {
            Some(known) => known.names.extend(name.filter(|name| !known.names.contains(name))),
            None => {
                let graph = Arc::new(match graph {
                    Some(graph) => graph,
                    None => engine::graph(&**images, root).await?,
                });
                held.add(engine, &graph, "save").await;
                selected.push(SelectedImage { graph, names: name.into_iter().collect() });
            }
        }
    }
    Ok(selected)
}

/// The foreign layers that the source lacks.
pub(super) async fn absent<'a>(
    source: &dyn Source,
    graphs: impl IntoIterator<Item = &'a Graph>,
) -> Result<HashSet<Digest>, CommandError> {
    let mut absent = HashSet::new();
    for layer in graphs.into_iter().flat_map(Graph::leaves).filter(|leaf| leaf.kind() == Kind::ForeignLayer) {
        match source.open(layer, 0).await {
            Ok(_) => {}
            Err(SourceError::NotFound { .. }) => _ = absent.insert(layer.digest.clone()),
            Err(error) => return Err(SaveError::Read(error).into()),
        }
    }
    Ok(absent)
}

/// Writes `archive`, whose blobs are read from `source`. A blob that is damaged there fails it: no archive is left that others
/// would find to be corrupt.
pub(super) async fn write(
    archive: Arc<Archive>,
    source: Arc<dyn Source>,
    mut sink: Sink,
    mode: ProgressMode,
) -> Result<(), CommandError> {
    let (gauge, size) = (mode.gauge(archive.size()), archive.size());
    let mut chunks = archive.read(Arc::new(Verified(source)), 0);
    let mut written = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(SaveError::Read)?;
        written += chunk.len() as u64;
        sink.write(&chunk).await?;
        gauge.set(written);
    }
    debug_assert_eq!(written, size);
    sink.finish().await?;
    gauge.end();
    Ok(())
}

fn report(
    selected: &[SelectedImage],
    bytes: u64,
    to: &Path,
    json: bool,
    mode: ProgressMode,
) -> Result<(), CommandError> {
    for SelectedImage { graph, names } in selected {
        let root = graph.root();
        let texts: Vec<_> = names.iter().map(ToString::to_string).collect();
        if json {
            let image = json!({
                "names": texts, "digest": root.digest, "mediaType": root.media_type,
                "blobs": graph.blobs(), "blobBytes": graph.bytes(), "file": to,
            });
            output::print(&image.to_string())?;
        } else if mode != ProgressMode::Quiet {
            // On stderr, because stdout may be the archive.
            match &names[..] {
                [] => output::note(&format!("Saved image ID: {}", root.digest)),
                names => names.iter().for_each(|name| output::note(&format!("Saved image: {}", name.familiar()))),
            }
        }
    }
    if !json && mode != ProgressMode::Quiet {
        output::note(&format!("wrote {}", show::size(bytes)));
    }
    Ok(())
}
