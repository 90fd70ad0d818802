//! The findings about builders, and about buildx.

use super::*;
use crate::build_outputs::SlowLoad;

#[test]
fn the_report_lists_which_of_the_users_builders_go_where() {
    let door_probe = Some(running::Probe::Linkspan(Box::new(status(Kind::Docker, "unix:///l.sock"))));
    let users =
        users(vec![users_builder("fast", "unix:///l.sock", door_probe), users_builder("slow", "unix:///d.sock", None)]);
    let report =
        super::super::judge(&found(findings(EngineKind::Docker), None, &[door(Kind::Docker, "unix:///l.sock")], users));
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
fn several_builders_have_names_of_their_own() {
    let containerd = |door: Door| Door { plain_is_load: false, ..closed(door) };
    let other = Door { listen: "unix:///other.sock".parse().unwrap(), ..recent() };
    let report = judge(findings(EngineKind::Containerd), None, &[containerd(recent()), containerd(other)]);
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
        |name: &str, address: &str| BuildxBuilder { driver: "remote".to_owned(), ..users_builder(name, address, None) };
    let context = |name: &str, host: &str| Context { name: name.to_owned(), host: host.to_owned() };
    let doors = [recent(), door(Kind::Docker, "unix:///l.sock")];
    let commands =
        |users: Users| super::super::judge(&found(findings(EngineKind::Docker), None, &doors, users)).commands;
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
fn a_load_that_compression_made_slow_gets_a_check_with_what_helps() {
    let load = |slow_load| {
        let status = Status { slow_load, ..status(Kind::Buildkit, DOOR) };
        let door = Door { state: DoorState::Open(Box::new(status)), ..recent() };
        judge(findings(EngineKind::Docker), None, &[door]).checks.into_iter().find(|check| check.about == "load")
    };
    assert_eq!(load(None), None);
    let slow =
        SlowLoad { builder: "unix:///b.sock".to_owned(), compressing_ms: 20_000, load_ms: 26_000, bytes: 230_000_000 };
    let check = load(Some(slow)).unwrap();
    assert_eq!(check.mark, Mark::Slow);
    assert!(check.found.starts_with("20.0 s of 26.0 s of a load from unix:///b.sock"), "{check:?}");
    assert!(check.remedy.unwrap().to_string().contains("--load-compression fast"));
}

#[test]
fn an_old_buildx_gets_a_note_on_what_goes_direct() {
    let judged = |version: &str, plain_is_load: bool| {
        let users = Users { version: Version::read(&format!("github.com/docker/buildx {version} x")), ..Users::none() };
        let report = super::super::judge(&found(
            findings(EngineKind::Docker),
            None,
            &[Door { plain_is_load, ..recent() }],
            users,
        ));
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
fn a_builder_whose_socket_is_of_a_group_is_said_to_run() {
    let remedy = |reason: &str| {
        let door = probed(BuilderProbe::Unreachable(format!("cannot connect to unix:///b.sock: {reason}")));
        let report = super::super::judge(&found(findings(EngineKind::Docker), None, &[door], users(Vec::new())));
        report.checks.iter().find(|check| check.about == "builder").unwrap().remedy.clone().unwrap().to_string()
    };
    let denied = remedy("Permission denied (os error 13)");
    assert!(denied.contains("as root, or as a user of the group") && !denied.contains("--addr"), "{denied}");
    assert!(remedy("No such file or directory (os error 2)").contains("`--addr unix:///b.sock`"));
}

#[test]
fn contexts_and_builders_over_ssh_are_told_the_socket_of_a_door_there() {
    let context = |name: &str, host: &str| Context { name: name.to_owned(), host: host.to_owned() };
    let contexts = vec![
        context("linkspan", "ssh://far/run/linkspan/docker.sock"),
        context("plain", "ssh://me@far:2222"),
        context("tcp", "tcp://far:2376"),
    ];
    let builders = vec![users_builder("there", "ssh://me@far:2222", None)];
    let users = Users { contexts, ..users(builders) };
    let report = super::super::judge(&found(findings(EngineKind::Docker), None, &[], users));
    let about = |about: &str| report.checks.iter().filter(|check| check.about == about).cloned().collect::<Vec<_>>();
    let words = |check: &Check| (check.mark, check.found.clone(), check.remedy.clone());
    let socket = "docker context create linkspan-2 --docker host=ssh://me@far:2222/run/linkspan/docker.sock";
    let advice = |words: &str| Some(crate::doctor::Remedy::Words(words.to_owned()));
    let command = || Some(crate::doctor::Remedy::Commands(vec![socket.to_owned()]));
    assert_eq!(
        about("context").iter().map(words).collect::<Vec<_>>(),
        [
            (
                Mark::Note,
                "the docker context linkspan goes to /run/linkspan/docker.sock on far, which is not examined from here"
                    .to_owned(),
                advice("`ssh far linkspan doctor` says whether a Linkspan serves there")
            ),
            (
                Mark::Slow,
                "the docker context plain goes to ssh://me@far:2222, which is dockerd itself on me@far: whole images are sent; where Linkspan serves there, name its socket"
                    .to_owned(),
                command()
            ),
        ]
    );
    let builder = about("buildx").iter().map(words).find(|(_, found, _)| found.contains("builder there")).unwrap();
    let found = "builder there (docker-container) goes to ssh://me@far:2222, which is dockerd itself on me@far: whole images are sent; where Linkspan serves there, name its socket";
    assert_eq!(builder, (Mark::Slow, found.to_owned(), command()));
}
