//! The checks of builders with doors.

use crate::config::BuilderEndpoint;
use crate::doctor::builder::BuilderProbe;
use crate::doctor::buildx::RouteContext;
use crate::doctor::door::{Door, Probed};
use crate::doctor::facts::Facts;
use crate::doctor::names;
use crate::doctor::report::{Builder, Check, Commands, Engine, Mark, check};
use crate::engine::EngineKind;
use crate::net::Address;

pub(super) fn builder_check(found: &Probed) -> Check {
    let address = &found.address;
    match &found.probe {
        BuilderProbe::Version(Some(version)) => {
            check("builder", Mark::Ok, format!("BuildKit {version} at {address}, can export directly"), None)
        }
        BuilderProbe::Version(None) => check(
            "builder",
            Mark::Ok,
            format!("BuildKit 0.11 or later (it does not say which) at {address}, can export directly"),
            None,
        ),
        BuilderProbe::TooOld => check(
            "builder",
            Mark::Fail,
            format!("BuildKit at {address} is older than 0.11: builds work, but are exported the slow way"),
            Some("update BuildKit to 0.11 or later"),
        ),
        BuilderProbe::NoBuilder => check(
            "builder",
            Mark::Fail,
            format!("what responds at {address} is no BuildKit: it speaks HTTP/2 and has none of a builder's services"),
            Some("see what that is, and name the address that buildkitd has with `--addr`"),
        ),
        BuilderProbe::Unreachable(reason) => {
            let found_reason = format!("no response from the builder at {address}: {reason}");
            let remedy = match &found.endpoint {
                Some(BuilderEndpoint::Socket(Address::Unix(path))) if reason.contains("Permission denied") => format!(
                    "run this as root, or as a user of the group that may use the socket: `ls -l {}` shows it",
                    path.display()
                ),
                Some(BuilderEndpoint::Socket(Address::Tcp { .. })) => format!(
                    "see that buildkitd runs with `--addr {address}`, or correct --builder and its TLS settings (--tls-ca and \
                     others)"
                ),
                Some(BuilderEndpoint::Socket(Address::Unix(_))) => {
                    format!("see that buildkitd runs with `--addr {address}`, or correct --builder")
                }
                Some(BuilderEndpoint::Container { .. }) => {
                    "see that the container runs (`docker ps`), or correct --builder; buildx starts its containers with \
                     `docker buildx inspect --bootstrap NAME`"
                        .to_owned()
                }
                None => "see that the builder runs; the log of `linkspan serve` says more".to_owned(),
            };
            check("builder", Mark::Fail, found_reason, Some(&remedy))
        }
    }
}

/// The builders with doors, and the commands that use them.
pub(super) fn builders(found: &Facts, engine: Option<&Engine>, context: &RouteContext<'_>) -> Vec<Builder> {
    let with_builders: Vec<_> = found.doors.iter().filter_map(|door| Some((door, door.builder.as_ref()?))).collect();
    let each = with_builders
        .into_iter()
        .map(|(door, builder)| self::builder(door, builder, output(found, door, engine), context));
    each.collect()
}

/// The flags of a build for a direct export. `--load` works only with Docker, because buildx asks the docker client for an
/// engine, and not with docker's classic store or a buildx that does not mark its loads, because it then looks like a file.
fn output(found: &Facts, door: &Door, engine: Option<&Engine>) -> &'static str {
    let kind = door.status().map(|status| status.engine.kind).or(engine.map(|engine| engine.kind));
    let marks = found.users.version.as_ref().and_then(|version| version.marks_loads()) != Some(false);
    if door.plain_is_load || (marks && kind.is_none_or(EngineKind::has_containerd_store)) {
        "--load -t demo"
    } else {
        "-o type=linkspan,name=docker.io/library/demo:latest"
    }
}

/// The entry of a builder.
fn builder(door: &Door, found: &Probed, output: &str, context: &RouteContext<'_>) -> Builder {
    let listen = door.listen.to_string();
    let (name, create) = match context.through(&listen) {
        Some(name) => (name.to_owned(), None),
        None => {
            let name = names::for_door(context.doors, &listen, context.users);
            let create = format!("docker buildx create --name {name} --driver remote {listen}");
            (name, Some(create))
        }
    };
    Builder {
        address: found.address.clone(),
        reachable: !matches!(found.probe, BuilderProbe::Unreachable(_)),
        version: match &found.probe {
            BuilderProbe::Version(version) => version.clone(),
            _ => None,
        },
        direct_export: matches!(found.probe, BuilderProbe::Version(_)),
        door_open: door.is_open(),
        commands: Commands { create, build: format!("docker buildx build --builder {name} {output} .") },
        listen,
    }
}
