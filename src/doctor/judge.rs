//! From facts to judgements. No I/O here.

use super::builder::{Answer, Probed};
use super::buildx::{self, Doors, Users};
use super::inflate::Inflate;
use super::report::{Builder, Check, Commands, Containerd, DockerDoor, Engine, Mark, Report};
use crate::config::{ConfigError, Place};
use crate::engine::select::Selected;
use crate::engine::{EngineError, doctor};
use crate::proxy::Address;

/// All that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub engine: doctor::Findings,
    pub inflate: Option<Inflate>,
    pub builders: Vec<Probed>,
    /// Where the docker door listens, and whether it is open.
    pub docker_door: Option<(Address, bool)>,
    pub users: Users,
}

pub(super) fn judge(found: &Found) -> Report {
    let Found { engine: engines, inflate, builders: probed, docker_door, users } = found;
    let mut checks = vec![engine_check(&engines.selected)];
    if let Some(containerd) = &engines.containerd {
        checks.extend(containerd_checks(containerd));
        checks.extend(inflate.as_ref().map(inflate_check));
    }
    if probed.is_empty() && docker_door.is_none() {
        checks.push(no_door());
    }
    for builder in probed {
        checks.push(builder_check(builder));
        checks.push(door_check("", builder.door_open, &builder.listen));
    }
    if let Some((listen, open)) = docker_door {
        checks.push(door_check("docker ", *open, listen));
    }
    let engine = engines.selected.as_ref().ok().map(engine);
    let (users_checks, users_builders) = buildx::judge(users, &doors(found, engine.as_ref()));
    checks.extend(users_checks);
    let names_output = engine.as_ref().is_some_and(|engine| engine.kind != "docker");
    let builders = (1..).zip(probed).map(|(number, builder)| {
        let name = if probed.len() == 1 { "linkspan".to_owned() } else { format!("linkspan-{number}") };
        self::builder(builder, &name, names_output)
    });
    Report {
        version: env!("CARGO_PKG_VERSION"),
        works: checks.iter().all(|check| check.mark != Mark::Fail),
        builders: builders.collect(),
        docker_door: docker_door.as_ref().map(|(listen, open)| DockerDoor {
            listen: listen.to_string(),
            open: *open,
            context: format!("docker context create linkspan --docker host={listen} && docker context use linkspan"),
        }),
        buildx: users_builders,
        containerd: engines
            .containerd
            .as_ref()
            .and_then(|it| it.as_ref().ok())
            .map(|it| containerd(it, inflate.as_ref())),
        engine,
        checks,
    }
}

/// The ways that there are. Without a docker door that is configured, the engine is still what one would lead to.
fn doors(found: &Found, engine: Option<&Engine>) -> Doors {
    Doors {
        docker: found.docker_door.as_ref().map(|(listen, _)| listen.to_string()),
        engine: engine.filter(|engine| engine.kind != "containerd").map(|engine| engine.address.clone()),
        buildkit: found.builders.iter().map(|it| (it.place.to_string(), it.listen.to_string())).collect(),
    }
}

fn check(about: &'static str, mark: Mark, found: impl Into<String>, remedy: Option<&str>) -> Check {
    Check { about, mark, found: found.into(), remedy: remedy.map(str::to_owned) }
}

fn failed(about: &'static str, error: &EngineError) -> Check {
    check(about, Mark::Fail, error.to_string(), error.hint().as_deref())
}

fn engine_check(selected: &Result<Selected, EngineError>) -> Check {
    match selected {
        Ok(Selected { engine, reason }) => check("engine", Mark::Ok, format!("{}: {reason}", engine.identity()), None),
        Err(error) => failed("engine", error),
    }
}

fn containerd_checks(containerd: &Result<doctor::Containerd, EngineError>) -> Vec<Check> {
    let it = match containerd {
        Ok(it) => it,
        Err(error) => return vec![failed("containerd", error)],
    };
    let found = format!(
        "{} at {}, uuid {}, namespace {}, snapshotter {}",
        it.version, it.address, it.uuid, it.namespace, it.snapshotter
    );
    let mut checks = vec![check("containerd", Mark::Ok, found, None)];
    checks.push(if it.parallel_unpack {
        check("unpack", Mark::Ok, "layers are unpacked in parallel", None)
    } else {
        let found =
            format!("layers are unpacked one by one: snapshotter {} lacks the capability `rebase`", it.snapshotter);
        // containerd 2.2 brought it, for overlayfs outside user namespaces (`plugins/snapshots/overlay/plugin`) and
        // for erofs.
        check("unpack", Mark::Slow, found, Some("containerd 2.2 or later with its snapshotter overlayfs, run by root"))
    });
    if it.sharing.as_deref() == Some("isolated") {
        let found = "content of other namespaces is sent again: the sharing policy is `isolated`";
        let remedy =
            "content_sharing_policy = \"shared\" for io.containerd.metadata.v1.bolt in containerd's config.toml";
        checks.push(check("sharing", Mark::Slow, found, Some(remedy)));
    }
    checks
}

fn inflate_check(inflate: &Inflate) -> Check {
    match inflate {
        Inflate::Helper(program) => {
            check("inflate", Mark::Ok, format!("containerd inflates gzip with {program}"), None)
        }
        Inflate::Builtin => check(
            "inflate",
            Mark::Slow,
            "containerd inflates gzip with Go's own code: igzip on its PATH is faster",
            Some("apt-get install isal (other systems: isa-l or isa-l-tools), then restart containerd"),
        ),
    }
}

fn no_door() -> Check {
    check("door", Mark::Fail, ConfigError::NoBuilder.to_string(), None)
}

fn builder_check(found: &Probed) -> Check {
    let address = &found.place;
    match &found.answer {
        Answer::Version(Some(version)) => {
            check("builder", Mark::Ok, format!("BuildKit {version} at {address}, can export directly"), None)
        }
        Answer::Version(None) => check(
            "builder",
            Mark::Ok,
            format!("BuildKit 0.11 or later (it does not say which) at {address}, can export directly"),
            None,
        ),
        Answer::TooOld => check(
            "builder",
            Mark::Fail,
            format!("BuildKit at {address} is older than 0.11: builds work, but are exported the slow way"),
            Some("update BuildKit to 0.11 or later"),
        ),
        Answer::Silent(reason) => {
            let remedy = match address {
                Place::Socket(Address::Tcp { .. }) => format!(
                    "see that buildkitd runs with `--addr {address}`, or correct --builder and its TLS settings (--tls-ca and \
                     others)"
                ),
                Place::Socket(Address::Unix(_)) => {
                    format!("see that buildkitd runs with `--addr {address}`, or correct --builder")
                }
                Place::Container { .. } => {
                    "see that the container runs (`docker ps`), or correct --builder; buildx starts its containers with \
                     `docker buildx inspect --bootstrap NAME`"
                        .to_owned()
                }
            };
            check("builder", Mark::Fail, format!("no answer from the builder at {address}: {reason}"), Some(&remedy))
        }
    }
}

fn door_check(kind: &str, open: bool, listen: &Address) -> Check {
    if open {
        check("door", Mark::Ok, format!("{kind}open at {listen}"), None)
    } else {
        let remedy = "`linkspan serve` with the same settings opens it";
        check("door", Mark::Note, format!("{kind}not open at {listen}"), Some(remedy))
    }
}

fn engine(selected: &Selected) -> Engine {
    let it = selected.engine.identity().clone();
    Engine {
        kind: it.kind,
        version: it.version,
        address: it.address,
        reason: selected.reason.clone(),
        storage: it.storage,
    }
}

fn containerd(it: &doctor::Containerd, inflate: Option<&Inflate>) -> Containerd {
    Containerd {
        address: it.address.clone(),
        version: it.version.clone(),
        uuid: it.uuid.clone(),
        sharing: it.sharing.clone(),
        inflate: inflate.map(|inflate| match inflate {
            Inflate::Helper(program) => program,
            Inflate::Builtin => "builtin",
        }),
    }
}

/// `name` is what buildx will call it. Without Docker buildx must be told what to export to, because its `--load` asks the
/// docker client for an engine; and with docker's classic store, because its `--load` then looks like a file.
fn builder(found: &Probed, name: &str, names_output: bool) -> Builder {
    let (listen, reachable) = (found.listen.to_string(), !matches!(found.answer, Answer::Silent(_)));
    let output = if names_output { "-o type=linkspan,name=docker.io/library/demo:latest" } else { "--load -t demo" };
    Builder {
        address: found.place.to_string(),
        reachable,
        version: match &found.answer {
            Answer::Version(version) => version.clone(),
            _ => None,
        },
        direct_export: matches!(found.answer, Answer::Version(_)),
        door_open: found.door_open,
        commands: Commands {
            create: format!("docker buildx create --name {name} --driver remote {listen}"),
            build: format!("docker buildx build --builder {name} {output} ."),
        },
        listen,
    }
}

#[cfg(test)]
mod tests;
