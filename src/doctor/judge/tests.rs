//! The same facts lead to the same words.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::super::door::State;
use super::super::users::{Users, UsersNode, UsersOwn};
use super::*;
use crate::buildx::{Context, Version};
use crate::engine::{Engine, EngineKind, Identity, Lease, Lifetime, Origin, Storage};
use crate::image::{Descriptor, Reference};
use crate::running;

/// An engine to be named, not used.
#[derive(Debug)]
struct Nameplate(Identity);

impl Engine for Nameplate {
    fn identity(&self) -> &Identity {
        &self.0
    }
    fn already_complete<'a>(
        &'a self,
        _: &'a Descriptor,
        _: &'a [Reference],
    ) -> BoxFuture<'a, Result<Option<usize>, EngineError>> {
        unreachable!("the doctor exports nothing")
    }
    fn lease<'a>(&'a self, _: &'a Origin, _: Lifetime<'a>) -> BoxFuture<'a, Result<Arc<dyn Lease>, EngineError>> {
        unreachable!("the doctor exports nothing")
    }
    fn recover(&self) -> BoxFuture<'_, Result<usize, EngineError>> {
        unreachable!("the doctor changes nothing")
    }
}

fn findings(kind: EngineKind) -> doctor::Findings {
    let identity = Identity {
        kind,
        version: "29.7.2".to_owned(),
        address: "unix:///d.sock".to_owned(),
        storage: Storage::Containerd {
            namespace: "moby".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            parallel_unpack: true,
        },
    };
    let containerd = doctor::Containerd {
        address: "/c.sock".to_owned(),
        version: "v2.3.4".to_owned(),
        uuid: "1234".to_owned(),
        namespace: "moby".to_owned(),
        snapshotter: "overlayfs".to_owned(),
        parallel_unpack: true,
        sharing: Some("shared".to_owned()),
    };
    let engine: Arc<dyn Engine> = Arc::new(Nameplate(identity));
    doctor::Findings {
        selected: Ok(Selected { engine, reason: "as configured, proven".to_owned() }),
        docker: None,
        containerd: Some(Ok(containerd)),
    }
}

const DOOR: &str = "unix:///run/linkspan/buildkit.sock";

/// What a Linkspan says at a door of `kind` at `address`.
fn status(kind: Kind, address: &str) -> Status {
    let door = status::Door { kind, address: address.to_owned() };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: "i".to_owned(),
        pid: 7,
        doors: vec![door.clone()],
        door,
        engine: status::Engine {
            kind: EngineKind::Docker,
            version: "29.7.2".to_owned(),
            address: "unix:///d.sock".to_owned(),
            ..status::Engine::default()
        },
        builders: vec![status::Builder {
            address: "unix:///b.sock".to_owned(),
            door: DOOR.to_owned(),
            plain_is_load: false,
        }],
        policy: status::Policy::default(),
        exports: Vec::new(),
    }
}

/// A configured door, open unless somebody says otherwise.
fn door(kind: Kind, address: &str) -> Door {
    Door {
        kind,
        listen: address.parse().unwrap(),
        state: State::Open(Box::new(status(kind, address))),
        builder: None,
        plain_is_load: false,
        is_configured: true,
    }
}

fn closed(door: Door) -> Door {
    Door { state: State::Closed, ..door }
}

/// The door of a builder that answered like this.
fn probed(answer: Answer) -> Door {
    let place = Some("unix:///b.sock".parse::<Address>().unwrap().into());
    let builder = Some(Probed { address: "unix:///b.sock".to_owned(), place, answer });
    Door { builder, ..door(Kind::Buildkit, DOOR) }
}

fn recent() -> Door {
    probed(Answer::Version(Some("v0.32.2".to_owned())))
}

fn users(builders: Vec<UsersOwn>) -> Users {
    let version = Version::read("github.com/docker/buildx v0.36.1 x");
    Users { builders: Ok(builders), version, ..Users::none() }
}

fn found(engine: doctor::Findings, inflate: Option<Inflate>, doors: &[Door], users: Users) -> Found {
    let doors = doors.to_vec();
    Found { engine, told: None, containerd_address: None, inflate, doors, chained: Vec::new(), users }
}

/// Judges them where buildx has no builders.
fn judge(engine: doctor::Findings, inflate: Option<Inflate>, doors: &[Door]) -> Report {
    super::judge(&found(engine, inflate, doors, users(Vec::new())))
}

fn marks(report: &Report) -> Vec<(&str, Mark)> {
    report.checks.iter().map(|check| (check.about, check.mark)).collect()
}

#[test]
fn all_is_well() {
    let report = judge(findings(EngineKind::Docker), Some(Inflate::Helper("igzip")), &[recent()]);
    assert!(report.works);
    assert_eq!(
        report.to_string(),
        format!(
            "\
ok    linkspan    version {} runs (process 7) and exports to docker 29.7.2
                  (unix:///d.sock)
ok    engine      docker 29.7.2 (unix:///d.sock), namespace moby, snapshotter
                  overlayfs: as configured, proven
ok    containerd  v2.3.4 at /c.sock, uuid 1234, namespace moby, snapshotter
                  overlayfs
ok    unpack      layers are unpacked in parallel
ok    inflate     containerd inflates gzip with igzip
ok    builder     BuildKit v0.32.2 at unix:///b.sock, can export directly
ok    door        buildkit door open at unix:///run/linkspan/buildkit.sock
ok    buildx      buildx 0.36.1 marks its loads: `--load` goes direct

A direct export can work. Use it with:
  docker buildx create --name direct --driver remote \\
    unix:///run/linkspan/buildkit.sock
  docker buildx build --builder direct --load -t demo .",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn a_classic_store_has_no_containerd_and_needs_its_own_output() {
    let identity = Identity {
        kind: EngineKind::DockerClassic,
        version: "29.7.2".to_owned(),
        address: "unix:///d.sock".to_owned(),
        storage: Storage::Classic { storage_driver: "overlay2".to_owned() },
    };
    let engine: Arc<dyn Engine> = Arc::new(Nameplate(identity));
    let selected = Ok(Selected { engine, reason: "as configured".to_owned() });
    let report = judge(doctor::Findings { selected, docker: None, containerd: None }, None, &[closed(recent())]);
    assert!(report.works);
    assert_eq!(
        report.to_string(),
        "\
ok    engine   docker-classic 29.7.2 (unix:///d.sock), storage driver overlay2:
               as configured
ok    builder  BuildKit v0.32.2 at unix:///b.sock, can export directly
note  door     buildkit door not open at unix:///run/linkspan/buildkit.sock
               `linkspan serve` with the same settings opens it
note  buildx   `--load` into docker-classic looks like a file on the wire: it
               passes as it is
               build with `-o type=linkspan,name=NAME`, or start `linkspan
               serve` with --plain-is-load where nobody writes files with `-o
               type=oci,dest=FILE` or `-o type=docker,dest=FILE`

A direct export can work as soon as `linkspan serve` runs with the same
settings. Then use it with:
  docker buildx create --name direct --driver remote \\
    unix:///run/linkspan/buildkit.sock
  docker buildx build --builder direct \\
    -o type=linkspan,name=docker.io/library/demo:latest ."
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["engine"]["storage_driver"], "overlay2");
    assert_eq!(json["engine"].get("namespace"), None);
}

#[test]
fn what_is_slow_works_and_has_a_remedy() {
    let mut findings = findings(EngineKind::Docker);
    if let Some(Ok(containerd)) = &mut findings.containerd {
        containerd.parallel_unpack = false;
        containerd.sharing = Some("isolated".to_owned());
    }
    let report = judge(findings, Some(Inflate::Builtin), &[closed(recent())]);
    assert!(report.works);
    assert_eq!(
        marks(&report),
        [
            ("engine", Mark::Ok),
            ("containerd", Mark::Ok),
            ("unpack", Mark::Slow),
            ("sharing", Mark::Slow),
            ("inflate", Mark::Slow),
            ("builder", Mark::Ok),
            ("door", Mark::Note),
            ("buildx", Mark::Ok),
        ]
    );
    for check in report.checks.iter().filter(|check| check.mark == Mark::Slow) {
        assert!(check.remedy.is_some(), "{check:?}");
    }
}

#[test]
fn what_fails_keeps_it_from_working_and_has_a_remedy() {
    let unreachable = || EngineError::Unreachable {
        engine: "docker",
        address: "unix:///d.sock".to_owned(),
        reason: "Connection refused".to_owned(),
    };
    let mut no_engine = findings(EngineKind::Docker);
    no_engine.selected = Err(unreachable());
    no_engine.containerd = None;
    let mut no_containerd = findings(EngineKind::Docker);
    no_containerd.containerd = Some(Err(unreachable()));
    let cases = [
        (judge(no_engine, None, &[recent()]), "engine", "docker does not answer at unix:///d.sock: Connection refused"),
        (judge(no_containerd, None, &[recent()]), "containerd", "Connection refused"),
        (judge(findings(EngineKind::Docker), None, &[probed(Answer::TooOld)]), "builder", "older than 0.11"),
        (judge(findings(EngineKind::Docker), None, &[probed(Answer::NoBuilder)]), "builder", "is no BuildKit"),
        (
            judge(
                findings(EngineKind::Docker),
                None,
                &[Door { state: State::Taken, ..door(Kind::Export, "unix:///x") }],
            ),
            "door",
            "another program listens there",
        ),
        (
            judge(findings(EngineKind::Docker), None, &[Door { state: State::Other(Kind::Export), ..recent() }]),
            "door",
            "that is the export door of a Linkspan",
        ),
        (
            judge(findings(EngineKind::Docker), None, &[recent(), probed(Answer::Silent("gone".to_owned()))]),
            "builder",
            "no answer from the builder at unix:///b.sock: gone",
        ),
    ];
    for (report, about, words) in cases {
        assert!(!report.works);
        assert!(report.to_string().ends_with("A direct export cannot work."));
        let failed: Vec<_> = report.checks.iter().filter(|check| check.mark == Mark::Fail).collect();
        let [check] = failed.as_slice() else { panic!("{failed:?}") };
        assert_eq!(check.about, about);
        assert!(check.found.contains(words), "{check:?}");
        assert!(check.remedy.is_some(), "{check:?}");
    }
}

#[test]
fn without_a_door_it_says_how_to_open_one() {
    let report = judge(findings(EngineKind::Docker), None, &[]);
    assert!(report.works);
    let remedy = report.checks.last().unwrap().remedy.as_ref().unwrap().to_string();
    for way in ["--builder unix:///run/buildkit/buildkitd.sock", "unix:///run/linkspan/docker.sock"] {
        assert!(remedy.contains(way), "{remedy}");
    }
    assert!(report.conclusion.contains("as soon as `linkspan serve` runs"), "{}", report.conclusion);
}

/// A docker-container builder of the user's with a BuildKit that is recent.
fn users_builder(name: &str, endpoint: &str, heard: Option<running::Answer>) -> UsersOwn {
    let answer = heard.is_some().then(|| Answer::Version(Some("v0.32.2".to_owned())));
    let nodes = vec![UsersNode { name: "n0".to_owned(), address: endpoint.to_owned(), heard, answer }];
    UsersOwn { name: name.to_owned(), driver: "docker-container".to_owned(), nodes }
}

#[test]
fn users_are_told_which_of_their_builders_go_where() {
    let heard = Some(running::Answer::Linkspan(Box::new(status(Kind::Docker, "unix:///l.sock"))));
    let users =
        users(vec![users_builder("fast", "unix:///l.sock", heard), users_builder("slow", "unix:///d.sock", None)]);
    let report =
        super::judge(&found(findings(EngineKind::Docker), None, &[door(Kind::Docker, "unix:///l.sock")], users));
    assert!(report.works);
    let text = report.to_string();
    let (_, text) = text.split_once("ok    door ").unwrap();
    assert_eq!(
        text,
        "       docker door open at unix:///l.sock
ok    buildx      buildx 0.36.1 marks its loads: `--load` goes direct
ok    buildx      builder fast (docker-container) goes through the docker door:
                  its loads are direct exports
slow  buildx      builder slow (docker-container) goes to unix:///d.sock, past
                  Linkspan: every load sends the whole image
                  hint:
                    linkspan setup buildx slow --docker-listen unix:///l.sock

A direct export can work. Use it with:
  docker context create linkspan --docker host=unix:///l.sock
  docker context use linkspan
  docker buildx use fast"
    );
}

#[test]
fn the_door_of_the_exporter_api_is_enough() {
    let report = judge(findings(EngineKind::Docker), None, &[door(Kind::Export, "unix:///e.sock")]);
    assert!(report.works);
    assert_eq!(report.commands, ["linkspan load --to unix:///e.sock -i image.tar"]);
    assert_eq!(report.export_door, Some(ExportDoor { listen: "unix:///e.sock".to_owned(), open: true }));
    assert!(report.checks.iter().all(|check| check.about != "buildx"), "{report}");
}

#[test]
fn several_builders_have_names_of_their_own() {
    let containerd = |door: Door| Door { plain_is_load: false, ..closed(door) };
    let report = judge(findings(EngineKind::Containerd), None, &[containerd(recent()), containerd(recent())]);
    let names: Vec<_> = report.builders.iter().map(|builder| builder.commands.build.as_str()).collect();
    assert_eq!(
        names,
        [
            "docker buildx build --builder direct-1 -o type=linkspan,name=docker.io/library/demo:latest .",
            "docker buildx build --builder direct-2 -o type=linkspan,name=docker.io/library/demo:latest .",
        ]
    );
}

#[test]
fn nothing_is_proposed_that_exists() {
    let remote =
        |name: &str, address: &str| UsersOwn { driver: "remote".to_owned(), ..users_builder(name, address, None) };
    let context = |name: &str, host: &str| Context { name: name.to_owned(), host: host.to_owned() };
    let doors = [recent(), door(Kind::Docker, "unix:///l.sock")];
    let commands = |users: Users| super::judge(&found(findings(EngineKind::Docker), None, &doors, users)).commands;
    let build = |name: &str| format!("docker buildx build --builder {name} --load -t demo .");
    let create = |name: &str| format!("docker buildx create --name {name} --driver remote {DOOR}");
    let make = |name: &str| format!("docker context create {name} --docker host=unix:///l.sock");
    let take = |name: &str| format!("docker context use {name}");

    let nothing = users(Vec::new());
    assert_eq!(commands(nothing), [make("linkspan"), take("linkspan"), create("direct"), build("direct")]);

    let there = Users { contexts: vec![context("l", "unix:///l.sock")], ..users(vec![remote("mine", DOOR)]) };
    assert_eq!(commands(there), [take("l"), build("mine")]);

    let taken = Users {
        contexts: vec![context("direct", "ssh://far")],
        ..users(vec![remote("linkspan", "tcp://far:1"), remote("direct-2", "tcp://far:2")])
    };
    assert_eq!(commands(taken), [make("linkspan-2"), take("linkspan-2"), create("direct-3"), build("direct-3")]);

    let in_use = Users { engine: "unix:///l.sock".to_owned(), ..users(Vec::new()) };
    assert_eq!(commands(in_use), [create("direct"), build("direct")]);
}

#[test]
fn an_old_buildx_is_told_what_goes_direct() {
    let judged = |version: &str, plain_is_load: bool| {
        let users = Users { version: Version::read(&format!("github.com/docker/buildx {version} x")), ..Users::none() };
        let report =
            super::judge(&found(findings(EngineKind::Docker), None, &[Door { plain_is_load, ..recent() }], users));
        assert!(report.works);
        let check = report.checks.iter().find(|check| check.about == "buildx").unwrap().clone();
        (check.mark, report.builders[0].commands.build.contains(" --load "), check)
    };
    for (version, plain_is_load, mark, by_load) in [
        ("v0.36.1", false, Mark::Ok, true),
        ("v0.24.0", false, Mark::Ok, true),
        ("0.13.1+ds1-3", false, Mark::Slow, false),
        ("v0.23.0", false, Mark::Slow, false),
        ("v0.23.0", true, Mark::Ok, true),
        ("v0.0.0+unknown", false, Mark::Note, true),
    ] {
        let (found, load, check) = judged(version, plain_is_load);
        assert_eq!((found, load), (mark, by_load), "{version} {check:?}");
        assert!(!check.found.contains("  "), "{check:?}");
    }
    let (_, _, check) = judged("0.13.1", false);
    assert!(check.found.contains("`-o type=linkspan,name=NAME` goes direct"), "{check:?}");
    assert!(check.remedy.unwrap().to_string().contains("--plain-is-load"));
}

#[test]
fn a_containerd_that_the_engine_does_not_use_is_said() {
    let judged = |named: &str| {
        let found = found(findings(EngineKind::Docker), None, &[recent()], users(Vec::new()));
        super::judge(&Found { containerd_address: Some(named.into()), ..found })
    };
    let said = |report: &Report| report.checks.iter().any(|check| check.found.contains("was named"));
    assert!(!said(&judged("/c.sock")));
    let report = judged("/other.sock");
    assert!(said(&report) && report.works, "{report}");
}

#[test]
fn who_may_not_ask_the_engine_goes_by_what_the_running_linkspan_says() {
    let denied = || EngineError::Permission { engine: "containerd", address: "/c.sock".to_owned() };
    let engine = doctor::Findings { selected: Err(denied()), docker: None, containerd: Some(Err(denied())) };
    let told = Told { status: status(Kind::Buildkit, DOOR), is_basis: true };
    let found = Found { told: Some(told), ..found(engine, None, &[recent()], users(Vec::new())) };
    let report = super::judge(&found);
    assert!(report.works, "{report}");
    assert_eq!(report.engine.unwrap().address, "unix:///d.sock");

    let gone = EngineError::Unreachable { engine: "docker", address: "d".to_owned(), reason: "gone".to_owned() };
    let engine = doctor::Findings { selected: Err(gone), docker: None, containerd: None };
    assert!(!super::judge(&Found { engine, ..found }).works, "but an engine that is gone is gone");
}

#[test]
fn the_keys_of_the_document_are_stable() {
    let report = judge(findings(EngineKind::Docker), Some(Inflate::Builtin), &[probed(Answer::Version(None))]);
    let mut document: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    let checks = document.as_object_mut().unwrap().remove("checks").unwrap();
    document.as_object_mut().unwrap().remove("running").unwrap();
    assert_eq!(
        checks[1],
        json!({
            "about": "engine",
            "mark": "ok",
            "found": "docker 29.7.2 (unix:///d.sock), namespace moby, snapshotter overlayfs: as configured, proven",
            "remedy": null,
        })
    );
    assert_eq!(
        document,
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "works": true,
            "engine": {
                "kind": "docker",
                "version": "29.7.2",
                "address": "unix:///d.sock",
                "reason": "as configured, proven",
                "namespace": "moby",
                "snapshotter": "overlayfs",
                "parallel_unpack": true,
            },
            "containerd": {
                "address": "/c.sock",
                "version": "v2.3.4",
                "uuid": "1234",
                "sharing": "shared",
                "inflate": "builtin",
            },
            "builders": [{
                "address": "unix:///b.sock",
                "listen": "unix:///run/linkspan/buildkit.sock",
                "reachable": true,
                "version": null,
                "direct_export": true,
                "door_open": true,
                "commands": {
                    "create": "docker buildx create --name direct --driver remote unix:///run/linkspan/buildkit.sock",
                    "build": "docker buildx build --builder direct --load -t demo .",
                },
            }],
            "docker_door": null,
            "export_door": null,
            "buildx_version": "0.36.1",
            "buildx": [],
            "conclusion": "A direct export can work. Use it with:",
            "commands": [
                "docker buildx create --name direct --driver remote unix:///run/linkspan/buildkit.sock",
                "docker buildx build --builder direct --load -t demo .",
            ],
        })
    );
}
