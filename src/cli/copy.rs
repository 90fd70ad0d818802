//! `linkspan copy`.

mod elsewhere;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::engine::{Shelf, Target};
use super::extent::{Extent, Taken};
use super::hold::Held;
use super::left::Left;
use super::progress::{Manner, summary};
use super::settings::{EngineSettings, TargetSettings};
use super::{CommandError, block_on, engine, output, repeat};
use crate::config::Config;
use crate::engine::EngineKind;
use crate::engine::select::{DEFAULT_DOCKER_HOST, Selection};
use crate::export::{Outcome, Request};
use crate::image::{Descriptor, Platform, Reference, ReferenceError};
use crate::proxy::{Address, AddressError};
use crate::registry::Registry;
use crate::source::archive::{Archive, Form, SavedImage};
use crate::source::{Choice, Holding, Source, choose};

/// Copies an image from one engine into another; sends only what that lacks.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Copy {
    /// Where the image is
    #[arg(value_name = "SRC")]
    from: Place,

    /// Where it goes; without a name it keeps the one it has
    #[arg(value_name = "DST")]
    to: Place,

    /// Copy only the image for this platform, of an index of several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,

    /// Copy only the image for this machine's platform, or the only one that is there, and not the index that names it
    #[arg(long, conflicts_with = "platform")]
    one_platform: bool,

    /// Say only what was copied
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    /// Speak to registries without TLS; with those of this host (`localhost`, 127.0.0.0/8) that is always so
    #[arg(long)]
    plain_http: bool,

    #[command(flatten)]
    engine: EngineSettings,
}

const EXAMPLES: &str = "\
Places, spelled as skopeo does:
  docker-daemon:[NAME]             the docker of --docker-host
  containerd:NAMESPACE[/NAME]      a namespace of the containerd of --containerd-address
  unix:///PATH[:NAME], PATH[:NAME], tcp://HOST:PORT[/NAME]
                                   the engine behind a daemon (`serve --export-listen`)
  oci:DIR[:NAME]                   an OCI image layout
  oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
                                   an archive; NAME says which of its images, or what the new one is called
  docker://HOST/NAME[:TAG]         a registry, with the credentials of `docker login`
  NAME                             the engine of --engine

Examples:
  linkspan copy docker-daemon:demo:1 containerd:k8s.io
  linkspan copy containerd:k8s.io/registry.example/app:1 oci:./layout
  linkspan copy oci:./layout:demo:1 docker-daemon:demo:2
  linkspan copy docker-daemon:demo:1 unix:///run/linkspan/export.sock:
  linkspan copy docker://registry.example/app:1 docker-daemon:
  linkspan copy demo:1 docker://localhost:5000/demo:1
  linkspan copy demo:1 docker-archive:demo.tar

Exit code: 0 when it was copied, 1 when it was not, 2 for a wrong command line, 130 or 143 when it was interrupted: what
was sent by then is kept for an hour for the next try.";

/// Which readers an archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArchiveKind {
    Oci,
    Docker,
}

/// Where an image is or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Docker(Option<String>),
    Containerd(String, Option<String>),
    Layout(PathBuf, Option<String>),
    Archive(ArchiveKind, PathBuf, Option<String>),
    Registry(Reference),
    Daemon(Address, Option<String>),
    Configured(String),
}

/// The places whose names are long enough to be told from those of images.
const PLACES: [&str; 4] = ["docker-daemon", "containerd", "oci-archive", "docker-archive"];
/// How many letters may be wrong, missing, added or swapped in a name that is taken for one of them.
const SLIP: usize = 2;

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let is_path = text.starts_with(['/', '.']);
        if kind == text && !is_path {
            return Ok(Self::Configured(text.to_owned()));
        }
        match kind {
            "docker-daemon" => Ok(Self::Docker(name(rest))),
            "containerd" => match rest.split_once('/') {
                _ if rest.is_empty() || rest.starts_with('/') => {
                    Err("expected a namespace, as in `containerd:k8s.io/NAME`".to_owned())
                }
                Some((namespace, rest)) => Ok(Self::Containerd(namespace.to_owned(), name(rest))),
                None => Ok(Self::Containerd(rest.to_owned(), None)),
            },
            "oci" => match rest.split_once(':') {
                _ if rest.is_empty() || rest.starts_with(':') => {
                    Err("expected a folder, as in `oci:DIR:NAME`".to_owned())
                }
                Some((folder, rest)) => Ok(Self::Layout(folder.into(), name(rest))),
                None => Ok(Self::Layout(rest.into(), None)),
            },
            "oci-archive" | "docker-archive" if rest.is_empty() || rest.starts_with(':') => {
                Err(format!("expected a file, as in `{kind}:image.tar`"))
            }
            "oci-archive" | "docker-archive" => {
                let (file, rest) = rest.split_once(':').unwrap_or((rest, ""));
                let kind = if kind == "oci-archive" { ArchiveKind::Oci } else { ArchiveKind::Docker };
                Ok(Self::Archive(kind, file.into(), name(rest)))
            }
            "docker" if rest.starts_with("//") => {
                let name = rest[2..].parse().map_err(|error: ReferenceError| error.to_string())?;
                Ok(Self::Registry(name))
            }
            "unix" | "tcp" if rest.starts_with("//") => {
                // No path of a socket holds a colon, and no authority a slash.
                let at = if kind == "unix" { rest.find(':') } else { rest[2..].find('/').map(|at| at + 2) };
                let (address, rest) = at.map_or((rest, ""), |at| (&rest[..at], &rest[at + 1..]));
                let address = format!("{kind}:{address}").parse().map_err(|error: AddressError| error.to_string())?;
                Ok(Self::Daemon(address, name(rest)))
            }
            // No image's name begins so.
            _ if text.starts_with(['/', '.']) => {
                let (address, rest) = text.split_once(':').unwrap_or((text, ""));
                Ok(Self::Daemon(address.parse().map_err(|error: AddressError| error.to_string())?, name(rest)))
            }
            // `docker:dind` is an image.
            "docker" => Ok(Self::Configured(text.to_owned())),
            "dir" | "containers-storage" | "ostree" => {
                Err(format!("`{kind}:` is no engine; skopeo copies from there into `oci:DIR:NAME`"))
            }
            "oci-layout" => Err("`oci-layout:` is no place; a layout in a folder is `oci:DIR:NAME`".to_owned()),
            "tarball" => {
                Err("`tarball:` is no place; an archive is `oci-archive:FILE` or `docker-archive:FILE`".to_owned())
            }
            // Taken for an image, a slip of the pen would end well, and not where it was meant to.
            _ => match PLACES.iter().find(|place| strsim::osa_distance(kind, place) <= SLIP) {
                Some(place) => {
                    let image = text.parse::<Reference>();
                    let image = image.map_or_else(|_| String::new(), |name| format!(" The image is `{name}`."));
                    Err(format!("`{kind}:` is no place; is `{place}:` meant?{image}"))
                }
                None => Ok(Self::Configured(text.to_owned())),
            },
        }
    }
}

impl Place {
    /// The engine that is meant, and the image in it; `None` for an archive and a registry. `target` is meant where only an image is named.
    fn engine<'a>(&'a self, config: &Config, target: &Target) -> Option<(Target, Option<&'a str>)> {
        let selection = config.engine.clone();
        let (selection, name) = match self {
            Self::Docker(name) => {
                // Whichever store it has.
                let docker_host = Some(selection.docker_host.unwrap_or_else(|| DEFAULT_DOCKER_HOST.to_owned()));
                (Selection { kind: None, docker_host, namespace: None, layout: None, ..selection }, name.as_deref())
            }
            Self::Containerd(namespace, name) => {
                let namespace = Some(namespace.clone());
                (
                    Selection { kind: Some(EngineKind::Containerd), namespace, layout: None, ..selection },
                    name.as_deref(),
                )
            }
            Self::Layout(folder, name) => {
                let selection =
                    Selection { kind: Some(EngineKind::Layout), layout: Some(folder.clone()), ..Selection::default() };
                (selection, name.as_deref())
            }
            Self::Configured(name) => return Some((target.clone(), Some(name.as_str()))),
            Self::Daemon(address, name) => return Some((Target::Daemon(address.clone()), name.as_deref())),
            Self::Archive(..) | Self::Registry(_) => return None,
        };
        Some((Target::Engine(selection), name))
    }
}

/// An image to be copied.
struct Found {
    left: Option<Left>,
    source: Arc<dyn Source>,
    taken: Taken,
    names: Vec<Reference>,
}

impl Copy {
    /// The flags by which another command means the engine that is copied from, or that an archive goes to.
    pub(super) fn repeated(&self) -> String {
        let is_engine = |place: &Place| !matches!(place, Place::Archive(..) | Place::Registry(_));
        let place = if is_engine(&self.from) { &self.from } else { &self.to };
        let EngineSettings { config, docker_host, containerd_address, .. } = &self.engine;
        let config = repeat::flags([("config", config.as_deref())]);
        let rest = match place {
            Place::Docker(_) => repeat::flags([("engine", Some("docker")), ("docker-host", docker_host.as_deref())]),
            Place::Containerd(namespace, _) => repeat::flags([
                ("engine", Some("containerd")),
                ("containerd-address", containerd_address.as_deref()),
                ("namespace", Some(namespace)),
            ]),
            Place::Layout(folder, _) => {
                repeat::flags([("engine", Some("layout")), ("layout", Some(folder.display().to_string().as_str()))])
            }
            Place::Daemon(address, _) => return repeat::flags([("to", Some(address.to_string().as_str()))]),
            Place::Configured(_) => return self.engine.repeated(),
            Place::Archive(..) | Place::Registry(_) => return String::new(),
        };
        config + &rest
    }

    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let Self { from, to, platform, one_platform, quiet, json, plain_http, engine } = self;
        let (config, configured) = engine::target(TargetSettings { to: None, engine })?;
        let manner = Manner::of(quiet || json);
        block_on(async {
            let extent = Extent { platform, one_platform };
            let find = From { from: &from, config: &config, configured: &configured, extent: &extent, plain_http };
            let Some((target, name)) = to.engine(&config, &configured) else {
                elsewhere::Copying { find, to: &to, manner, json }.run().await?;
                return Ok(ExitCode::SUCCESS);
            };
            let name = name.map(str::parse::<Reference>).transpose()?;
            let exports = engine::exports(&config, &target).await?;
            let left = Left::of(exports.engine()).await;
            let form = engine::form(&**exports.engine());
            // A daemon takes whole images.
            let takes_parts = matches!(target, Target::Engine(_));
            let held = Held::default();
            let finding = find.found(form, takes_parts, &held);
            let found = match super::interruptible(finding).await {
                Ok(found) => found,
                Err(error) => {
                    held.end().await;
                    return Err(error);
                }
            };
            let names = name.map_or(found.names, |name| vec![name]);
            let origin = engine::origin("copy");
            let Taken { root, graph, .. } = found.taken;
            let request = Request { root: root.clone(), names: names.clone(), origin };
            let copying = async {
                let copy = async |events| match graph {
                    Some(graph) => exports.run_part(request, graph, found.source, events).await,
                    None => exports.run(request, found.source, events).await,
                };
                let (copied, unpacked) = manner.show(copy).await;
                Ok((copied?, unpacked))
            };
            let copied = super::exporting(&exports, copying).await;
            held.end().await;
            report(&root, &names, copied?, json, manner)?;
            left.release(&[root.digest]).await;
            if let Some(left) = found.left {
                left.release(&[]).await;
            }
            Ok(ExitCode::SUCCESS)
        })?
    }
}

/// Where an image is looked for, and how much of it.
#[derive(Clone, Copy)]
struct From<'a> {
    from: &'a Place,
    config: &'a Config,
    configured: &'a Target,
    extent: &'a Extent,
    plain_http: bool,
}

impl From<'_> {
    /// The image; `form` is for archives that have no manifests of their own.
    async fn found(&self, form: Form, takes_parts: bool, held: &Held) -> Result<Found, CommandError> {
        let extent = self.extent;
        let (selection, given) = match self.from {
            Place::Archive(_, file, name) => {
                let archive = Archive::open(file, form, None).await?;
                let image = image_of(archive.images(), name.as_deref())?.clone();
                let taken = take(&archive, &image.root, extent, takes_parts, "the archive").await?;
                return Ok(Found { left: None, source: Arc::new(archive), taken, names: image.names });
            }
            Place::Registry(name) => {
                let registry = Registry::new(name, self.plain_http).await?;
                let mut taken = Taken { root: registry.resolve().await?, graph: None, note: None };
                if extent.platform.is_some() || extent.one_platform {
                    taken = extent.take(&registry, &taken.root).await?;
                }
                let names = if name.digest().is_some() { Vec::new() } else { vec![name.clone()] };
                return Ok(Found { left: None, source: Arc::new(registry), taken, names });
            }
            // Only those two are no engine.
            place => place.engine(self.config, self.configured).ok_or(CommandError::IntoArchive)?,
        };
        let (engine, images) = engine::images(&selection).await?;
        let left = Some(Left::of(&engine).await);
        let given = match given {
            Some(given) => given.to_owned(),
            None => engine::only(&*engine, &*images).await?,
        };
        let root = engine::resolve(&*engine, &*images, &given).await?;
        let taken = take(&Shelf(images.clone()), &root, extent, takes_parts, engine.identity().kind.name()).await?;
        let names = engine::name(&*images, &given).await?.into_iter().collect();
        // What is wrong with its documents is said by the export.
        let graph = match &taken.graph {
            Some(graph) => Ok(graph.clone()),
            None => engine::graph(&*images, taken.root.clone()).await,
        };
        if let Ok(graph) = graph {
            held.add(&*engine, &Arc::new(graph), "copy").await;
        }
        Ok(Found { left, source: images, taken, names })
    }
}

/// The only image of an archive, or the one that is called `name` in it.
fn image_of<'a>(images: &'a [SavedImage], name: Option<&str>) -> Result<&'a SavedImage, CommandError> {
    match (name, images) {
        (None, [image]) => Ok(image),
        (None, images) => Err(CommandError::ManyInArchive { images: images.len() }),
        (Some(given), images) => {
            let name: Reference = given.parse()?;
            let found = images.iter().find(|image| image.names.contains(&name));
            found.ok_or_else(|| CommandError::NoImage { given: given.to_owned(), engine: "the archive".to_owned() })
        }
    }
}

/// What is there of an image, as far as it was asked for and the target takes it. What is left out is said.
async fn take(
    from: &dyn Holding,
    root: &Descriptor,
    extent: &Extent,
    takes_parts: bool,
    holder: &str,
) -> Result<Taken, CommandError> {
    let is_open = extent.platform.is_none() && !extent.one_platform;
    if is_open && !takes_parts {
        let Choice { root, only } = choose(from, root, None).await?;
        if let Some(platform) = only {
            output::note(&format!("{holder} holds only a part of the image; {platform} is copied"));
        }
        return Ok(Taken { root, graph: None, note: None });
    }
    let taken = extent.take(from, root).await?;
    if let Some(part) = &taken.note {
        output::note(&format!("{holder} holds only a part of the image; {part} copied, and named by the whole index"));
    }
    Ok(taken)
}

fn report(
    root: &Descriptor,
    names: &[Reference],
    (outcome, unpacked): (Outcome, usize),
    json: bool,
    manner: Manner,
) -> Result<(), CommandError> {
    if json {
        let Outcome { sent_blobs, sent_bytes, present_blobs } = outcome;
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        return output::print(
            &json!({
                "names": names, "digest": root.digest, "mediaType": root.media_type,
                "sentBlobs": sent_blobs, "sentBytes": sent_bytes, "presentBlobs": present_blobs,
            })
            .to_string(),
        );
    }
    if names.is_empty() {
        output::print(&format!("Copied image ID: {}", root.digest))?;
    }
    for name in names {
        output::print(&format!("Copied image: {}", name.familiar()))?;
    }
    if manner != Manner::Quiet {
        output::note(&summary(outcome, unpacked));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spelled_as_skopeo_does() {
        let some = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("docker-daemon:demo:1", Place::Docker(some("demo:1"))),
            ("docker-daemon:", Place::Docker(None)),
            ("containerd:k8s.io/example.com/a:1", Place::Containerd("k8s.io".to_owned(), some("example.com/a:1"))),
            ("containerd:k8s.io", Place::Containerd("k8s.io".to_owned(), None)),
            ("oci:./dir:demo:1", Place::Layout("./dir".into(), some("demo:1"))),
            ("oci:/dir", Place::Layout("/dir".into(), None)),
            ("docker-archive:a.tar", Place::Archive(ArchiveKind::Docker, "a.tar".into(), None)),
            ("oci-archive:/b.tar:demo:1", Place::Archive(ArchiveKind::Oci, "/b.tar".into(), some("demo:1"))),
            ("docker://alpine", Place::Registry("alpine".parse().unwrap())),
            ("docker://localhost:5000/a/b:1", Place::Registry("localhost:5000/a/b:1".parse().unwrap())),
            ("unix:///run/a.sock:demo:1", Place::Daemon("unix:///run/a.sock".parse().unwrap(), some("demo:1"))),
            ("unix:///run/a.sock:", Place::Daemon("unix:///run/a.sock".parse().unwrap(), None)),
            ("unix:///run/a.sock", Place::Daemon("unix:///run/a.sock".parse().unwrap(), None)),
            ("tcp://[::1]:80/a/b:1", Place::Daemon("tcp://[::1]:80".parse().unwrap(), some("a/b:1"))),
            ("/run/a.sock", Place::Daemon("unix:///run/a.sock".parse().unwrap(), None)),
            ("/run/a.sock:demo:1", Place::Daemon("unix:///run/a.sock".parse().unwrap(), some("demo:1"))),
            ("tcp://localhost:80", Place::Daemon("tcp://localhost:80".parse().unwrap(), None)),
            ("demo:1", Place::Configured("demo:1".to_owned())),
            ("docker:dind", Place::Configured("docker:dind".to_owned())),
            ("localhost:5000/demo:1", Place::Configured("localhost:5000/demo:1".to_owned())),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        let slip = |text: &str| text.parse::<Place>().unwrap_err();
        assert_eq!(slip("oci-archve:/x.tar"), "`oci-archve:` is no place; is `oci-archive:` meant?");
        assert!(slip("containers:1").ends_with("The image is `docker.io/library/containers:1`."));
        for text in [
            "containerd:",
            "containerd:/a",
            "oci:",
            "oci::1",
            "oci-archive:",
            "oci-archive::x",
            "docker://",
            "docker://Upper/Case",
            "dir:/x",
            "oci-layout:/x",
            "tarball:/x",
            "oci-archve:x.tar",
            "docker-deamon:demo:1",
            "containrd:k8s.io",
            "unix://x",
            "tcp://x",
        ] {
            text.parse::<Place>().unwrap_err();
        }
    }
}
