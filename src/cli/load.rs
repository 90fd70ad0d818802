//! `linkspan load`.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::abandoned::AbandonedLeases;
use super::copy::{Copy, LoadOptions};
use super::engine::Target;
use super::progress::ProgressMode;
use super::report::Transfer;
use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, output};
use crate::config::Config;
use crate::engine::{ClusterAddress, EngineError};
use crate::export::{ExportError, Exports, Request};
use crate::image::{Digest, Platform, Reference};
use crate::source::archive::{Archive, ArchiveError, SavedImage};
use crate::source::{BlobLookup, Choice, Source, choose};

/// Loads images from an archive or a layout folder; sends only what the engine lacks.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Load {
    /// The same as --input; for a cluster (`--to kind://CLUSTER`) also the names of images of docker, where no such files exist
    #[arg(value_name = "FILE|DIR|-|IMAGE", conflicts_with = "input")]
    files: Vec<PathBuf>,

    /// An OCI archive, an archive of `docker save`, or the folder of an OCI image layout; `-` is standard input. Archives
    /// may be compressed (gzip, zstd, xz, bzip2)
    #[arg(short, long, value_name = "FILE|DIR|-", default_value = "-")]
    input: PathBuf,

    /// Name the image so, instead of as in the archive; only for an archive with one image; can be repeated
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<Reference>,

    /// Load only the image for this platform, of an index of several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,

    /// Say only what was loaded
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON object for each image, one a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

const EXAMPLES: &str = "\
An archive from a pipe, or a compressed one, is first copied into an unnamed
file in $TMPDIR, without the blobs that the engine has. An uncompressed file
is read in place.

Examples:
  linkspan load image.tar
  docker save demo | linkspan load --engine containerd --namespace k8s.io
  linkspan load -i ./layout -t registry.example/demo:1 --json
  linkspan load -i image.tar --to unix:///run/linkspan/export.sock
  linkspan load demo:1 other:1 --to kind://dev
  linkspan load -i image.tar --to ssh://user@host

Exit code: 0 when every image was loaded, 1 when one was not, 2 for a wrong
command line, 130 or 143 when it was interrupted: the blobs sent by then are
kept for an hour, and the next load resumes from them. docker's API alone
(--engine docker-api) keeps layers that were complete, for up to a day.";

impl Load {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        if let Some((names, cluster)) = from_docker(&self.files, &self.target)? {
            let Self { tag, platform, quiet, json, target, .. } = self;
            let to = cluster.to_string();
            let copy = Copy::of_docker(cluster, LoadOptions { platform, quiet, json, engine: target.engine });
            let flags = copy.repeated();
            let loaded = copy.load(&names, &tag);
            return loaded.map_err(|error| CommandError::FromDocker { error: Box::new(error), names, to, flags });
        }
        // `-to kind://dev` is a tag `o`, and an address among the files.
        let address = self.files.iter().filter_map(|file| file.to_str()).find(|file| file.contains("://"));
        let address = address.map(str::to_owned);
        let mut files = self.files.into_iter();
        let input = files.next().unwrap_or(self.input);
        if files.next().is_some() || address.is_some() {
            return Err(CommandError::OneArchive { address });
        }
        let is_stdin = input == Path::new("-");
        if is_stdin && std::io::stdin().is_terminal() {
            return Err(CommandError::NoInput);
        }
        let Self { tag, platform, quiet, json, target, .. } = self;
        let (config, target) = engine::target(target)?;
        let load = Loading { tag, platform, mode: ProgressMode::of(quiet || json), json };
        block_on(load.run(&config, &target, (!is_stdin).then_some(input)))??;
        Ok(ExitCode::SUCCESS)
    }
}

/// The files that an OCI image layout has (image-spec `image-layout.md`).
const LAYOUT_FILES: [&str; 2] = ["oci-layout", "index.json"];

/// How images are loaded.
struct Loading {
    tag: Vec<Reference>,
    platform: Option<Platform>,
    mode: ProgressMode,
    json: bool,
}

impl Loading {
    async fn run(&self, config: &Config, target: &Target, input: Option<PathBuf>) -> Result<(), CommandError> {
        let exports = engine::exports(config, target).await?;
        let left = AbandonedLeases::of(exports.engine()).await;
        let archive =
            open(&exports, input.as_deref()).await.map_err(|error| no_file(error, input.as_deref(), target))?;
        if let Some(remark) = archive.remark() {
            output::note(remark);
        }
        let images = archive.images().to_vec();
        if !self.tag.is_empty() && images.len() > 1 {
            return Err(CommandError::TagOfMany { images: images.len() });
        }
        let archive = Arc::new(archive);
        let loading = async {
            let mut roots = Vec::new();
            for image in &images {
                roots.push(self.load(&exports, &archive, image).await?);
            }
            Ok(roots)
        };
        let roots = super::exporting(&exports, loading).await?;
        left.release(&roots).await;
        Ok(())
    }

    /// Loads an image and returns its root.
    async fn load(
        &self,
        exports: &Exports,
        archive: &Arc<Archive>,
        image: &SavedImage,
    ) -> Result<Digest, CommandError> {
        let Choice { root, only } = choose(&**archive, &image.root, self.platform.as_ref()).await?;
        let names = if self.tag.is_empty() { &image.names } else { &self.tag };
        if self.mode != ProgressMode::Quiet {
            if self.tag.is_empty() {
                for name in &image.unusable {
                    let name = name.escape_debug();
                    output::note(&format!("the archive names it `{name}`, which is no image name; name it with -t"));
                }
            }
            if let Some(platform) = &only
                && self.platform.is_none()
            {
                output::note(&format!("the archive holds only a part of the image; {platform} is loaded"));
            }
        }
        let source: Arc<dyn Source> = archive.clone();
        let request = Request::new(root.clone(), names.clone(), engine::origin("load"));
        let names = request.names.clone();
        let (outcome, tally) = self.mode.show(|events| exports.run(request, source, events)).await;
        let outcome = outcome.map_err(|error| match error {
            ExportError::Engine(error @ EngineError::Corrupt { .. }) => CommandError::Damaged {
                archive: archive.name().to_owned(),
                image: names.first().map_or_else(|| root.digest.to_string(), Reference::familiar),
                error: Box::new(error),
            },
            error => error.into(),
        })?;
        let tally = tally.of(exports.engine().identity(), outcome);
        let id = exports.engine().knows_as(&root.digest);
        Transfer { verb: "Loaded", root: &root, id, names: &names, outcome, tally }.report(self.json, self.mode)?;
        Ok(root.digest)
    }
}

/// The names of the images of docker that are to be loaded into a cluster, and the cluster, where `inputs` are no files and no
/// layouts.
fn from_docker(
    inputs: &[PathBuf],
    target: &TargetSettings,
) -> Result<Option<(Vec<String>, ClusterAddress)>, CommandError> {
    // A folder that is called like an image is usually that of its Dockerfile.
    let is_other_folder = |input: &Path| input.is_dir() && LAYOUT_FILES.iter().all(|file| !input.join(file).exists());
    let is_file =
        |input: &Path| input == Path::new("-") || (input.symlink_metadata().is_ok() && !is_other_folder(input));
    let name = |input: &PathBuf| {
        let name = input.to_str().filter(|name| !is_file(input) && name.parse::<Reference>().is_ok());
        name.map(str::to_owned)
    };
    let names: Option<Vec<_>> = inputs.iter().map(name).collect();
    let Some(names) = names.filter(|names| !names.is_empty()) else { return Ok(None) };
    Ok(engine::cluster(target)?.map(|cluster| (names, cluster)))
}

/// The error where an image was named for a daemon, and no such file exists: a copy takes images, too.
fn no_file(error: CommandError, input: Option<&Path>, target: &Target) -> CommandError {
    let name = input.and_then(Path::to_str).and_then(|text| Some((text, text.parse::<Reference>().ok()?)));
    match (error, name, target) {
        (CommandError::Archive(error @ ArchiveError::Io { .. }), Some((name, _)), Target::Daemon(daemon))
            if !Path::new(name).exists() =>
        {
            let command = format!("linkspan copy docker-daemon:{name} {}", daemon.address);
            CommandError::NoFile { error: Box::new(error), command }
        }
        (error, ..) => error,
    }
}

/// Opens the archive at `input`, or on standard input. Of a stream, blobs that the engine of `exports` has are not kept.
async fn open(exports: &Exports, input: Option<&Path>) -> Result<Archive, CommandError> {
    // If the engine cannot be read, every blob is kept.
    let known = exports.engine().images().ok().map(|images| Arc::new(images) as Arc<dyn BlobLookup>);
    let format = engine::manifest_format(&**exports.engine());
    Ok(match input {
        Some(path) => Archive::open(path, format, known).await?,
        None => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(CommandError::Input)?;
            Archive::of_file("standard input".to_owned(), stdin.into(), format, known).await?
        }
    })
}
