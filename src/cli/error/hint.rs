//! What users can do about errors of commands.

use super::CommandError;
use crate::caches::CacheError;
use crate::cli::save::SaveError;
use crate::config::DEFAULT_EXPORT_LISTEN;
use crate::engine::select::DEFAULT_DOCKER_HOST;
use crate::engine::{BY_DOCKER, EngineError, EngineKind};
use crate::export::ExportError;
use crate::net::Barrier;
use crate::source::SourceError;

impl CommandError {
    /// What a user can do about it. Commands in it get `flags`, so that they use the same engine.
    pub(in crate::cli) fn hint(&self, flags: &str) -> Option<String> {
        match self {
            Self::OneArchive { address: Some(address) } => Some(format!("did you mean `--to {address}`?")),
            Self::NotOurs(_) => Some(
                "`linkspan copy NAME docker://HOST/NAME` sends an image to a registry, and `linkspan copy docker://HOST/NAME \
                 docker-daemon:` gets one"
                    .to_owned(),
            ),
            Self::OneArchive { address: None } => Some(
                "load one after the other; several names are taken of images of docker, with `--to kind://CLUSTER`"
                    .to_owned(),
            ),
            Self::FromDocker { error, names, to, flags } => match &**error {
                Self::NoImage { given, .. } => Some(format!(
                    "`linkspan images{flags}` lists the images of docker; an archive is named by its path, and none is called `{given}`"
                )),
                Self::Engine(EngineError::NotOffered { engine, .. }) if *engine == EngineKind::DockerClassic.name() => {
                    Some(format!(
                        "docker's classic store can only be read by docker: `docker save {} | linkspan load --to {to}`",
                        names.join(" ")
                    ))
                }
                Self::Engine(error @ EngineError::Permission { .. }) => error.hint(),
                error => error.hint(flags),
            },
            Self::Config(error) => error.hint(),
            Self::Daemon(error) => error.hint(),
            Self::Setup(error) => error.hint(),
            Self::PluginSetup(error) => error.hint(),
            Self::Globals(error) => error.hint(),
            // A daemon that finds its engine by itself has docker or containerd, and neither a cluster nor what else flags name.
            Self::Engine(error @ EngineError::Permission { .. })
                if is_of_docker(flags) =>
            {
                error.hint().map(|hint| {
                    format!("{hint}; or go through a daemon that runs as root: `--to {DEFAULT_EXPORT_LISTEN}`")
                })
            }
            Self::Engine(error) if flags.contains(" --engine containerd") => {
                error.hint().map(|hint| hint.trim_end_matches(BY_DOCKER).to_owned())
            }
            Self::Engine(error) => error.hint(),
            Self::DoorClosed { .. } => Some(format!(
                "start `linkspan serve`, or name the docker that is meant: `--docker-host {DEFAULT_DOCKER_HOST}`"
            )),
            Self::NoFolder { .. } => Some("name the folder of a layout: `oci:DIR[:NAME]`".to_owned()),
            Self::Damaged { .. } => Some("save the image again, or copy it from elsewhere".to_owned()),
            Self::WrongDoor { export: Some(address), .. } | Self::NoDoor { export: Some(address), .. } => {
                Some(format!("the export door is {address}"))
            }
            Self::NoDoor { export: None, .. } => {
                Some("start `linkspan serve --export-listen ADDR`, and name its address".to_owned())
            }
            Self::HasTls { .. } => Some(
                "if it is Linkspan's, name the authority with --tls-ca (LINKSPAN_TO_TLS_CA), such as the `ca.crt` of its \
                 --listen-tls-dir; and a certificate with --tls-cert and --tls-key, if it wants one"
                    .to_owned(),
            ),
            Self::WrongDoor { export: None, .. } => {
                Some("start `linkspan serve` with --export-listen and another address".to_owned())
            }
            Self::Dial { address, .. } => Some(format!(
                "see that `linkspan serve --export-listen {address}` runs, and that you may use its socket"
            )),
            Self::NoDaemon => Some(
                "set that variable, or start `linkspan serve --export-listen unix:///path/export.sock`, and name that address"
                    .to_owned(),
            ),
            Self::Denied { barrier: barrier @ Barrier::Folder(_), .. } => Some(barrier.remedy()),
            Self::Denied { barrier, .. } => {
                Some(format!("{}; `linkspan serve --group NAME` chooses whose group may use it", barrier.remedy()))
            }
            Self::Export(ExportError::Engine(EngineError::Corrupt { .. })) => {
                Some("the source is damaged: save the image again, or copy it from elsewhere".to_owned())
            }
            Self::Export(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            Self::Choice(error) => error.hint(),
            Self::Save(SaveError::Terminal) => {
                Some(format!("name a file with -o, or pipe it on: `linkspan save{flags} demo | docker load`"))
            }
            Self::Save(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Publish(error) => error.hint(),
            Self::Elsewhere(error) => error.hint(),
            Self::NoLayout { .. } => {
                Some(format!("name one with --layout, or make one: `linkspan load{flags} -i image.tar`"))
            }
            Self::Cache(CacheError::Unknown { .. }) => {
                Some(format!("`linkspan cache ls{flags}` lists the caches and their ids"))
            }
            Self::Cache(CacheError::Source(SourceError::Read { .. })) => {
                Some("see that it can be read, and run the command again".to_owned())
            }
            Self::Cache(error) => error.hint(),
            Self::CacheFolder(error) => error.hint(),
            Self::NoInput => Some(format!("name it with -i, or pipe it in: `docker save demo | linkspan load{flags}`")),
            Self::TagOfMany { .. } => Some("leave -t out: the images then keep their names".to_owned()),
            Self::NotNamed { example, .. } => {
                Some(format!("name one, as in `{example}`; `linkspan images{flags}` lists them"))
            }
            Self::IsFile { meant, image, .. } => {
                let image = image.as_ref().map_or_else(String::new, |image| format!("; an image of that name is `{image}`"));
                Some(format!("say `{meant}`{image}"))
            }
            Self::NoFile { command, .. } => Some(format!("name an archive that exists; an image of docker is sent by `{command}`")),
            Self::ManyInArchive { names, .. } => {
                let named = match names.first() {
                    Some(name) => format!("name one behind the file, as in `docker-archive:FILE:{name}`; "),
                    None => String::new(),
                };
                Some(format!("{named}`linkspan load{flags} -i FILE` loads all of them"))
            }
            Self::NobodyToAsk => Some("--yes mends all of it, and --dry-run shows it".to_owned()),
            Self::IntoArchive => Some("copy into a layout folder, `oci:DIR:NAME`".to_owned()),
            Self::NoImage { .. } | Self::NoImageRoot { .. } => {
                Some(format!("`linkspan images{flags}` lists the images"))
            }
            Self::ManyNames { .. } => Some("name one of these, or remove all of them with --force".to_owned()),
            Self::DigestAsName { .. } => Some("name it by a tag".to_owned()),
            Self::Ambiguous { .. } => Some("give more of the digest".to_owned()),
            _ => None,
        }
    }
}

/// Whether the engine of a command with these flags is the docker of this machine, which is also that of a daemon that finds its
/// engine by itself.
fn is_of_docker(flags: &str) -> bool {
    let has_other = |flag: &str| {
        let value = flags.split_once(flag).map(|(_, rest)| rest);
        value.is_some_and(|value| !value.starts_with("docker") && !value.starts_with("auto"))
    };
    let names_other = [" --to ", " --namespace ", " --docker-host "].iter().any(|flag| flags.contains(flag));
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !names_other && !has_other(" --engine ") && !["LINKSPAN_TO", "LINKSPAN_ENGINE"].into_iter().any(is_set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_named_where_it_leads_to_the_same_images() {
        for (flags, is_named) in [
            ("", true),
            (" --engine docker", true),
            (" --config x.toml --engine docker-api", true),
            (" --to kind://dev", false),
            (" --engine kind://dev", false),
            (" --engine containerd --namespace k8s.io", false),
            (" --docker-host ssh://far", false),
        ] {
            let (engine, address) = ("containerd", "unix:///run/containerd/containerd.sock".to_owned());
            let error = CommandError::Engine(EngineError::Permission { engine, address });
            let hint = error.hint(flags).unwrap();
            assert_eq!(hint.contains("--to unix:///run/linkspan/export.sock"), is_named, "{flags}: {hint}");
            assert_eq!(hint.contains("docker-api"), !flags.contains("--engine containerd"), "{flags}: {hint}");
        }
        // Images of docker that are to go into a cluster come from docker alone.
        let address = "unix:///no/docker.sock".to_owned();
        let error = CommandError::Engine(EngineError::Permission { engine: "docker", address });
        let (names, to) = (vec!["a:1".to_owned()], "kind://dev".to_owned());
        let error = CommandError::FromDocker { error: Box::new(error), names, to, flags: String::new() };
        assert!(!error.hint(" --to kind://dev").unwrap().contains("--to"));
    }

    #[test]
    fn what_docker_lacks_is_looked_for_in_docker_and_not_in_the_cluster() {
        let of = |error: CommandError| CommandError::FromDocker {
            error: Box::new(error),
            names: vec!["a:1".to_owned(), "b:1".to_owned()],
            to: "kind://dev".to_owned(),
            flags: " --engine docker".to_owned(),
        };
        let absent = of(CommandError::NoImage { given: "b:1".to_owned(), engine: "docker at x".to_owned() });
        let hint = absent.hint(" --to kind://dev").unwrap();
        assert!(hint.starts_with("`linkspan images --engine docker` lists") && hint.ends_with("`b:1`"), "{hint}");
        assert_eq!((absent.to_string().as_str(), absent.code()), ("docker at x has no image `b:1`", 1));
        let engine = EngineKind::DockerClassic.name();
        let classic = of(CommandError::Engine(EngineError::NotOffered { engine, what: "reading its images" }));
        let hint = classic.hint("").unwrap();
        assert!(hint.contains("`docker save a:1 b:1 | linkspan load --to kind://dev`"), "{hint}");
        assert_eq!(of(CommandError::TagOfMany { images: 2 }).code(), CommandError::TagOfMany { images: 2 }.code());
    }
}
