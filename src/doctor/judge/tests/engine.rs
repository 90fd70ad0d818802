//! The findings about the engine.

use super::*;

#[test]
fn a_classic_store_has_no_containerd_and_needs_its_own_output() {
    let identity = Identity {
        kind: EngineKind::DockerClassic,
        version: "29.7.2".to_owned(),
        address: "unix:///d.sock".to_owned(),
        storage: Storage::Classic { storage_driver: "overlay2".to_owned() },
    };
    let engine: Arc<dyn Engine> = Arc::new(NamedEngine(identity));
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
               build with `-o type=linkspan,name=NAME`, or start
               `linkspan serve` with --plain-is-load where nobody writes files
               with `-o type=oci,dest=FILE` or `-o type=docker,dest=FILE`

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
fn what_is_to_be_done_for_a_cluster_names_it() {
    let cluster = || {
        let storage = Storage::Cluster {
            namespace: "k8s.io".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            parallel_unpack: true,
            nodes: vec!["dev-worker".to_owned()].into(),
        };
        let (kind, version, address) = (EngineKind::Cluster, "2.3.4".to_owned(), "kind://dev".to_owned());
        let engine: Arc<dyn Engine> = Arc::new(NamedEngine(Identity { kind, version, address, storage }));
        let selected = Ok(Selected { engine, reason: "as configured".to_owned() });
        doctor::Findings { selected, docker: None, containerd: None }
    };
    let words = |report: &Report| report.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let nothing = words(&judge(cluster(), None, &[]));
    assert!(nothing.contains("`linkspan serve --engine kind://dev` opens that of the exporter API"), "{nothing}");
    let direct = words(&judge(cluster(), None, &[recent()]));
    assert!(direct.contains("`--load` into cluster goes direct where docker's client finds a Docker"), "{direct}");
    // A builder that has no door yet.
    let builder = BuildxBuilder { driver: "remote".to_owned(), ..users_builder("far", "unix:///other.sock", None) };
    let report = super::super::judge(&found(cluster(), None, &[recent()], users(vec![builder])));
    assert!(words(&report).contains("linkspan serve --engine kind://dev --builder unix:///other.sock"), "{report}");

    // Beside a Linkspan that exports to docker: nothing that goes through its doors reaches the cluster.
    let running = status(Kind::Docker, "unix:///l.sock");
    let doors = [door(Kind::Docker, "unix:///l.sock"), door(Kind::Export, "unix:///e.sock")];
    let probe = running::Probe::Linkspan(Box::new(running.clone()));
    let fast = users_builder("fast", "unix:///l.sock", Some(probe));
    let subject = Some(RunningLinkspan { status: running, is_basis: false });
    let report = super::super::judge(&Facts { subject, ..found(cluster(), None, &doors, users(vec![fast])) });
    assert_eq!(report.commands, ["linkspan load IMAGE --to kind://dev"]);
    let said = words(&report);
    for text in [
        "the running Linkspan (process 7) exports elsewhere",
        "lead to docker at unix:///d.sock, and not to kind://dev",
        "its loads are direct exports into docker at unix:///d.sock",
        "of images of docker now, of builds as soon as `linkspan serve` runs",
    ] {
        assert!(said.contains(text), "{text}: {report}");
    }
    // One that exports there.
    let to_cluster = |door: Door| {
        let mut status = door.status().unwrap().clone();
        status.engine.kind = EngineKind::Cluster;
        status.engine.address = "kind://dev".to_owned();
        Door { state: DoorState::Open(Box::new(status)), ..door }
    };
    let export = to_cluster(door(Kind::Export, "unix:///e.sock"));
    let subject = Some(RunningLinkspan { status: export.status().unwrap().clone(), is_basis: false });
    let report = super::super::judge(&Facts { subject, ..found(cluster(), None, &[export], users(Vec::new())) });
    assert!(!words(&report).contains("elsewhere"), "{report}");
    assert_eq!(
        report.commands,
        ["linkspan load --to unix:///e.sock -i image.tar", "linkspan load IMAGE --to kind://dev"]
    );
}

#[test]
fn a_containerd_that_the_engine_does_not_use_is_reported() {
    let judged = |named: &str| {
        let found = found(findings(EngineKind::Docker), None, &[recent()], users(Vec::new()));
        super::super::judge(&Facts { containerd_address: Some(named.into()), ..found })
    };
    let is_noted = |report: &Report| report.checks.iter().any(|check| check.found.contains("was named"));
    assert!(!is_noted(&judged("/c.sock")));
    let report = judged("/other.sock");
    assert!(is_noted(&report) && report.works, "{report}");
}

#[test]
fn without_access_to_the_engine_the_running_linkspans_status_counts() {
    let denied = || EngineError::Permission { engine: "containerd", address: "/c.sock".to_owned() };
    let engine = doctor::Findings { selected: Err(denied()), docker: None, containerd: Some(Err(denied())) };
    let subject = RunningLinkspan { status: status(Kind::Buildkit, DOOR), is_basis: true };
    let found = Facts { subject: Some(subject), ..found(engine, None, &[recent()], users(Vec::new())) };
    let report = super::super::judge(&found);
    assert!(report.works, "{report}");
    assert_eq!(report.engine.unwrap().address, "unix:///d.sock");

    let gone = EngineError::Unreachable { engine: "docker", address: "d".to_owned(), reason: "gone".to_owned() };
    let engine = doctor::Findings { selected: Err(gone), docker: None, containerd: None };
    assert!(!super::super::judge(&Facts { engine, ..found }).works, "but an engine that is gone is gone");
}
