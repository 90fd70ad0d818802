//! The same facts lead to the same words.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::*;
use crate::buildx::{Instance, Node};
use crate::engine::{Engine, Identity, Ingest, Origin, Storage};
use crate::image::{Descriptor, Reference};
use crate::progress::Events;

/// An engine to be named, not used.
#[derive(Debug)]
struct Nameplate(Identity);

impl Engine for Nameplate {
    fn identity(&self) -> &Identity {
        &self.0
    }
    fn current<'a>(
        &'a self,
        _: &'a Descriptor,
        _: &'a [Reference],
    ) -> BoxFuture<'a, Result<Option<usize>, EngineError>> {
        unreachable!("the doctor exports nothing")
    }
    fn open<'a>(&'a self, _: &'a Origin, _: Events) -> BoxFuture<'a, Result<Arc<dyn Ingest>, EngineError>> {
        unreachable!("the doctor exports nothing")
    }
    fn recover(&self) -> BoxFuture<'_, Result<usize, EngineError>> {
        unreachable!("the doctor changes nothing")
    }
}

fn findings(kind: &'static str) -> doctor::Findings {
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

fn probed(answer: Answer) -> Probed {
    Probed {
        place: "unix:///b.sock".parse::<Address>().unwrap().into(),
        listen: "unix:///run/linkspan/buildkit.sock".parse().unwrap(),
        door_open: true,
        answer,
    }
}

fn recent() -> Probed {
    probed(Answer::Version(Some("v0.32.2".to_owned())))
}

/// Judges them where buildx has no builders and there is no docker door.
fn judge(engine: doctor::Findings, inflate: Option<Inflate>, builders: &[Probed]) -> Report {
    let users = Users { builders: Ok(Vec::new()) };
    super::judge(&Found { engine, inflate, builders: builders.to_vec(), docker_door: None, users })
}

fn marks(report: &Report) -> Vec<(&str, Mark)> {
    report.checks.iter().map(|check| (check.about, check.mark)).collect()
}

#[test]
fn all_is_well() {
    let report = judge(findings("docker"), Some(Inflate::Helper("igzip")), &[recent()]);
    assert!(report.works);
    assert_eq!(
        report.to_string(),
        "\
ok    engine      docker 29.7.2 (unix:///d.sock), namespace moby, snapshotter overlayfs: as configured, proven
ok    containerd  v2.3.4 at /c.sock, uuid 1234, namespace moby, snapshotter overlayfs
ok    unpack      layers are unpacked in parallel
ok    inflate     containerd inflates gzip with igzip
ok    builder     BuildKit v0.32.2 at unix:///b.sock, can export directly
ok    door        open at unix:///run/linkspan/buildkit.sock

A direct export can work. Use it with:
  docker buildx create --name linkspan --driver remote unix:///run/linkspan/buildkit.sock
  docker buildx build --builder linkspan --load -t demo ."
    );
}

#[test]
fn a_classic_store_has_no_containerd_and_needs_its_own_output() {
    let identity = Identity {
        kind: "docker-classic",
        version: "29.7.2".to_owned(),
        address: "unix:///d.sock".to_owned(),
        storage: Storage::Classic { storage_driver: "overlay2".to_owned() },
    };
    let engine: Arc<dyn Engine> = Arc::new(Nameplate(identity));
    let selected = Ok(Selected { engine, reason: "as configured".to_owned() });
    let report = judge(doctor::Findings { selected, docker: None, containerd: None }, None, &[recent()]);
    assert!(report.works);
    assert_eq!(
        report.to_string(),
        "\
ok    engine   docker-classic 29.7.2 (unix:///d.sock), storage driver overlay2: as configured
ok    builder  BuildKit v0.32.2 at unix:///b.sock, can export directly
ok    door     open at unix:///run/linkspan/buildkit.sock

A direct export can work. Use it with:
  docker buildx create --name linkspan --driver remote unix:///run/linkspan/buildkit.sock
  docker buildx build --builder linkspan -o type=linkspan,name=docker.io/library/demo:latest ."
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["engine"]["storage_driver"], "overlay2");
    assert_eq!(json["engine"].get("namespace"), None);
}

#[test]
fn what_is_slow_works_and_has_a_remedy() {
    let mut findings = findings("docker");
    if let Some(Ok(containerd)) = &mut findings.containerd {
        containerd.parallel_unpack = false;
        containerd.sharing = Some("isolated".to_owned());
    }
    let report = judge(findings, Some(Inflate::Builtin), &[Probed { door_open: false, ..recent() }]);
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
    let mut no_engine = findings("docker");
    no_engine.selected = Err(unreachable());
    no_engine.containerd = None;
    let mut no_containerd = findings("docker");
    no_containerd.containerd = Some(Err(unreachable()));
    let cases = [
        (judge(no_engine, None, &[recent()]), "engine", "docker does not answer at unix:///d.sock: Connection refused"),
        (judge(no_containerd, None, &[recent()]), "containerd", "Connection refused"),
        (judge(findings("docker"), None, &[probed(Answer::TooOld)]), "builder", "older than 0.11"),
        (
            judge(findings("docker"), None, &[recent(), probed(Answer::Silent("gone".to_owned()))]),
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
    let report = judge(findings("docker"), None, &[]);
    assert!(!report.works);
    let check = report.checks.last().unwrap();
    for way in ["--builder unix:///run/buildkit/buildkitd.sock", "--docker-listen unix:///run/linkspan/docker.sock"] {
        assert!(check.found.contains(way), "{check:?}");
    }
}

#[test]
fn users_are_told_which_of_their_builders_go_where() {
    let node = |endpoint: &str| Node { name: "n0".to_owned(), endpoint: endpoint.to_owned() };
    let builder = |name: &str, endpoint: &str| {
        let nodes = vec![node(endpoint)];
        (Instance { name: name.to_owned(), driver: "docker-container".to_owned(), nodes }, vec![endpoint.to_owned()])
    };
    let users = Users { builders: Ok(vec![builder("fast", "unix:///l.sock"), builder("slow", "unix:///d.sock")]) };
    let docker_door = Some(("unix:///l.sock".parse().unwrap(), true));
    let engine = findings("docker");
    let report = super::judge(&Found { engine, inflate: None, builders: Vec::new(), docker_door, users });
    assert!(report.works);
    let text = report.to_string();
    let (_, text) = text.split_once("ok    door ").unwrap();
    assert_eq!(
        text,
        "       docker open at unix:///l.sock
ok    buildx      builder fast (docker-container) goes through the docker door: its loads are direct exports
slow  buildx      builder slow (docker-container) goes to unix:///d.sock, past Linkspan: every load sends the whole image
                  to mend it: linkspan setup buildx slow

A direct export can work. Use it with:
  docker context create linkspan --docker host=unix:///l.sock && docker context use linkspan
  docker buildx use fast"
    );
}

#[test]
fn several_builders_have_names_of_their_own() {
    let report = judge(findings("containerd"), None, &[recent(), recent()]);
    let names: Vec<_> = report.builders.iter().map(|builder| builder.commands.build.as_str()).collect();
    assert_eq!(
        names,
        [
            "docker buildx build --builder linkspan-1 -o type=linkspan,name=docker.io/library/demo:latest .",
            "docker buildx build --builder linkspan-2 -o type=linkspan,name=docker.io/library/demo:latest .",
        ]
    );
}

#[test]
fn the_keys_of_the_document_are_stable() {
    let report = judge(findings("docker"), Some(Inflate::Builtin), &[probed(Answer::Version(None))]);
    let mut document: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    let checks = document.as_object_mut().unwrap().remove("checks").unwrap();
    assert_eq!(
        checks[0],
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
                    "create": "docker buildx create --name linkspan --driver remote unix:///run/linkspan/buildkit.sock",
                    "build": "docker buildx build --builder linkspan --load -t demo .",
                },
            }],
            "docker_door": null,
            "buildx": [],
        })
    );
}
