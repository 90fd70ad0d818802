//! The report as a whole.

use super::*;

#[test]
fn a_complete_setup_has_no_findings() {
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
        (
            judge(no_engine, None, &[recent()]),
            "engine",
            "docker does not respond at unix:///d.sock: Connection refused",
        ),
        (judge(no_containerd, None, &[recent()]), "containerd", "Connection refused"),
        (judge(findings(EngineKind::Docker), None, &[probed(BuilderProbe::TooOld)]), "builder", "older than 0.11"),
        (judge(findings(EngineKind::Docker), None, &[probed(BuilderProbe::NoBuilder)]), "builder", "is no BuildKit"),
        (
            judge(
                findings(EngineKind::Docker),
                None,
                &[Door { state: DoorState::Taken, ..door(Kind::Export, "unix:///x") }],
            ),
            "door",
            "another program listens there",
        ),
        (
            judge(findings(EngineKind::Docker), None, &[Door { state: DoorState::Other(Kind::Export), ..recent() }]),
            "door",
            "that is the export door of a Linkspan",
        ),
        (
            judge(
                findings(EngineKind::Docker),
                None,
                &[recent(), probed(BuilderProbe::Unreachable("gone".to_owned()))],
            ),
            "builder",
            "no response from the builder at unix:///b.sock: gone",
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
fn without_a_door_it_reports_how_to_open_one() {
    let report = judge(findings(EngineKind::Docker), None, &[]);
    assert!(report.works);
    let remedy = report.checks.last().unwrap().remedy.as_ref().unwrap().to_string();
    for way in ["--builder unix:///run/buildkit/buildkitd.sock", "unix:///run/linkspan/docker.sock"] {
        assert!(remedy.contains(way), "{remedy}");
    }
    assert!(report.conclusion.contains("as soon as `linkspan serve` runs"), "{}", report.conclusion);
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
fn beside_open_doors_those_that_are_not_open_are_not_proposed() {
    let (export, other) = (door(Kind::Export, "unix:///e.sock"), door(Kind::Docker, "unix:///other.sock"));
    let docker = door(Kind::Docker, "unix:///d2.sock");
    let doors = [closed(recent()), closed(other), docker, closed(door(Kind::Export, "unix:///x.sock")), export];
    let report = judge(findings(EngineKind::Docker), None, &doors);
    assert_eq!(
        report.commands,
        [
            "docker context create linkspan --docker host=unix:///d2.sock",
            "docker context use linkspan",
            "linkspan load --to unix:///e.sock -i image.tar",
        ]
    );
    assert_eq!(report.docker_door.unwrap().listen, "unix:///d2.sock");
}

#[test]
fn the_keys_of_the_document_are_stable() {
    let report = judge(findings(EngineKind::Docker), Some(Inflate::Builtin), &[probed(BuilderProbe::Version(None))]);
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
            "caches": null,
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
