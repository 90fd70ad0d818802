//! Checks the user's builders: whether they go through a door, and whether their loads are direct exports.

use super::builder::BuilderProbe;
use super::door::Door;
use super::names;
use super::report::{Check, Mark, Remedy, ReportedBuilder};
use super::ssh;
use super::users::{BuildxBuilder, BuildxNode, Users};
use crate::buildx::{Version, is_same_address};
use crate::config::UsualDoors;
use crate::engine::EngineKind;
use crate::engine::select::DEFAULT_DOCKER_HOST;
use crate::running;
use crate::status::{Kind, Status};

/// The flag that treats plain exporters as a load.
pub(super) const POLICY: &str = "--plain-is-load";

/// The doors that builders can go through.
#[derive(Debug)]
pub(super) struct RouteContext<'a> {
    pub(super) doors: &'a [Door],
    /// The engine's address, if a docker door could lead to it.
    pub(super) engine: Option<String>,
    /// Where the docker door listens, or would listen.
    pub(super) docker_listen: String,
    pub(super) users: &'a Users,
    /// The flag of the engine for `linkspan serve`, where it needs one.
    pub(super) engine_flag: String,
    /// The running Linkspans that export to other engines than the one that the report is about.
    pub(super) elsewhere: Vec<&'a str>,
}

/// Where a node goes, best first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Route {
    /// Through a door, with direct exports.
    Direct(Kind),
    /// Through a door, with a condition that is unknown; the text continues the sentence.
    Depends(Kind, String),
    /// Through a door, without direct exports: the reason and the remedy.
    NotDirect(Kind, String, String),
    /// To the address of a door that is none; the text says what is there.
    NoDoor(Kind, &'static str),
    /// Directly to an engine that has or could have a docker door; the door's address, if it is open.
    PastDocker(Option<String>),
    /// Directly to a builder that has a door; the door's address, and whether it is open.
    PastBuildkit(String, bool),
    /// To a door of the wrong kind for this driver.
    Wrong(Kind),
    /// To an engine or builder without a door.
    Elsewhere,
    /// To a socket at which nobody listens: no build works.
    Gone,
}

/// The check and the report entry of each builder.
pub(super) fn judge(context: &RouteContext<'_>) -> (Vec<Check>, Vec<ReportedBuilder>) {
    let (mut checks, builders): (Vec<_>, Vec<_>) =
        context.users.builders.iter().map(|builder| judge_builder(builder, context)).unzip();
    checks.extend(context.users.unread.iter().map(|error| {
        let found = format!("not all builders of buildx can be read: {error}");
        Check { about: "buildx", mark: Mark::Note, found, remedy: None }
    }));
    (checks, builders)
}

fn judge_builder(builder: &BuildxBuilder, context: &RouteContext<'_>) -> (Check, ReportedBuilder) {
    let BuildxBuilder { name, driver, nodes } = builder;
    // The nodes of a builder share its work, so the worst one decides.
    let worst = nodes.iter().map(|node| route(driver, node, context)).max().unwrap_or(Route::Elsewhere);
    let endpoints: Vec<_> = nodes.iter().map(|node| node.address.clone()).collect();
    let (mark, found, remedy) = words(builder, &worst, &endpoints.join(", "), context);
    let users = ReportedBuilder {
        name: name.clone(),
        driver: driver.clone(),
        endpoints,
        through: match worst {
            Route::Direct(kind) | Route::Depends(kind, _) | Route::NotDirect(kind, _, _) => Some(kind.name()),
            _ => None,
        },
        direct: matches!(worst, Route::Direct(_)),
        remedy: remedy.clone(),
    };
    (Check { about: "buildx", mark, found, remedy }, users)
}

fn words(
    builder: &BuildxBuilder,
    way: &Route,
    endpoints: &str,
    context: &RouteContext<'_>,
) -> (Mark, String, Option<Remedy>) {
    let BuildxBuilder { name, driver, nodes } = builder;
    let who = format!("builder {name} ({driver})");
    let advice = |words: String| Some(Remedy::Words(words));
    match way {
        Route::Direct(kind) => {
            let into = nodes.iter().filter_map(BuildxNode::status).find(|status| !context.leads_here(status));
            let into = into.map_or_else(String::new, |status| {
                format!(" into {} at {}", status.engine.kind, status.engine.address)
            });
            (Mark::Ok, format!("{who} goes through the {} door: its loads are direct exports{into}", kind.name()), None)
        }
        Route::Depends(kind, on) => (Mark::Note, format!("{who} goes through the {} door: {on}", kind.name()), None),
        Route::NotDirect(kind, why, remedy) => {
            let found =
                format!("{who} goes through the {} door, but its loads are no direct exports: {why}", kind.name());
            (Mark::Slow, found, advice(remedy.clone()))
        }
        Route::NoDoor(kind, what) => {
            let found = format!("{who} goes to {endpoints}, where {what}, and no {} door is open", kind.name());
            (Mark::Note, found, advice("`linkspan serve` with that address opens it".to_owned()))
        }
        Route::Wrong(kind) => {
            let found = format!("{who} goes to {endpoints}, which is a Linkspan's {} door and no builder", kind.name());
            (Mark::Note, found, advice("`docker buildx rm` it, and create one at a door for builders".to_owned()))
        }
        Route::PastDocker(door) => {
            let open = door.as_deref().unwrap_or(&context.docker_listen);
            let mut commands = Vec::new();
            if door.is_none() {
                commands.push(context.serve_docker());
            }
            let at =
                if *open == context.users.usual.docker { String::new() } else { format!(" --docker-listen {open}") };
            commands.push(format!("linkspan setup buildx {name}{at}"));
            let found = format!("{who} goes to {endpoints}, past Linkspan: every load sends the whole image");
            (Mark::Slow, found, Some(Remedy::Commands(commands)))
        }
        Route::PastBuildkit(door, is_open) => {
            let found = format!("{who} goes to {endpoints}, past its door: every load sends the whole image");
            (Mark::Slow, found, Some(Remedy::Commands(context.to_door(door, *is_open, endpoints))))
        }
        Route::Elsewhere => {
            if driver == "docker-container"
                && let Some((mark, found, remedy)) = ssh::words(endpoints, context.users)
            {
                return (mark, format!("{who} goes to {found}"), Some(remedy));
            }
            let remedy = if nodes.len() == 1 { elsewhere(driver, endpoints, context) } else { None };
            (Mark::Note, format!("{who} goes to {endpoints}, where no door leads"), remedy.map(Remedy::Words))
        }
        Route::Gone => {
            let found = format!("{who} goes to {endpoints}, where nobody listens: no build with it works");
            (Mark::Fail, found, advice(context.reopen(builder)))
        }
    }
}

fn route(driver: &str, node: &BuildxNode, context: &RouteContext<'_>) -> Route {
    if let Some(status) = node.status() {
        return match (driver, status.door.kind) {
            ("docker-container", Kind::Docker) | ("remote", Kind::Buildkit) => {
                through(status, node.builder_probe.as_ref(), context.users.version.as_ref())
            }
            (_, kind) => Route::Wrong(kind),
        };
    }
    if !matches!(driver, "docker-container" | "remote") {
        return Route::Elsewhere;
    }
    let is = |address: &str| is_same_address(&node.address, address);
    if let Some(kind) = context.kind_at(&is) {
        return match node.door_probe {
            Some(running::Probe::Reserved) => Route::NoDoor(kind, "a registry door listens"),
            Some(running::Probe::OtherProgram) => Route::NoDoor(kind, "another program listens"),
            Some(running::Probe::Silent) => Route::NoDoor(kind, "a program that is stopped or overloaded listens"),
            Some(running::Probe::Tls) => Route::NoDoor(kind, "a server with TLS listens"),
            Some(running::Probe::Denied) => Route::NoDoor(kind, "this user may not connect"),
            _ => Route::Gone,
        };
    }
    if driver == "remote" {
        let past = context.doors.iter().find(|door| door.builder.as_ref().is_some_and(|builder| is(&builder.address)));
        return match past {
            Some(door) => Route::PastBuildkit(door.listen.to_string(), door.is_open()),
            // Whether it was a door or a builder cannot be known any more: nothing can be built with it either way.
            None if node.door_probe == Some(running::Probe::Closed) => Route::Gone,
            None => Route::Elsewhere,
        };
    }
    let open = context
        .doors
        .iter()
        .find(|door| door.kind == Kind::Docker && door.status().is_some_and(|status| is(&status.engine.address)));
    match open {
        Some(door) => Route::PastDocker(Some(door.listen.to_string())),
        None if context.engine.as_deref().is_some_and(is) => Route::PastDocker(None),
        // A docker that is stopped is none of ours.
        None if node.door_probe == Some(running::Probe::Closed) && !is(DEFAULT_DOCKER_HOST) => Route::Gone,
        None => Route::Elsewhere,
    }
}

/// Whether a builder's loads through this door are direct exports. buildx marks a load only for an engine with the containerd
/// image store (`build/opt.go`); any other load looks like a file on the wire.
fn through(status: &Status, builder: Option<&BuilderProbe>, buildx: Option<&Version>) -> Route {
    let kind = status.door.kind;
    let not_direct = |why: String, remedy: &str| Route::NotDirect(kind, why, remedy.to_owned());
    match builder {
        Some(BuilderProbe::TooOld) => {
            return not_direct("its BuildKit is older than 0.11".to_owned(), "update BuildKit to 0.11 or later");
        }
        Some(BuilderProbe::NoBuilder) => {
            return not_direct(
                "what is behind it is no BuildKit".to_owned(),
                "see what the builder's address leads to",
            );
        }
        _ => {}
    }
    let is_plain = !status.plain_is_load();
    let marks = buildx.map(|version| (version, version.marks_loads()));
    match marks {
        _ if !is_plain => {}
        // Whether docker's client finds another Docker, is not known here.
        _ if matches!(status.engine.kind, EngineKind::Containerd | EngineKind::Cluster) => {
            let why = format!(
                "its loads are direct exports where docker's client finds a Docker with the containerd image store, or with {POLICY}"
            );
            return Route::Depends(kind, why);
        }
        _ if !status.engine.kind.has_containerd_store() => {
            let why = format!("`--load` into {} looks like a file on the wire", status.engine.kind);
            let remedy = format!("build with `-o type=linkspan,name=NAME`, or start `linkspan serve` with {POLICY}");
            return not_direct(why, &remedy);
        }
        Some((version, Some(false))) => {
            let why = format!("`--load` of buildx {version} looks like a file on the wire");
            let remedy = format!(
                "update buildx to 0.24 or later, or build with `-o type=linkspan,name=NAME`, or start `linkspan serve` with \
                 {POLICY}"
            );
            return not_direct(why, &remedy);
        }
        _ => {}
    }
    let unknown = match builder {
        Some(BuilderProbe::Version(_)) => None,
        Some(BuilderProbe::Unreachable(reason)) => Some(format!(" (it does not respond now: {reason})")),
        _ => Some(String::new()),
    };
    let needs_buildx = is_plain && !matches!(marks, Some((_, Some(true))));
    match (unknown, needs_buildx) {
        (None, false) => Route::Direct(kind),
        (None, true) => Route::Depends(kind, "its loads are direct exports with buildx 0.24 or later".to_owned()),
        (Some(why), false) => {
            Route::Depends(kind, format!("its loads are direct exports if its BuildKit is 0.11 or later{why}"))
        }
        (Some(why), true) => Route::Depends(
            kind,
            format!("its loads are direct exports with buildx 0.24 or later if its BuildKit is 0.11 or later{why}"),
        ),
    }
}

impl RouteContext<'_> {
    /// Whether a running Linkspan exports to the engine that the report is about.
    pub(super) fn leads_here(&self, status: &Status) -> bool {
        !self.elsewhere.contains(&status.instance.as_str())
    }

    /// What lets a builder be used again whose door is gone.
    fn reopen(&self, BuildxBuilder { name, nodes, driver }: &BuildxBuilder) -> String {
        let closed = |node: &&BuildxNode| matches!(node.door_probe, None | Some(running::Probe::Closed));
        let address = nodes.iter().find(closed).map_or("", |node| &node.address);
        let UsualDoors { docker, buildkit, .. } = &self.users.usual;
        let flag = if driver == "remote" { "--buildkit-listen" } else { "--docker-listen" };
        let is_usual = [docker, buildkit].into_iter().any(|usual| is_same_address(usual, address));
        let mut listen = if is_usual { String::new() } else { format!(" {flag} {address}") };
        if driver == "remote" {
            let door = self.doors.iter().find(|door| is_same_address(&door.listen.to_string(), address));
            let builder = door.and_then(|door| door.builder.as_ref()).map_or("ADDR", |builder| &builder.address);
            listen = format!(" --builder {builder}{listen}");
        }
        if self.users.sent.contains(name) {
            return format!(
                "start `linkspan serve{listen}` again; or `linkspan setup buildx {name} --undo` sends it back to its engine, as `linkspan \
                 doctor --fix` does"
            );
        }
        format!("start `linkspan serve{listen}` again, if that was its door, or whatever else listened there")
    }

    /// The kind of door that is expected at an address.
    fn kind_at(&self, is: &dyn Fn(&str) -> bool) -> Option<Kind> {
        let configured = self.doors.iter().find(|door| door.is_configured && is(&door.listen.to_string()));
        let of = |usual: &UsualDoors| {
            let usual =
                [(&usual.docker, Kind::Docker), (&usual.buildkit, Kind::Buildkit), (&usual.export, Kind::Export)];
            usual.into_iter().find(|(address, _)| is(address)).map(|(_, kind)| kind)
        };
        // The machine's daemon is root's.
        let usual = of(&self.users.usual).or_else(|| of(&UsualDoors::default()));
        configured.map(|door| door.kind).or(usual)
    }

    /// The command that opens the docker door.
    fn serve_docker(&self) -> String {
        let engine = self.engine.as_deref().filter(|engine| !is_same_address(engine, DEFAULT_DOCKER_HOST));
        let host = engine.map(|engine| format!(" --docker-host {engine}")).unwrap_or_default();
        format!("linkspan serve --docker-listen {}{host}", self.docker_listen)
    }

    /// The command that sends builds through the door of the builder at `address`.
    fn to_door(&self, door: &str, is_open: bool, address: &str) -> Vec<String> {
        let mut commands = Vec::new();
        if !is_open {
            let listen =
                if door == self.users.usual.buildkit { String::new() } else { format!(" --buildkit-listen {door}") };
            commands.push(format!("linkspan serve{} --builder {address}{listen}", self.engine_flag));
        }
        commands.push(match self.through(door) {
            Some(builder) => format!("docker buildx use {builder}"),
            None => {
                let name = names::for_door(self.doors, door, self.users);
                format!("docker buildx create --name {name} --driver remote {door}")
            }
        });
        commands
    }

    /// The user's builder with the door at `address` as its only node.
    pub(super) fn through(&self, address: &str) -> Option<&str> {
        let goes = |builder: &&BuildxBuilder| match &builder.nodes[..] {
            [node] => builder.driver == "remote" && is_same_address(&node.address, address),
            _ => false,
        };
        Some(self.users.builders.iter().find(goes)?.name.as_str())
    }
}

/// How to get a door in front of this endpoint.
fn elsewhere(driver: &str, address: &str, context: &RouteContext<'_>) -> Option<String> {
    match driver {
        "remote" if address.starts_with("unix://") || address.starts_with("tcp://") => {
            // The default address may be another builder's door.
            let is_taken = context.doors.iter().any(|door| door.listen.to_string() == context.users.usual.buildkit);
            let other = context.users.usual.buildkit.replace("buildkit.sock", "NAME.sock");
            let listen = if is_taken { format!(" --buildkit-listen {other}") } else { String::new() };
            let engine = &context.engine_flag;
            Some(format!("linkspan serve{engine} --builder {address}{listen} opens a door for it"))
        }
        "docker-container" => Some("Linkspan beside that engine makes its loads direct exports".to_owned()),
        "kubernetes" => Some(
            "kubectl port-forward to its buildkitd, and linkspan serve --builder tcp://127.0.0.1:PORT opens a door for it"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
