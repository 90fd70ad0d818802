//! Turns the facts into the report, without I/O.

mod builder;
mod engine;
#[cfg(test)]
mod tests;

use self::builder::{builder_check, builders};
use self::engine::{containerd_checks, engine_check, inflate_check, misplaced_check};
use super::buildx::{self, POLICY, RouteContext};
use super::caches::caches_check;
use super::door::Door;
use super::doors;
use super::facts::{Chained, Facts, RunningLinkspan};
use super::names::{self, CONTEXT};
use super::policy::policy_checks;
use super::report::{Check, Commands, DockerDoor, Engine, ExportDoor, Mark, Report, ReportedBuilder, check};
use super::ssh;
use crate::buildx::is_same_address;
use crate::config::UsualDoors;
use crate::engine::select::DEFAULT_DOCKER_HOST;
use crate::engine::{EngineError, EngineKind, Storage};
use crate::status::{Kind, Status};

pub(super) fn judge(found: &Facts) -> Report {
    let Facts { engine: engines, subject, inflate, doors, users, .. } = found;
    let running = running(doors);
    let mut checks: Vec<_> = running.iter().map(|status| running_check(status)).collect();
    checks.push(engine_check(&engines.selected, subject.as_ref()));
    checks.extend(found.chained.iter().map(chained_check));
    if let Some(containerd) = &engines.containerd {
        checks.extend(containerd_checks(containerd, subject.as_ref()));
        checks.extend(misplaced_check(found, containerd));
        checks.extend(inflate.as_ref().map(inflate_check));
    }
    let engine = engine::engine(&engines.selected, subject.as_ref());
    let elsewhere: Vec<_> =
        running.iter().copied().filter(|status| leads_elsewhere(status, engine.as_ref(), subject.as_ref())).collect();
    checks.extend(elsewhere.iter().filter_map(|status| Some(elsewhere_check(status, engine.as_ref()?))));
    let elsewhere: Vec<_> = elsewhere.into_iter().map(|status| status.instance.as_str()).collect();
    let is_elsewhere = |door: &Door| door.status().is_some_and(|status| elsewhere.contains(&&*status.instance));
    if doors.is_empty() {
        checks.push(no_door(&engine_flag(engine.as_ref()), &users.usual));
    }
    for door in doors {
        checks.extend(door.builder.as_ref().map(builder_check));
        checks.push(doors::check(door));
    }
    checks.extend(doors::metrics_checks(&running, found.metrics.as_ref()));
    checks.extend(version_check(found, engine.as_ref()));
    // One that is open comes before one that is only configured, and one that leads elsewhere last.
    let door = |kind: Kind| {
        let of_kind = || doors.iter().filter(move |door| door.kind == kind);
        let here = || of_kind().filter(|door| !is_elsewhere(door));
        here().find(|door| door.is_open()).or_else(|| here().next()).or_else(|| of_kind().next())
    };
    let docker = door(Kind::Docker);
    let context = RouteContext {
        doors,
        engine: engine.as_ref().filter(|engine| engine.kind.is_docker()).map(|engine| engine.address.clone()),
        docker_listen: docker.map_or_else(|| users.usual.docker.clone(), |door| door.listen.to_string()),
        users,
        engine_flag: engine_flag(engine.as_ref()),
        elsewhere: elsewhere.clone(),
    };
    checks.extend(running.iter().flat_map(|status| policy_checks(status)));
    checks.extend(running.iter().filter_map(|status| slow_load_check(status)));
    checks.extend(caches_check(found.caches.as_ref(), subject.as_ref().map(|subject| &subject.status.policy)));
    checks.extend(ssh::context_checks(users));
    let (users_checks, users_builders) = buildx::judge(&context);
    checks.extend(users_checks);
    // A builder that cannot be used keeps no other from exporting.
    let works = checks.iter().all(|check| check.mark != Mark::Fail || check.about == "buildx");
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        works,
        builders: builders(found, engine.as_ref(), &context),
        docker_door: docker.map(|door| DockerDoor {
            listen: door.listen.to_string(),
            open: door.is_open(),
            context: context_of(door, &context),
        }),
        export_door: door(Kind::Export)
            .map(|door| ExportDoor { listen: door.listen.to_string(), open: door.is_open() }),
        running: running.into_iter().cloned().collect(),
        buildx_version: users.version.as_ref().map(ToString::to_string),
        buildx: users_builders,
        containerd: engines
            .containerd
            .as_ref()
            .and_then(|it| it.as_ref().ok())
            .map(|it| engine::containerd(it, inflate.as_ref())),
        caches: found.caches.clone(),
        engine,
        checks,
        conclusion: String::new(),
        commands: Vec::new(),
    };
    let listens: Vec<_> = doors.iter().filter(|door| is_elsewhere(door)).map(|door| door.listen.to_string()).collect();
    conclude(&mut report, doors.iter().any(|door| door.is_open() && !is_elsewhere(door)), &listens);
    report
}

/// Whether a running Linkspan exports to another engine than the one that was examined.
fn leads_elsewhere(status: &Status, engine: Option<&Engine>, subject: Option<&RunningLinkspan>) -> bool {
    let is_basis = subject.is_none_or(|subject| subject.is_basis);
    let is_it = |engine: &Engine| {
        let namespace = match &engine.storage {
            Storage::Containerd { namespace, .. } if engine.kind == EngineKind::Containerd => Some(namespace),
            _ => None,
        };
        let is_namespace = namespace.is_none_or(|namespace| status.engine.namespace.as_ref() == Some(namespace));
        engine.kind == status.engine.kind && is_same_address(&engine.address, &status.engine.address) && is_namespace
    };
    !is_basis && !engine.is_none_or(is_it)
}

fn elsewhere_check(status: &Status, engine: &Engine) -> Check {
    let Status { pid, engine: its, .. } = status;
    let found = format!(
        "the running Linkspan (process {pid}) exports elsewhere: its doors, and builders that go through them, lead to {} at {}, and \
         not to {}",
        its.kind, its.address, engine.address
    );
    check("linkspan", Mark::Note, found, None)
}

/// Sets the conclusion and the commands. Doors at the addresses `elsewhere` lead to other engines.
fn conclude(report: &mut Report, is_open: bool, elsewhere: &[String]) {
    let cluster = report.engine.as_ref().filter(|engine| engine.kind == EngineKind::Cluster);
    let cluster = cluster.map(|cluster| format!("linkspan load IMAGE --to {}", cluster.address));
    report.conclusion = match (report.works, is_open) {
        (false, _) => "A direct export cannot work.",
        (true, true) => "A direct export can work.",
        (true, false) if cluster.is_some() => {
            "A direct export can work: of images of docker now, of builds as soon as `linkspan serve` runs with the same settings."
        }
        (true, false) => "A direct export can work as soon as `linkspan serve` runs with the same settings.",
    }
    .to_owned();
    if !report.works {
        return;
    }
    if report.has_failed() {
        report.conclusion += " A builder of yours cannot be used: see above.";
    }
    let mut commands = Vec::new();
    // Beside open doors those that are not open are no use now.
    let is_usable = |listen: &String, door_open: bool| {
        (door_open || !is_open) && !elsewhere.contains(listen) && (is_open || cluster.is_none())
    };
    let docker_door = report.docker_door.iter().filter(|door| is_usable(&door.listen, door.open));
    let context = docker_door.filter_map(|door| door.context.as_deref());
    commands.extend(context.flat_map(|commands| commands.split(" && ")).map(str::to_owned));
    let leads_here = |builder: &&ReportedBuilder| !builder.endpoints.iter().any(|it| elsewhere.contains(it));
    let direct = report.buildx.iter().filter(|builder| builder.direct).filter(leads_here);
    commands.extend(direct.map(|builder| format!("docker buildx use {}", builder.name)));
    let builders = report.builders.iter().filter(|builder| is_usable(&builder.listen, builder.door_open));
    for Commands { create, build } in builders.map(|builder| &builder.commands) {
        commands.extend(create.clone());
        commands.push(build.clone());
    }
    let export_door = report.export_door.iter().filter(|door| is_usable(&door.listen, door.open));
    commands.extend(export_door.map(|door| format!("linkspan load --to {} -i image.tar", door.listen)));
    let is_now = is_open || cluster.is_some();
    commands.extend(cluster);
    if !commands.is_empty() {
        report.conclusion += if is_now { " Use it with:" } else { " Then use it with:" };
    }
    report.commands = commands;
}

/// The status of each Linkspan that has one of the doors.
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

/// The check of the slowest load, if its builder's compression made it slow.
fn slow_load_check(status: &Status) -> Option<Check> {
    let slow = status.slow_load.as_ref()?;
    let found = format!("{} of a load from {} were the builder's gzip of new layers", slow.cost(), slow.builder);
    let remedy = format!("{}; README, \"Big new layers\", has what that costs", slow.remedy());
    Some(check("load", Mark::Slow, found, Some(&remedy)))
}

/// The check of an address that is configured as an engine's or a builder's and is a door.
fn chained_check(chained: &Chained) -> Check {
    let Chained { about, address, kind, leads } = chained;
    let found =
        format!("the {about} at {address} is the {} door of a running Linkspan, which leads to {leads}", kind.name());
    match (*about, kind) {
        ("builder", Kind::Docker | Kind::Export | Kind::Registry) => {
            check("builder", Mark::Fail, found, Some("name the builder itself with --builder"))
        }
        (about, _) => check(about, Mark::Note, found, Some("it needs no door before it")),
    }
}

/// The command that makes docker use this docker door; `None` if it does.
fn context_of(door: &Door, context: &RouteContext<'_>) -> Option<String> {
    let listen = door.listen.to_string();
    if is_same_address(&context.users.engine, &listen) {
        return None;
    }
    let known = context.users.contexts.iter().find(|context| is_same_address(&context.host, &listen));
    Some(match known {
        Some(context) => format!("docker context use {}", context.name),
        // The default socket belongs to the context `default`.
        None if is_same_address(&listen, DEFAULT_DOCKER_HOST) => "docker context use default".to_owned(),
        None => {
            let name = names::free(CONTEXT, context.users);
            format!("docker context create {name} --docker host={listen} && docker context use {name}")
        }
    })
}

/// The check of buildx: whether its version marks loads.
fn version_check(found: &Facts, engine: Option<&Engine>) -> Option<Check> {
    let takes_builds = |door: &&Door| matches!(door.kind, Kind::Docker | Kind::Buildkit);
    let mut doors = found.doors.iter().filter(takes_builds).peekable();
    doors.peek()?;
    let is_plain = doors.any(|door| !door.plain_is_load);
    let by_name = "build with `-o type=linkspan,name=NAME`, or start `linkspan serve` with";
    let unless = "where nobody writes files with `-o type=oci,dest=FILE` or `-o type=docker,dest=FILE`";
    if is_plain && let Some(engine) = engine.filter(|engine| !engine.kind.has_containerd_store()) {
        let kind = engine.kind;
        if matches!(kind, EngineKind::Containerd | EngineKind::Cluster) {
            let found = format!(
                "`--load` into {kind} goes direct where docker's client finds a Docker with the containerd image store; where it \
                 finds none, it looks like a file on the wire and passes as it is"
            );
            let remedy = format!("for builds without such a Docker, {by_name} {POLICY} {unless}");
            return Some(check("buildx", Mark::Note, found, Some(&remedy)));
        }
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

fn failed(about: &'static str, error: &EngineError) -> Check {
    check(about, Mark::Fail, error.to_string(), error.hint().as_deref())
}

/// The flag by which `linkspan serve` takes an engine that it never finds by itself; begins with a space.
fn engine_flag(engine: Option<&Engine>) -> String {
    let cluster = engine.filter(|engine| engine.kind == EngineKind::Cluster);
    cluster.map_or_else(String::new, |cluster| format!(" --engine {}", cluster.address))
}

fn no_door(engine: &str, usual: &UsualDoors) -> Check {
    let found = "no door is configured, and no Linkspan runs here";
    if !usual.has_folder {
        let remedy = format!(
            "without root the doors of `linkspan serve{engine}` are in XDG_RUNTIME_DIR, which is not set: set it, or name doors, as in \
             --export-listen {}",
            usual.export
        );
        return check("door", Mark::Note, found, Some(&remedy));
    }
    let docker = if engine.is_empty() { format!("the docker door ({}) and ", usual.docker) } else { String::new() };
    let remedy = format!(
        "`linkspan serve{engine}` opens {docker}that of the exporter API; with `--builder \
         unix:///run/buildkit/buildkitd.sock` one for a builder"
    );
    check("door", Mark::Note, found, Some(&remedy))
}
