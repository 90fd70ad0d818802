//! `linkspan copy`.

mod input;
mod location;
mod no_engine;

use std::process::ExitCode;

use clap::Args;

use self::input::From;
use self::location::ImageLocation;
use super::abandoned::AbandonedLeases;
use super::client_tls::ClientTls;
use super::engine::Target;
use super::extent::{Extent, SelectedPart};
use super::progress::ProgressMode;
use super::read_leases::ReadLeases;
use super::report::Transfer;
use super::settings::{EngineSettings, TargetSettings};
use super::{CommandError, block_on, engine, output, repeat};
use crate::engine::{ClusterAddress, EngineKind};
use crate::export::{Exports, Request};
use crate::image::{Platform, Reference};

/// Copies an image from one engine into another; sends only what that lacks.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Copy {
    /// The location of the image
    #[arg(value_name = "SRC")]
    from: ImageLocation,

    /// The location to copy to; without a name the image keeps its own
    #[arg(value_name = "DST")]
    to: ImageLocation,

    #[command(flatten)]
    extent: Extent,

    /// Say only what was copied
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    /// Use registries without TLS; those of this host (`localhost`, 127.0.0.0/8) are always used so
    #[arg(long)]
    plain_http: bool,

    #[command(flatten)]
    engine: EngineSettings,
}

const EXAMPLES: &str = "\
Locations, spelled as skopeo does:
  docker-daemon:[NAME]         the docker of --docker-host
  containerd:NAMESPACE[/NAME]  a namespace of the containerd of
                               --containerd-address
  unix:///PATH[:NAME], PATH[:NAME], tcp://HOST:PORT[/NAME]
                               the engine behind a daemon
                               (`serve --export-listen`); on another
                               machine with LINKSPAN_TO_TLS_CA, _CERT, _KEY
  ssh://[USER@]HOST[:PORT]/[SOCKET][:NAME]
                               the engine behind a daemon on another machine,
                               by ssh; NAME alone: ssh://HOST/:NAME
  oci:DIR[:NAME]               an OCI image layout
  kind://[CLUSTER][?nodes=A,B][:NAME], k3d://…
                               every node of a cluster whose nodes are
                               containers of --docker-host
  s3://BUCKET/PREFIX[:NAME]    a bucket of an object store; also gs:// and az://
  oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
                               an archive; NAME picks one of its images, or
                               names the new one
  docker://HOST/NAME[:TAG]     a registry, with the credentials of
                               `docker login`
  NAME                         the engine of --engine

Examples:
  linkspan copy docker-daemon:demo:1 containerd:k8s.io
  linkspan copy containerd:k8s.io/registry.example/app:1 oci:./layout
  linkspan copy oci:./layout:demo:1 docker-daemon:demo:2
  linkspan copy docker-daemon:demo:1 unix:///run/linkspan/export.sock:
  linkspan copy docker-daemon:demo:1 ssh://user@host
  linkspan copy docker://registry.example/app:1 docker-daemon:
  linkspan copy docker-daemon:demo:1 kind://
  linkspan copy demo:1 docker://localhost:5000/demo:1
  linkspan copy demo:1 docker-archive:demo.tar

Exit code: 0 when it was copied, 1 when it was not, 2 for a wrong command
line, 130 or 143 when it was interrupted: the blobs sent by then are kept for
an hour, and the next copy resumes from them.";

/// What a load has in common with a copy.
pub(super) struct LoadOptions {
    pub(super) platform: Option<Platform>,
    pub(super) quiet: bool,
    pub(super) json: bool,
    pub(super) engine: EngineSettings,
}

impl Copy {
    /// The flags that name the engine of this command, for commands in hints: the source engine, else the target.
    pub(super) fn repeated(&self) -> String {
        let is_engine =
            |location: &ImageLocation| !matches!(location, ImageLocation::Archive(..) | ImageLocation::Registry(_));
        let location = if is_engine(&self.from) { &self.from } else { &self.to };
        let EngineSettings { config, docker_host, containerd_address, .. } = &self.engine;
        let config = repeat::flags([("config", config.as_deref())]);
        let rest = match location {
            ImageLocation::Docker(_) => {
                repeat::flags([("engine", self.docker_kind()), ("docker-host", docker_host.as_deref())])
            }
            ImageLocation::Containerd(namespace, _) => repeat::flags([
                ("engine", Some("containerd")),
                ("containerd-address", containerd_address.as_deref()),
                ("namespace", Some(namespace)),
            ]),
            ImageLocation::Layout(folder, _) => {
                repeat::flags([("engine", Some("layout")), ("layout", Some(folder.display().to_string().as_str()))])
            }
            ImageLocation::Object(bucket, _) => {
                repeat::flags([("engine", Some("object")), ("object", Some(bucket.to_string().as_str()))])
            }
            ImageLocation::Cluster(cluster, _) => {
                repeat::flags([("engine", Some(cluster.to_string().as_str())), ("docker-host", docker_host.as_deref())])
            }
            ImageLocation::Daemon(address, _) => return repeat::flags([("to", Some(address.to_string().as_str()))]),
            ImageLocation::Configured(_) => return self.engine.repeated(),
            ImageLocation::Archive(..) | ImageLocation::Registry(_) => return String::new(),
        };
        config + &rest
    }

    /// The engine by which other commands find the docker of `docker-daemon:`, where they would not find it without.
    fn docker_kind(&self) -> Option<&'static str> {
        let config = engine::beside_contexts(self.engine.clone().into());
        match config.map(|config| config.engine.kind) {
            Ok(Some(EngineKind::DockerApi)) => Some(EngineKind::DockerApi.name()),
            Ok(Some(_)) => Some("auto"),
            _ => std::env::var_os(engine::TO).map(|_| "auto"),
        }
    }

    /// The copies of images of docker to every node of `cluster`.
    pub(super) fn of_docker(cluster: ClusterAddress, options: LoadOptions) -> Self {
        let LoadOptions { platform, quiet, json, engine } = options;
        let (from, to) = (ImageLocation::Docker(None), ImageLocation::Cluster(cluster, None));
        let extent = Extent { platform, one_platform: false };
        Self { from, to, extent, quiet, json, plain_http: false, engine }
    }

    pub(super) fn run(mut self) -> Result<ExitCode, CommandError> {
        for location in [&self.from, &self.to] {
            let Some((meant, path)) = location.meant() else { continue };
            let what = match (path.is_dir(), path.exists()) {
                (true, _) => "the folder of a layout here",
                (_, true) => "a file here",
                _ => "called like an archive",
            };
            let image = matches!(location, ImageLocation::Configured(_)).then(|| path.to_str()).flatten();
            let image = image.and_then(|name| name.parse::<Reference>().ok()).map(|name| name.familiar());
            return Err(CommandError::IsFile { path: path.display().to_string(), what, meant, image });
        }
        let from = std::mem::replace(&mut self.from, ImageLocation::Docker(None));
        self.run_as("Copied", &[from], &[])
    }

    /// Loads the images of docker that are called `images`, one after the other, with the connections of one command; as
    /// `as_names`, if there are any.
    pub(super) fn load(self, images: &[String], as_names: &[Reference]) -> Result<ExitCode, CommandError> {
        if images.len() > 1 && !as_names.is_empty() {
            return Err(CommandError::TagOfMany { images: images.len() });
        }
        let from: Vec<_> = images.iter().map(|name| ImageLocation::Docker(Some(name.clone()))).collect();
        self.run_as("Loaded", &from, as_names)
    }

    /// Copies what is at each of `from`; `verb` is what the report says.
    fn run_as(
        self,
        verb: &'static str,
        from: &[ImageLocation],
        as_names: &[Reference],
    ) -> Result<ExitCode, CommandError> {
        let Self { from: _, to, extent, quiet, json, plain_http, engine } = self;
        let (config, configured) = engine::target(TargetSettings { to: None, tls: ClientTls::default(), engine })?;
        let mode = ProgressMode::of(quiet || json);
        block_on(async {
            let find = |from| From { from, config: &config, configured: &configured, extent: &extent, plain_http };
            let Some((target, name)) = to.engine(&config, &configured) else {
                for from in from {
                    no_engine::Copying { find: find(from), to: &to, mode, json }.run().await?;
                }
                return Ok(ExitCode::SUCCESS);
            };
            let name = name.map(str::parse::<Reference>).transpose()?;
            let first = engine::exports(&config, &target).await?;
            let left = AbandonedLeases::of(first.engine()).await;
            let format = engine::manifest_format(&**first.engine());
            // A daemon accepts complete images only.
            let takes_parts = matches!(target, Target::Engine(_));
            if from.len() > 1 {
                // Nothing is loaded where one is absent, as with `kind load`.
                for from in from {
                    super::interruptible(find(from).exists()).await?;
                }
            }
            let mut roots = Vec::new();
            for (number, from) in from.iter().enumerate() {
                // Exports end with their image; the engine stays, and its connections.
                let next = (number > 0).then(|| Exports::with_policy(first.engine().clone(), engine::policy(&config)));
                let exports = next.as_ref().unwrap_or(&first);
                let held = ReadLeases::default();
                let find = find(from);
                let finding = find.found(format, takes_parts, &held);
                let found = match super::interruptible(finding).await {
                    Ok(found) => found,
                    Err(error) => {
                        held.end().await;
                        return Err(error);
                    }
                };
                let names = match as_names {
                    [] => name.clone().map_or(found.names, |name| vec![name]),
                    names => names.to_vec(),
                };
                let pushed = pushed(from, &to);
                let origin = engine::origin("copy");
                let SelectedPart { root, graph, .. } = found.taken;
                let request = Request::new(root.clone(), names, origin);
                let names = request.names.clone();
                let copying = async {
                    let copy = async |events| match graph {
                        Some(graph) => exports.run_part(request, graph, found.source, events).await,
                        None => exports.run(request, found.source, events).await,
                    };
                    let (copied, tally) = mode.show(copy).await;
                    Ok((copied?, tally))
                };
                let copied = super::exporting(exports, copying).await;
                held.end().await;
                let (outcome, tally) = copied?;
                let tally = tally.of(exports.engine().identity(), outcome);
                let id = exports.engine().knows_as(&root.digest);
                Transfer { verb, root: &root, id, names: &names, outcome, tally }.report(json, mode)?;
                if let Some(push) = pushed.filter(|_| !quiet) {
                    output::note(&format!("linkspan: note: it is only named here; `{push}` sends it to that registry"));
                }
                roots.push(root.digest);
                if let Some(left) = found.left {
                    left.release(&[]).await;
                }
            }
            left.release(&roots).await;
            Ok(ExitCode::SUCCESS)
        })?
    }
}

/// The command that sends an image to the registry that its new name names, where the copy only names it in the same engine.
fn pushed(from: &ImageLocation, to: &ImageLocation) -> Option<String> {
    let (ImageLocation::Configured(from), ImageLocation::Configured(to)) = (from, to) else { return None };
    // Docker Hub is what names have that name no registry.
    let host = to.split_once('/')?.0;
    (host == "localhost" || host.contains(['.', ':'])).then(|| format!("linkspan copy {from} docker://{to}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_only_names_an_image_says_how_it_is_pushed() {
        let command = |from: &str, to: &str| pushed(&from.parse().unwrap(), &to.parse().unwrap());
        let push = command("demo", "localhost:5000/demo:1");
        assert_eq!(push.as_deref(), Some("linkspan copy demo docker://localhost:5000/demo:1"));
        assert!(command("demo", "registry.example/team/demo").is_some());
        for (from, to) in [
            ("demo", "demo:2"),
            ("demo", "team/demo:2"),
            ("demo", "docker://localhost:5000/demo"),
            ("docker://localhost:5000/demo", "localhost:5000/demo"),
            ("demo", "docker-daemon:localhost:5000/demo"),
        ] {
            assert_eq!(command(from, to), None, "{from} {to}");
        }
    }
}
