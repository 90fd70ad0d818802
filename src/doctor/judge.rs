//! From facts to judgements. No I/O here.

use super::builder::Answer;
use super::buildx::{self, POLICY, Ways};
use super::door::{Door, Probed};
use super::doors;
use super::facts::{Chained, Found, Told};
use super::inflate::Inflate;
use super::names::{self, BUILDER, CONTEXT};
use super::report::{Builder, Check, Commands, Containerd, DockerDoor, Engine, ExportDoor, Mark, Remedy, Report};
use crate::buildx::is_same_address;
use crate::config::{DEFAULT_DOCKER_LISTEN, Place};
use crate::engine::select::{DEFAULT_DOCKER_HOST, Selected};
use crate::engine::{EngineError, EngineKind, Storage, doctor};
use crate::net::Address;
use crate::status::{self, Kind, Status};

pub(super) fn judge(found: &Found) -> Report {
    let Found { engine: engines, told, inflate, doors, users, .. } = found;
    let running = running(doors);
    let mut checks: Vec<_> = running.iter().map(|status| running_check(status)).collect();
    checks.push(engine_check(&engines.selected, told.as_ref()));
    checks.extend(found.chained.iter().map(chained_check));
    if let Some(containerd) = &engines.containerd {
        checks.extend(containerd_checks(containerd, told.as_ref()));
        checks.extend(misplaced_check(found, containerd));
        checks.extend(inflate.as_ref().map(inflate_check));
    }
    if doors.is_empty() {
        checks.push(no_door());
    }
    for door in doors {
        checks.extend(door.builder.as_ref().map(builder_check));
        checks.push(doors::check(door));
    }
    let engine = engine(&engines.selected, told.as_ref());
    checks.extend(version_check(found, engine.as_ref()));
    let docker = doors.iter().find(|door| door.kind == Kind::Docker);
    let ways = Ways {
        doors,
        engine: engine.as_ref().filter(|engine| engine.kind.is_docker()).map(|engine| engine.address.clone()),
        docker_listen: docker.map_or_else(|| DEFAULT_DOCKER_LISTEN.to_owned(), |door| door.listen.to_string()),
        users,
    };
    let (users_checks, users_builders) = buildx::judge(&ways);
    checks.extend(users_checks);
    let works = checks.iter().all(|check| check.mark != Mark::Fail);
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        works,
        builders: builders(found, engine.as_ref(), &ways),
        docker_door: docker.map(|door| DockerDoor {
            listen: door.listen.to_string(),
            open: door.is_open(),
            context: context(door, &ways),
        }),
        export_door: doors
            .iter()
            .find(|door| door.kind == Kind::Export)
            .map(|door| ExportDoor { listen: door.listen.to_string(), open: door.is_open() }),
        running: running.into_iter().cloned().collect(),
        buildx_version: users.version.as_ref().map(ToString::to_string),
        buildx: users_builders,
        containerd: engines
            .containerd
            .as_ref()
            .and_then(|it| it.as_ref().ok())
            .map(|it| containerd(it, inflate.as_ref())),
        engine,
        checks,
        conclusion: String::new(),
        commands: Vec::new(),
    };
    conclude(&mut report, doors.iter().any(Door::is_open));
    report
}

/// What the document comes to, and the commands to be given.
fn conclude(report: &mut Report, is_open: bool) {
    report.conclusion = match (report.works, is_open) {
        (false, _) => "A direct export cannot work.",
        (true, true) => "A direct export can work.",
        (true, false) => "A direct export can work as soon as `linkspan serve` runs with the same settings.",
    }
    .to_owned();
    if !report.works {
        return;
    }
    let mut commands = Vec::new();
    let context = report.docker_door.iter().filter_map(|door| door.context.as_deref());
    commands.extend(context.flat_map(|commands| commands.split(" && ")).map(str::to_owned));
    let direct = report.buildx.iter().filter(|builder| builder.direct);
    commands.extend(direct.map(|builder| format!("docker buildx use {}", builder.name)));
    for Commands { create, build } in report.builders.iter().map(|builder| &builder.commands) {
        commands.extend(create.clone());
        commands.push(build.clone());
    }
    commands.extend(report.export_door.iter().map(|door| format!("linkspan load --to {} -i image.tar", door.listen)));
    if !commands.is_empty() {
        report.conclusion += if is_open { " Use it with:" } else { " Then use it with:" };
    }
    report.commands = commands;
}

/// What each Linkspan says that has one of the doors.
fn running(doors: &[Door]) -> Vec<&Status> {
    let mut running: Vec<&Status> = Vec::new();
    for status in doors.iter().filter_map(Door::status) {
        if running.iter().all(|other| other.instance != status.instance) {
            running.push(status);
        }
    }
    running
}

fn running_check(status: &Status) -> Check {
    let Status { version, pid, .. } = status;
    let engine = &status.engine;
    let exports =
        format!("runs (process {pid}) and exports to {} {} ({})", engine.kind, engine.version, engine.address);
    if version == env!("CARGO_PKG_VERSION") {
        return check("linkspan", Mark::Ok, format!("version {version} {exports}"), None);
    }
    let found = format!("version {version} {exports}; this program is version {}", env!("CARGO_PKG_VERSION"));
    check("linkspan", Mark::Note, found, Some("restart it, if it was updated"))
}

/// An address that is configured as an engine's or a builder's and is a door.
fn chained_check(chained: &Chained) -> Check {
    let Chained { about, address, kind, leads } = chained;
    let found =
        format!("the {about} at {address} is the {} door of a running Linkspan, which leads to {leads}", kind.name());
    match (*about, kind) {
        ("builder", Kind::Docker | Kind::Export) => {
            check("builder", Mark::Fail, found, Some("name the builder itself with --builder"))
        }
        (about, _) => check(about, Mark::Note, found, Some("it needs no door before it")),
    }
}

/// What is used of the context or of the shell's own engine for a docker door; `None` if that leads there.
fn context(door: &Door, ways: &Ways<'_>) -> Option<String> {
    let listen = door.listen.to_string();
    if is_same_address(&ways.users.engine, &listen) {
        return None;
    }
    let known = ways.users.contexts.iter().find(|context| is_same_address(&context.host, &listen));
    Some(match known {
        Some(context) => format!("docker context use {}", context.name),
        // What everybody uses has no name but this.
        None if is_same_address(&listen, DEFAULT_DOCKER_HOST) => "docker context use default".to_owned(),
        None => {
            let name = names::free(CONTEXT, ways.users);
            format!("docker context create {name} --docker host={listen} && docker context use {name}")
        }
    })
}

/// Which buildx marks what it loads.
fn version_check(found: &Found, engine: Option<&Engine>) -> Option<Check> {
    let takes_builds = |door: &&Door| matches!(door.kind, Kind::Docker | Kind::Buildkit);
    let mut doors = found.doors.iter().filter(takes_builds).peekable();
    doors.peek()?;
    let is_plain = doors.any(|door| !door.plain_is_load);
    let by_name = "build with `-o type=linkspan,name=NAME`, or start `linkspan serve` with";
    let unless = "where nobody writes files with `-o type=oci,dest=FILE` or `-o type=docker,dest=FILE`";
    if is_plain && let Some(engine) = engine.filter(|engine| engine.kind != EngineKind::Docker) {
        let kind = engine.kind;
        let found = format!("`--load` into {kind} looks like a file on the wire: it passes as it is");
        return Some(check("buildx", Mark::Note, found, Some(&format!("{by_name} {POLICY} {unless}"))));
    }
    let Some(version) = &found.users.version else {
        let found = "`docker buildx version` says nothing: it is not installed, or not for this user";
        return Some(check("buildx", Mark::Note, found, None));
    };
    Some(match version.marks_loads() {
        Some(true) => {
            check("buildx", Mark::Ok, format!("buildx {version} marks its loads: `--load` goes direct"), None)
        }
        Some(false) | None if !is_plain => {
            check("buildx", Mark::Ok, format!("buildx {version}: `--load` goes direct, by {POLICY}"), None)
        }
        Some(false) => {
            let found = format!(
                "buildx {version} does not mark its loads (0.24 is the first that does): `--load` looks like a file on the \
                 wire and passes as it is; `-o type=linkspan,name=NAME` goes direct"
            );
            let remedy = format!("update buildx to 0.24 or later, or start `linkspan serve` with {POLICY} {unless}");
            check("buildx", Mark::Slow, found, Some(&remedy))
        }
        None => {
            let found = format!("buildx does not say its version ({version}): 0.24 or later marks its loads");
            check("buildx", Mark::Note, found, None)
        }
    })
}

/// That the containerd which was named is not the one that dockerd uses.
fn misplaced_check(found: &Found, containerd: &Result<doctor::Containerd, EngineError>) -> Option<Check> {
    let (named, used) = (found.containerd_address.as_ref()?, containerd.as_ref().ok()?);
    let unix = |path: &str| format!("unix://{}", path.strip_prefix("unix://").unwrap_or(path));
    let (named, used) = (unix(&named.display().to_string()), unix(&used.address));
    if is_same_address(&named, &used) {
        return None;
    }
    let said = format!("{named} was named, and the engine uses the containerd at {used}");
    let path = used.strip_prefix("unix://").unwrap_or(&used);
    Some(check("containerd", Mark::Note, said, Some(&format!("leave it out, or say --containerd-address {path}"))))
}

fn check(about: &'static str, mark: Mark, found: impl Into<String>, remedy: Option<&str>) -> Check {
    Check { about, mark, found: found.into(), remedy: remedy.map(|words| Remedy::Words(words.to_owned())) }
}

fn failed(about: &'static str, error: &EngineError) -> Check {
    check(about, Mark::Fail, error.to_string(), error.hint().as_deref())
}

fn engine_check(selected: &Result<Selected, EngineError>, told: Option<&Told>) -> Check {
    let basis = told.filter(|told| told.is_basis);
    match (selected, basis) {
        (Ok(Selected { engine, reason }), Some(_)) => {
            let reason = reason.strip_prefix("as configured").map_or(String::new(), str::to_owned);
            check("engine", Mark::Ok, format!("{}: of the running Linkspan{reason}", engine.identity()), None)
        }
        (Ok(Selected { engine, reason }), None) => {
            check("engine", Mark::Ok, format!("{}: {reason}", engine.identity()), None)
        }
        (Err(EngineError::Permission { address, .. }), Some(Told { status, .. })) => {
            let status::Engine { kind, version, address: at, .. } = &status.engine;
            let found =
                format!("{kind} {version} ({at}): as the running Linkspan says; this user may not ask at {address}");
            check("engine", Mark::Ok, found, None)
        }
        (Err(error), _) => failed("engine", error),
    }
}

fn containerd_checks(containerd: &Result<doctor::Containerd, EngineError>, told: Option<&Told>) -> Vec<Check> {
    let it = match containerd {
        Ok(it) => it,
        // The running Linkspan may.
        Err(EngineError::Permission { .. }) if told.is_some_and(|told| told.is_basis) => return Vec::new(),
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
    let found = "no door is configured, and no Linkspan runs here";
    let remedy = format!(
        "`linkspan serve` opens the docker door ({DEFAULT_DOCKER_LISTEN}) and that of the exporter API; with `--builder \
         unix:///run/buildkit/buildkitd.sock` one for a builder"
    );
    check("door", Mark::Note, found, Some(&remedy))
}

fn builder_check(found: &Probed) -> Check {
    let address = &found.address;
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
        Answer::NoBuilder => check(
            "builder",
            Mark::Fail,
            format!("what answers at {address} is no BuildKit: it speaks HTTP/2 and has none of a builder's services"),
            Some("see what that is, and name the address that buildkitd has with `--addr`"),
        ),
        Answer::Silent(reason) => {
            let found_reason = format!("no answer from the builder at {address}: {reason}");
            let remedy = match &found.place {
                Some(Place::Socket(Address::Tcp { .. })) => format!(
                    "see that buildkitd runs with `--addr {address}`, or correct --builder and its TLS settings (--tls-ca and \
                     others)"
                ),
                Some(Place::Socket(Address::Unix(_))) => {
                    format!("see that buildkitd runs with `--addr {address}`, or correct --builder")
                }
                Some(Place::Container { .. }) => {
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

/// The engine that was looked at, or the one that the running Linkspan names where this process may not look.
fn engine(selected: &Result<Selected, EngineError>, told: Option<&Told>) -> Option<Engine> {
    match (selected, told.filter(|told| told.is_basis)) {
        (Ok(selected), _) => {
            let it = selected.engine.identity().clone();
            Some(Engine {
                kind: it.kind,
                version: it.version,
                address: it.address,
                reason: selected.reason.clone(),
                storage: it.storage,
            })
        }
        (Err(EngineError::Permission { .. }), Some(told)) => {
            let it = told.status.engine.clone();
            let storage = match (it.namespace, it.snapshotter, it.storage_driver) {
                (Some(namespace), Some(snapshotter), _) => Storage::Containerd {
                    namespace,
                    snapshotter,
                    parallel_unpack: it.parallel_unpack.unwrap_or_default(),
                },
                (_, _, Some(storage_driver)) => Storage::Classic { storage_driver },
                _ => Storage::Directory {},
            };
            let (kind, version, address) = (it.kind, it.version, it.address);
            Some(Engine { kind, version, address, reason: "as the running Linkspan says".to_owned(), storage })
        }
        _ => None,
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

/// The builders with their doors, and the commands that lead there.
fn builders(found: &Found, engine: Option<&Engine>, ways: &Ways<'_>) -> Vec<Builder> {
    let with_builders: Vec<_> = found.doors.iter().filter_map(|door| Some((door, door.builder.as_ref()?))).collect();
    let is_one = with_builders.len() == 1;
    let each = (1..).zip(with_builders).map(|(number, (door, builder))| {
        let wanted = if is_one { BUILDER.to_owned() } else { format!("{BUILDER}-{number}") };
        self::builder(door, builder, &wanted, output(found, door, engine), ways)
    });
    each.collect()
}

/// What a build says to export directly. Without Docker buildx must be told what to export to, because its `--load` asks
/// the docker client for an engine; with docker's classic store, and with a buildx that does not mark its loads, because
/// `--load` then looks like a file.
fn output(found: &Found, door: &Door, engine: Option<&Engine>) -> &'static str {
    let kind = door.status().map(|status| status.engine.kind).or(engine.map(|engine| engine.kind));
    let marks = found.users.version.as_ref().and_then(|version| version.marks_loads()) != Some(false);
    if door.plain_is_load || (marks && kind.is_none_or(|kind| kind == EngineKind::Docker)) {
        "--load -t demo"
    } else {
        "-o type=linkspan,name=docker.io/library/demo:latest"
    }
}

/// `wanted` is what buildx will call it, if that is free and no builder of the user's goes there.
fn builder(door: &Door, found: &Probed, wanted: &str, output: &str, ways: &Ways<'_>) -> Builder {
    let listen = door.listen.to_string();
    let (name, create) = match ways.through(&listen) {
        Some(name) => (name.to_owned(), None),
        None => {
            let name = names::free(wanted, ways.users);
            let create = format!("docker buildx create --name {name} --driver remote {listen}");
            (name, Some(create))
        }
    };
    Builder {
        address: found.address.clone(),
        reachable: !matches!(found.answer, Answer::Silent(_)),
        version: match &found.answer {
            Answer::Version(version) => version.clone(),
            _ => None,
        },
        direct_export: matches!(found.answer, Answer::Version(_)),
        door_open: door.is_open(),
        commands: Commands { create, build: format!("docker buildx build --builder {name} {output} .") },
        listen,
    }
}

#[cfg(test)]
mod tests;
