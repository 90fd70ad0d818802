//! `linkspan manifest`, `linkspan config` and `linkspan digest`: an image's documents, byte by byte as they are.

use std::process::ExitCode;

use clap::Args;

use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, output};
use crate::engine::Engine;
use crate::image::{Document, Graph, Platform, View};

/// Which image of the engine is meant.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Which {
    /// Its name, its digest, or the beginning of that
    #[arg(value_name = "REF")]
    reference: String,

    /// The image for this platform, of an index of several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,

    #[command(flatten)]
    target: TargetSettings,
}

const EXAMPLES: &str = "\
Examples:
  linkspan manifest demo | jq .layers
  linkspan config --platform linux/arm64 registry.example/app:1
  linkspan digest --engine containerd --namespace k8s.io registry.example/app:1
  linkspan digest --to unix:///run/linkspan/export.sock demo

Exit code: 0 when it was printed, 1 when it is not there, 2 for a wrong command line.";

/// What is to be printed.
#[derive(Debug, Clone, Copy)]
enum What {
    Manifest,
    Config,
    Digest,
}

impl Which {
    /// The root, or the manifest for a platform if one is named.
    pub(super) fn manifest(self) -> Result<ExitCode, CommandError> {
        self.print(What::Manifest)
    }

    /// The config: of this machine's image if the root is an index and no platform is named.
    pub(super) fn config(self) -> Result<ExitCode, CommandError> {
        self.print(What::Config)
    }

    /// The digest of what [`Which::manifest`] prints.
    pub(super) fn digest(self) -> Result<ExitCode, CommandError> {
        self.print(What::Digest)
    }

    fn print(self, what: What) -> Result<ExitCode, CommandError> {
        let (_, target) = engine::target(self.target)?;
        let (reference, platform) = (self.reference, self.platform);
        block_on(async {
            let (engine, images) = engine::images(&target).await?;
            let root = engine::resolve(&*engine, &*images, &reference).await?;
            if matches!((what, &platform), (What::Digest, None)) {
                output::print(root.digest.as_str())?;
                return Ok(ExitCode::SUCCESS);
            }
            let graph = engine::graph(&*images, root).await?;
            let document = choose(&*engine, &graph, &reference, what, platform.as_ref())?;
            match what {
                What::Digest => output::print(document.descriptor.digest.as_str())?,
                What::Manifest | What::Config => output::raw(&document.bytes)?,
            }
            Ok(ExitCode::SUCCESS)
        })?
    }
}

fn choose<'a>(
    engine: &dyn Engine,
    graph: &'a Graph,
    given: &str,
    what: What,
    platform: Option<&Platform>,
) -> Result<&'a Document, CommandError> {
    let absent = |reason: String| CommandError::NoDocument { given: given.to_owned(), reason };
    let root = graph.document(&graph.root().digest);
    let root = root.ok_or_else(|| absent(format!("{} does not hold its root", engine.identity().kind)))?;
    // A single image is itself, whatever this machine is.
    if platform.is_none()
        && let (What::Config, View::Manifest(manifest)) = (what, &root.view)
    {
        let config = graph.document(&manifest.config.digest);
        return config.ok_or_else(|| absent("its config is no image config".to_owned()));
    }
    if platform.is_none() && !matches!(what, What::Config) {
        return Ok(root);
    }
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let (manifest, _, config, _) =
        graph.image_for(wanted).ok_or_else(|| absent(format!("it has no image for {wanted}")))?;
    Ok(if matches!(what, What::Config) { config } else { manifest })
}
