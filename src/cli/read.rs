//! `linkspan manifest`, `linkspan config` and `linkspan digest`: an image's documents, byte for byte.

use std::process::ExitCode;

use clap::Args;

use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, output};
use crate::image::{Descriptor, Digest, Document, Kind, Platform, View};
use crate::source::tree::Tree;

/// The arguments of the three commands.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct DocumentOfImage {
    /// Its name, its digest, or the beginning of that
    #[arg(value_name = "REF")]
    reference: String,

    /// The image for this platform, of an index of several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

const EXAMPLES: &str = "\
Examples:
  linkspan manifest demo | jq .layers
  linkspan config --platform linux/arm64 registry.example/app:1
  linkspan digest --engine containerd --namespace k8s.io \\
    registry.example/app:1
  linkspan digest --to unix:///run/linkspan/export.sock demo

Exit code: 0 when it was printed, 1 when it is not there, 2 for a wrong
command line.";

/// What to print.
#[derive(Debug, Clone, Copy)]
enum PrintedPart {
    Manifest,
    Config,
    Digest,
}

impl DocumentOfImage {
    /// Prints the root, or the manifest for a platform if one is named.
    pub(super) fn manifest(self) -> Result<ExitCode, CommandError> {
        self.print(PrintedPart::Manifest)
    }

    /// Prints the config: of this machine's image if the root is an index and no platform is named.
    pub(super) fn config(self) -> Result<ExitCode, CommandError> {
        self.print(PrintedPart::Config)
    }

    /// Prints the digest of the document that [`DocumentOfImage::manifest`] prints.
    pub(super) fn digest(self) -> Result<ExitCode, CommandError> {
        self.print(PrintedPart::Digest)
    }

    fn print(self, what: PrintedPart) -> Result<ExitCode, CommandError> {
        let (_, target) = engine::target(self.target)?;
        let (reference, platform) = (self.reference, self.platform);
        block_on(engine::reading(&target, async |engine, images| {
            let root = engine::resolve(&*engine, &*images, &reference).await?;
            if matches!((what, &platform), (PrintedPart::Digest, None)) {
                output::print(root.digest.as_str())?;
                return Ok(ExitCode::SUCCESS);
            }
            let tree = engine::tree(&*images, &root).await?;
            let document = choose(&tree, &root, &reference, what, platform.as_ref())?;
            match what {
                PrintedPart::Digest => output::print(document.descriptor.digest.as_str())?,
                PrintedPart::Manifest | PrintedPart::Config => output::raw(&document.bytes)?,
            }
            Ok(ExitCode::SUCCESS)
        }))?
    }
}

fn choose<'a>(
    tree: &'a Tree,
    root: &Descriptor,
    given: &str,
    what: PrintedPart,
    platform: Option<&Platform>,
) -> Result<&'a Document, CommandError> {
    let absent = |reason: String| CommandError::NoDocument { given: given.to_owned(), reason };
    let there = |digest: &Digest| tree.document(digest).ok_or_else(|| absent(format!("the engine lacks {digest}")));
    let is_single = root.kind() == Kind::Manifest;
    if platform.is_none() && !matches!(what, PrintedPart::Config) {
        return there(&root.digest);
    }
    let host = Platform::host();
    let requested = platform.unwrap_or(&host);
    let image = match tree.image_for(requested) {
        Some(image) => Some(image),
        // A single image is taken whatever its platform is.
        None if platform.is_none() && is_single => tree.images().into_iter().next(),
        None => None,
    };
    let image = image.ok_or_else(|| absent(format!("it has no image for {requested}")))?;
    let manifest = there(&image.entry.digest)?;
    match (what, &manifest.view) {
        (PrintedPart::Config, View::Manifest(view)) => there(&view.config.digest),
        _ => Ok(manifest),
    }
}
