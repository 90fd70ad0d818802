//! Which way builders go, judged without any of them.

use super::super::door::{DoorState, Probed};
use super::*;
use crate::config::DEFAULT_DOCKER_LISTEN;
use crate::engine::EngineKind;
use crate::status::{self, Builder, Policy};

const DOCKER_DOOR: &str = "unix:///nowhere/docker.sock";
const BUILDKIT_DOOR: &str = "unix:///nowhere/buildkit.sock";
const ENGINE: &str = "unix:///nowhere/engine.sock";
const BUILDER: &str = "tcp://builder:1234";

fn status(kind: Kind, engine: EngineKind, plain_is_load: bool) -> Status {
    let address = if kind == Kind::Docker { DOCKER_DOOR } else { BUILDKIT_DOOR };
    let door = status::Door { kind, address: address.to_owned() };
    let engine = status::Engine { kind: engine, address: ENGINE.to_owned(), ..status::Engine::default() };
    Status {
        version: "1".to_owned(),
        instance: "i".to_owned(),
        pid: 1,
        doors: vec![door.clone()],
        door,
        engine,
        builders: vec![Builder {
            address: BUILDER.to_owned(),
            door: BUILDKIT_DOOR.to_owned(),
            plain_is_load,
            ..Builder::default()
        }],
        policy: Policy { plain_is_load, ..Policy::default() },
        exports: Vec::new(),
        ended: Default::default(),
        metrics: None,
        slow_load: None,
    }
}

fn doors(state: impl Fn(Kind) -> DoorState) -> Vec<Door> {
    let door = |kind, address: &str, builder| Door {
        kind,
        listen: address.parse().unwrap(),
        state: state(kind),
        builder,
        plain_is_load: false,
        is_configured: true,
    };
    let probed = Probed { address: BUILDER.to_owned(), endpoint: None, probe: BuilderProbe::Version(None) };
    vec![door(Kind::Docker, DOCKER_DOOR, None), door(Kind::Buildkit, BUILDKIT_DOOR, Some(probed))]
}

fn open() -> Vec<Door> {
    doors(|kind| DoorState::Open(Box::new(status(kind, EngineKind::Docker, false))))
}

fn node(address: &str, door_probe: Option<running::Probe>, builder_probe: Option<BuilderProbe>) -> BuildxNode {
    BuildxNode { name: "b0".to_owned(), address: address.to_owned(), door_probe, builder_probe }
}

fn judged(driver: &str, nodes: Vec<BuildxNode>, doors: &[Door], buildx: &str) -> (Check, ReportedBuilder) {
    let builder = BuildxBuilder { name: "b".to_owned(), driver: driver.to_owned(), nodes };
    let version = Version::read(&format!("github.com/docker/buildx {buildx} x"));
    let users = Users { builders: vec![builder], version, ..Users::none() };
    let docker = doors.iter().find(|door| door.kind == Kind::Docker);
    let docker_listen = docker.map_or(DEFAULT_DOCKER_LISTEN.to_owned(), |door| door.listen.to_string());
    let (mut checks, mut users) = judge(&RouteContext {
        doors,
        engine: Some(ENGINE.to_owned()),
        docker_listen,
        users: &users,
        engine_flag: String::new(),
        elsewhere: Vec::new(),
    });
    (checks.remove(0), users.remove(0))
}

/// A way through a door of `kind`, as it is judged.
fn through(
    kind: Kind,
    engine: EngineKind,
    plain_is_load: bool,
    builder_probe: BuilderProbe,
    buildx: &str,
) -> (Check, ReportedBuilder) {
    let status = status(kind, engine, plain_is_load);
    let driver = if kind == Kind::Docker { "docker-container" } else { "remote" };
    let (address, door_probe) = (status.door.address.clone(), running::Probe::Linkspan(Box::new(status)));
    judged(driver, vec![node(&address, Some(door_probe), Some(builder_probe))], &open(), buildx)
}

#[test]
fn loads_are_called_direct_exports_only_where_they_are() {
    let recent = || BuilderProbe::Version(Some("v0.32.2".to_owned()));
    let silent = || BuilderProbe::Unreachable("it is stopped".to_owned());
    for kind in [Kind::Docker, Kind::Buildkit] {
        for (engine, plain_is_load, builder_probe, buildx, mark) in [
            (EngineKind::Docker, false, recent(), "v0.36.1", Mark::Ok),
            (EngineKind::Docker, false, BuilderProbe::Version(None), "v0.24.0", Mark::Ok),
            (EngineKind::Docker, true, recent(), "0.13.1", Mark::Ok),
            (EngineKind::DockerClassic, true, recent(), "v0.36.1", Mark::Ok),
            (EngineKind::Containerd, true, recent(), "v0.36.1", Mark::Ok),
            (EngineKind::Docker, false, recent(), "0.13.1", Mark::Slow),
            (EngineKind::Docker, false, recent(), "v0.23.0", Mark::Slow),
            (EngineKind::DockerClassic, false, recent(), "v0.36.1", Mark::Slow),
            (EngineKind::Containerd, false, recent(), "v0.36.1", Mark::Note),
            (EngineKind::Layout, false, recent(), "v0.36.1", Mark::Slow),
            (EngineKind::Docker, false, BuilderProbe::TooOld, "v0.36.1", Mark::Slow),
            (EngineKind::Docker, true, BuilderProbe::NoBuilder, "v0.36.1", Mark::Slow),
            (EngineKind::Docker, false, silent(), "v0.36.1", Mark::Note),
            (EngineKind::Docker, false, recent(), "v0.0.0+unknown", Mark::Note),
            (EngineKind::Docker, false, silent(), "v0.0.0+unknown", Mark::Note),
        ] {
            let (check, users) = through(kind, engine, plain_is_load, builder_probe, buildx);
            assert_eq!(check.mark, mark, "{engine} {plain_is_load} {buildx}: {check:?}");
            assert_eq!(users.through, Some(kind.name()));
            assert_eq!(users.direct, mark == Mark::Ok);
            assert_eq!(check.found.contains("its loads are direct exports"), mark != Mark::Slow, "{check:?}");
            assert_eq!(check.found.ends_with("its loads are direct exports"), mark == Mark::Ok, "{check:?}");
            assert_eq!(check.remedy.is_some(), mark == Mark::Slow, "{check:?}");
        }
    }
}

#[test]
fn a_closed_door_and_another_programs_socket_are_no_open_doors() {
    for (state, door_probe) in [
        (DoorState::Closed, running::Probe::Closed),
        (DoorState::Taken, running::Probe::OtherProgram),
        (DoorState::Silent, running::Probe::Silent),
        (DoorState::Denied, running::Probe::Denied),
        (DoorState::Tls, running::Probe::Tls),
    ] {
        for (driver, address) in [("docker-container", DOCKER_DOOR), ("remote", BUILDKIT_DOOR)] {
            let (check, users) = judged(
                driver,
                vec![node(address, Some(door_probe.clone()), None)],
                &doors(|_| state.clone()),
                "v0.36.1",
            );
            let mark = if door_probe == running::Probe::Closed { Mark::Fail } else { Mark::Note };
            assert_eq!((check.mark, users.through, users.direct), (mark, None, false), "{check:?}");
        }
    }
}

#[test]
fn a_way_past_a_door_has_the_command_that_mends_it() {
    let remedy = |driver: &str, address: &str, doors: &[Door]| {
        let (check, users) = judged(driver, vec![node(address, None, None)], doors, "v0.36.1");
        assert_eq!((check.mark, users.through), (Mark::Slow, None), "{check:?}");
        check.remedy.unwrap()
    };
    let commands = |commands: &[&str]| Remedy::Commands(commands.iter().map(|&it| it.to_owned()).collect());
    let setup = format!("linkspan setup buildx b --docker-listen {DOCKER_DOOR}");
    assert_eq!(remedy("docker-container", ENGINE, &open()), commands(&[&setup]));
    let create = format!("docker buildx create --name direct --driver remote {BUILDKIT_DOOR}");
    assert_eq!(remedy("remote", BUILDER, &open()), commands(&[&create]));

    let closed = doors(|_| DoorState::Closed);
    let serve = format!("linkspan serve --docker-listen {DOCKER_DOOR} --docker-host {ENGINE}");
    assert_eq!(remedy("docker-container", ENGINE, &closed), commands(&[&serve, &setup]));
    let serve = format!("linkspan serve --builder {BUILDER} --buildkit-listen {BUILDKIT_DOOR}");
    assert_eq!(remedy("remote", BUILDER, &closed), commands(&[&serve, &create]));

    let serve = format!("linkspan serve --docker-listen {DEFAULT_DOCKER_LISTEN} --docker-host {ENGINE}");
    assert_eq!(remedy("docker-container", ENGINE, &[]), commands(&[&serve, "linkspan setup buildx b"]));
}

#[test]
fn the_slowest_node_decides() {
    let door_probe = running::Probe::Linkspan(Box::new(status(Kind::Docker, EngineKind::Docker, false)));
    let fast = node(DOCKER_DOOR, Some(door_probe), Some(BuilderProbe::Version(None)));
    let (check, users) = judged("docker-container", vec![fast, node(ENGINE, None, None)], &open(), "v0.36.1");
    assert_eq!((check.mark, users.through, users.direct), (Mark::Slow, None, false));
}

#[test]
fn no_door_is_proposed_before_a_door() {
    // One of another Linkspan, at an address that nobody here has configured.
    for (driver, kind) in [("remote", Kind::Buildkit), ("docker-container", Kind::Docker)] {
        let door_probe = running::Probe::Linkspan(Box::new(status(kind, EngineKind::Docker, false)));
        let node = node("unix:///nowhere/other.sock", Some(door_probe), Some(BuilderProbe::Version(None)));
        let (check, users) = judged(driver, vec![node], &[], "v0.36.1");
        assert_eq!((check.mark, users.remedy), (Mark::Ok, None), "{:?}", check.found);
    }
    for (driver, kind) in [("remote", Kind::Docker), ("remote", Kind::Export), ("docker-container", Kind::Export)] {
        let door_probe = running::Probe::Linkspan(Box::new(status(kind, EngineKind::Docker, false)));
        let (check, users) = judged(driver, vec![node(DOCKER_DOOR, Some(door_probe), None)], &open(), "v0.36.1");
        assert_eq!((check.mark, users.through), (Mark::Note, None), "{check:?}");
        assert!(!check.remedy.unwrap().to_string().contains("serve"));
    }
}

#[test]
fn a_builder_whose_door_is_gone_cannot_be_used_and_is_mended_by_the_door_or_without_it() {
    let gone = |driver: &str, address: &str, sent: bool| {
        let nodes = vec![node(address, Some(running::Probe::Closed), None)];
        let builders = vec![BuildxBuilder { name: "b".to_owned(), driver: driver.to_owned(), nodes }];
        let sent = sent.then(|| "b".to_owned()).into_iter().collect();
        let usual = UsualDoors { docker: "unix:///me/docker.sock".to_owned(), ..UsualDoors::default() };
        let users = Users { builders, sent, usual, ..Users::none() };
        let (docker_listen, engine) = (users.usual.docker.clone(), Some(ENGINE.to_owned()));
        let (engine_flag, elsewhere) = (String::new(), Vec::new());
        let context = RouteContext { doors: &[], engine, docker_listen, users: &users, engine_flag, elsewhere };
        judge(&context).0.remove(0)
    };
    let check = gone("docker-container", "unix:///me/docker.sock", true);
    assert!(check.mark == Mark::Fail && check.found.ends_with("nobody listens: no build with it works"), "{check:?}");
    let remedy = check.remedy.unwrap().to_string();
    for words in ["start `linkspan serve` again; or", "`linkspan setup buildx b --undo`", "`linkspan doctor --fix`"] {
        assert!(remedy.contains(words), "{remedy}");
    }
    // A door that nobody knows, as that of a context.
    let check = gone("docker-container", "unix:///other/docker.sock", false);
    let remedy = check.remedy.unwrap().to_string();
    assert!(check.mark == Mark::Fail && !remedy.contains("--fix"), "{remedy}");
    assert!(remedy.contains("`linkspan serve --docker-listen unix:///other/docker.sock`"), "{remedy}");
    // A remote builder whose door has gone, or its builder: nobody is there to be put behind a door.
    let check = gone("remote", "unix:///other/bk.sock", false);
    assert!(check.mark == Mark::Fail && check.found.ends_with("nobody listens: no build with it works"), "{check:?}");
    let remedy = check.remedy.unwrap().to_string();
    let serve = "start `linkspan serve --builder ADDR --buildkit-listen unix:///other/bk.sock` again";
    assert!(remedy.starts_with(serve), "{remedy}");
    // An engine of this machine that is stopped is none of ours.
    for address in [ENGINE, DEFAULT_DOCKER_HOST] {
        assert_ne!(gone("docker-container", address, false).mark, Mark::Fail, "{address}");
    }
}

#[test]
fn where_no_door_leads_nothing_is_wrong() {
    let (check, _) = judged("docker-container", vec![node("ssh://far", None, None)], &open(), "v0.36.1");
    assert_eq!(check.mark, Mark::Slow, "it goes to dockerd itself");
    assert!(check.remedy.unwrap().to_string().contains("--docker host=ssh://far/run/linkspan/docker.sock"));
    for (driver, endpoint, words) in [
        ("docker-container", "ssh://far/run/x.sock", Some("ssh far linkspan doctor")),
        ("docker-container", "tcp://far:2376", Some("beside that engine")),
        ("remote", "tcp://other:1", Some("linkspan serve --builder tcp://other:1")),
        ("remote", "ssh://far", None),
        ("kubernetes", "kubernetes:///b", Some("kubectl port-forward")),
        ("cloud", "cloud://org/b", None),
    ] {
        let (check, users) = judged(driver, vec![node(endpoint, None, None)], &open(), "v0.36.1");
        assert_eq!((check.mark, users.through), (Mark::Note, None));
        assert_eq!(check.remedy.is_some(), words.is_some());
        let remedy = check.remedy.map(|remedy| remedy.to_string()).unwrap_or_default();
        assert!(remedy.contains(words.unwrap_or_default()));
    }
}
