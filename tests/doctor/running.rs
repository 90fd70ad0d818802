//! A Linkspan that runs is what is judged.

use std::path::Path;

use rustix::fs::{CWD, symlinkat};

use crate::common::{BUILDER_IMAGE, Linkspan, Part, Run, Stack};
use crate::{User, checks, json, unix};

/// The report of the doctor of `user` without any flag, for whom `docker` says version 0.36.1 of buildx.
fn report(user: &User, run: Run) -> serde_json::Value {
    json(&user.has_buildx(run.arg("--json"), "v0.36.1").output().stdout)
}

#[test]
fn without_flags_the_running_one_is_found_and_judged() {
    let (stack, user) = (Stack::shared(), User::new());
    let (docker, export) = (user.socket("docker.sock"), user.socket("export.sock"));
    let buildkit = user.socket("buildkit.sock");
    let listen = (unix(&docker), unix(&export));
    let mut args = stack.docker_flags().to_vec();
    args.extend(["--docker-listen", &listen.0, "--export-listen", &listen.1]);
    let _daemon = Linkspan::start_at(stack, &args, &[stack.buildkit_host()], vec![buildkit.clone()]);
    let report = report(&user, user.linkspan(["doctor"]));
    assert_eq!(report["works"], true, "{report:#}");
    assert_eq!(report["running"].as_array().unwrap().len(), 1);
    assert_eq!(report["engine"]["address"], stack.docker_host());
    assert_eq!(report["docker_door"]["open"], true);
    assert_eq!(report["export_door"]["open"], true);
    assert_eq!(report["builders"][0]["address"], stack.buildkit_host());
    assert!(report["builders"][0]["version"].as_str().is_some_and(|version| version.starts_with("v0.")), "{report:#}");
    assert_eq!(report["buildx_version"], "0.36.1");
    let commands: Vec<_> = report["commands"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(commands.contains(&&*format!("docker context create linkspan --docker host={}", listen.0)), "{commands:?}");
    assert!(
        commands.contains(&&*format!("docker buildx create --name direct --driver remote {}", unix(&buildkit))),
        "{commands:?}"
    );
    // The shell of somebody who uses the doors says nothing of engines and builders.
    let shell = user.linkspan(["doctor"]).env("DOCKER_HOST", &listen.0).env("BUILDKIT_HOST", unix(&buildkit));
    let report = self::report(&user, shell);
    assert_eq!(report["works"], true, "{report:#}");
    assert_eq!(report["engine"]["address"], stack.docker_host());
    assert_eq!(report["docker_door"]["context"], serde_json::Value::Null, "it is used already");
    let serves = report["commands"].to_string();
    assert!(!serves.contains("linkspan serve"), "no door before a door: {report:#}");
}

#[test]
fn users_builders_are_distinguished_by_what_listens_at_their_sockets() {
    let (stack, user) = (Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]), User::new());
    let mut daemon = Linkspan::docker(&stack);
    let door = daemon.address();
    let remote = stack.builder(&door);
    let doctor = |version: &str| {
        let run = user.linkspan(["doctor", "--json"]).env("BUILDX_CONFIG", remote.config());
        json(&user.has_buildx(run, version).output().stdout)
    };
    // In no place that anybody would look at, but where the builder goes.
    let report = doctor("v0.36.1");
    assert_eq!(report["works"], true, "{report:#}");
    assert_eq!((&report["buildx"][0]["through"], &report["buildx"][0]["direct"]), (&"buildkit".into(), &true.into()));
    assert_eq!(report["builders"][0]["commands"]["create"], serde_json::Value::Null, "there is one: {report:#}");
    assert_eq!(report["builders"][0]["commands"]["build"], "docker buildx build --builder remote --load -t demo .");

    let report = doctor("0.13.1+ds1-3");
    assert_eq!((&report["buildx"][0]["through"], &report["buildx"][0]["direct"]), (&"buildkit".into(), &false.into()));
    assert!(report["buildx"][0]["remedy"].as_str().unwrap().contains("update buildx to 0.24"), "{report:#}");
    let build = report["builders"][0]["commands"]["build"].as_str().unwrap();
    assert!(build.contains("-o type=linkspan,name="), "{build}");

    stack.kill(Part::Buildkitd);
    let report = doctor("v0.36.1");
    assert_eq!(report["buildx"][0]["direct"], false, "{report:#}");

    daemon.kill();
    let report = doctor("v0.36.1");
    assert_eq!((&report["buildx"][0]["through"], &report["buildx"][0]["direct"]), (&().into(), &false.into()));
}

#[test]
fn a_builder_in_a_container_is_probed_for_its_version() {
    let (stack, user) = (Stack::start(&[Part::Containerd, Part::Dockerd]), User::new());
    let daemon = Linkspan::docker_door(&stack);
    let builder = stack.container_builder(&daemon.address(), "inside");
    let doctor = || {
        let run = user.linkspan(["doctor", "--json"]).env("BUILDX_CONFIG", builder.config());
        json(&user.has_buildx(run, "v0.36.1").output().stdout)
    };
    let report = doctor();
    assert_eq!(report["buildx"][0]["through"], "docker", "{report:#}");
    assert_eq!(
        report["buildx"][0]["direct"], false,
        "it does not run yet, so nobody knows what it is ({BUILDER_IMAGE})"
    );
    builder.buildx(["inspect", "--bootstrap", "inside"]).ok();
    let report = doctor();
    assert_eq!(report["buildx"][0]["direct"], true, "{report:#}");
}

/// What the take-over's units do: the door is at the usual path, the engine beside it, and nobody was told.
#[test]
fn after_a_take_over_nothing_goes_past_linkspan() {
    let (stack, user) = (Stack::start(&[Part::Containerd, Part::Dockerd]), User::new());
    let builder = stack.container_builder(stack.docker_host(), "unaware");
    builder.buildx(["inspect", "--bootstrap", "unaware"]).ok();
    let usual = Path::new(stack.docker_host().strip_prefix("unix://").unwrap());
    let engine = usual.with_file_name("docker-engine.sock");
    std::fs::rename(usual, &engine).unwrap();
    let _door = Linkspan::docker_door_at(&stack, &unix(&engine), usual.to_owned(), &[]);
    // `/var/run` is a link on most machines.
    let link = stack.fresh_path(".sock");
    symlinkat(usual, CWD, &link).unwrap();
    for shell in [unix(usual), unix(&link)] {
        let run = user.linkspan(["doctor"]).env("BUILDX_CONFIG", builder.config()).env("DOCKER_HOST", shell);
        let report = report(&user, run);
        assert_eq!(report["works"], true, "{report:#}");
        assert_eq!(report["engine"]["address"], unix(&engine));
        assert_eq!((&report["buildx"][0]["through"], &report["buildx"][0]["direct"]), (&"docker".into(), &true.into()));
        assert_eq!(report["docker_door"]["context"], serde_json::Value::Null);
        assert!(checks(&report, "buildx").iter().all(|check| check["mark"] == "ok"), "{report:#}");
    }
}

#[test]
fn setup_requests_the_door_of_the_running_one() {
    let (stack, user) = (Stack::start(&[Part::Containerd, Part::Dockerd]), User::new());
    let builder = stack.container_builder(stack.docker_host(), "mine");
    let door = user.socket("docker.sock");
    let daemon = Linkspan::docker_door_at(&stack, stack.docker_host(), door.clone(), &[]);
    let setup =
        |args: &[&str]| user.linkspan(["setup", "buildx", "mine"]).args(args).env("BUILDX_CONFIG", builder.config());
    let output = setup(&[]).ok();
    let message = format!("now goes to {}\n  (before: {})", unix(&door), stack.docker_host());
    assert!(output.stdout.contains(&message), "{output}");
    assert!(setup(&[]).ok().stdout.contains("goes through the docker door"), "once more changes nothing");
    setup(&["--undo"]).ok();

    // Somebody else's socket is no door, and what the door says counts more than what the shell says.
    let output = setup(&["--docker-listen", stack.docker_host(), "--docker-host", "unix:///nowhere.sock"]).fails();
    assert!(output.stderr.contains("is no docker door"), "{output}");
    setup(&["--docker-listen", &daemon.address()]).env("DOCKER_HOST", "unix:///nowhere.sock").ok();
}

#[test]
fn setup_finds_the_doors_that_the_doctor_finds_and_undoes_what_it_did_whatever_runs() {
    let (stack, user) = (Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]), User::new());
    let builder = stack.container_builder(stack.docker_host(), "mine");
    // In no folder of Linkspan's: the user only knows the door of the builder.
    let (docker, buildkit) = (stack.fresh_path("-docker.sock"), stack.fresh_path("-buildkit.sock"));
    let listen = unix(&docker);
    let args = [&stack.docker_flags()[..], &["--docker-listen", &listen]].concat();
    let mut daemon = Linkspan::start_at(&stack, &args, &[stack.buildkit_host()], vec![buildkit.clone()]);
    let config = builder.config();
    let setup = |args: &[&str]| user.linkspan(["setup", "buildx", "mine"]).args(args).env("BUILDX_CONFIG", config);
    let shell = |run: Run| run.env("BUILDKIT_HOST", unix(&buildkit));
    let there = format!("now goes to {listen}\n  (before: {})", stack.docker_host());
    let back = format!("now goes to {}\n  (before: {listen})", stack.docker_host());

    let unknown = setup(&[]).fails();
    let hint = "or name the door that is open with --docker-listen";
    assert!(unknown.stderr.contains(hint), "{unknown}");
    let report = self::report(&user, shell(user.linkspan(["doctor"])).env("BUILDX_CONFIG", config));
    assert_eq!(report["docker_door"]["listen"], listen, "{report:#}");
    let output = shell(setup(&[])).ok();
    assert!(output.stdout.contains(&there), "{output}");
    // The builder itself leads to the door now.
    let output = setup(&["--undo"]).ok();
    assert!(output.stdout.contains(&back), "{output}");
    shell(setup(&[])).ok();
    daemon.terminate();
    let output = setup(&["--undo"]).ok();
    assert!(output.stdout.contains(&back), "{output}");
    let nothing = setup(&["--undo"]).fails();
    assert!(nothing.stderr.contains("there is nothing to undo"), "{nothing}");
}

#[test]
fn a_builder_has_the_door_that_is_open_and_no_other() {
    let (stack, user) = (Stack::shared(), User::new());
    let door = user.socket("elsewhere.sock");
    let limits = ["--cache-max-bytes", "20GB", "--cache-max-age", "30d", "--cache-max-count", "50"];
    let args = [&stack.docker_flags()[..], &limits, &["--allow-cache", "ci/*"]].concat();
    let _daemon = Linkspan::start_at(stack, &args, &[stack.buildkit_host()], vec![door.clone()]);
    let shell = || user.linkspan(["doctor"]).env("BUILDKIT_HOST", stack.buildkit_host());
    let report = report(&user, shell());
    assert_eq!(report["works"], true, "{report:#}");
    let listens: Vec<_> = report["builders"].as_array().unwrap().iter().map(|it| &it["listen"]).collect();
    assert_eq!(listens, [&unix(&door)], "{report:#}");
    assert_eq!(checks(&report, "door").len(), 1, "{report:#}");
    assert!(!report.to_string().contains("unix:///run/linkspan/buildkit.sock"), "{report:#}");
    let [caches] = &checks(&report, "caches")[..] else { panic!("{report:#}") };
    let expected = "the running Linkspan keeps at most 20000 MB, at most 50 in all, those of the last 720 hours; only some \
                    refs may be written (--allow-cache)";
    assert!(caches["found"].as_str().unwrap().ends_with(expected), "{caches}");
    assert_eq!(report["running"][0]["policy"]["cache_max_count"], 50);

    // An address that is asked for is judged, open or not; and only what is open is proposed.
    let configured = unix(&user.socket("asked.sock"));
    let report = self::report(&user, shell().args(["--buildkit-listen", &configured]));
    assert_eq!(report["builders"].as_array().unwrap().len(), 2, "{report:#}");
    assert!(!report["commands"].to_string().contains(&configured), "{report:#}");
}
