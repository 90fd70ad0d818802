//! Findings about wrong configurations.

use std::os::unix::net::UnixListener;

use crate::common::{Linkspan, Stack};
use crate::{User, checks, json, unix};

#[test]
fn a_peer_that_is_no_builder_is_called_that() {
    let (stack, user) = (Stack::shared(), User::new());
    let containerd = format!("unix://{}", stack.containerd_address());
    let closed = unix(&stack.fresh_path(".sock"));
    let doctor = |builder: &str| {
        let run = user.linkspan(["doctor", "--json", "--builder", builder, "--buildkit-listen", &closed]);
        json(&user.has_buildx(run.args(stack.docker_flags()), "v0.36.1").fails().stdout)
    };
    let report = doctor(&containerd);
    let [check] = &checks(&report, "builder")[..] else { panic!("{report:#}") };
    assert!(check["found"].as_str().unwrap().contains("is no BuildKit"), "{check}");

    // A door of ours is named, and no door is proposed before it.
    let daemon = Linkspan::export(stack, &stack.docker_flags(), &[], stack.fresh_path(".sock"));
    let report = doctor(&daemon.address());
    let [check] = &checks(&report, "builder")[..] else { panic!("{report:#}") };
    assert!(check["found"].as_str().unwrap().contains("is the export door of a running Linkspan"), "{check}");
}

#[test]
fn a_builder_that_is_a_door_needs_no_door() {
    let (stack, user) = (Stack::shared(), User::new());
    let daemon = Linkspan::docker(stack);
    let run = user.linkspan(["doctor", "--json", "--builder", &daemon.address()]).args(stack.docker_flags());
    let report = json(&user.has_buildx(run, "v0.36.1").ok().stdout);
    let message = format!("the builder at {} is the buildkit door of a running Linkspan", daemon.address());
    assert!(checks(&report, "builder")[0]["found"].as_str().unwrap().starts_with(&message), "{report:#}");
    assert!(!report["commands"].to_string().contains("serve"), "{report:#}");
}

#[test]
fn another_programs_socket_is_no_open_door() {
    let (stack, user) = (Stack::shared(), User::new());
    let path = stack.fresh_path(".sock");
    let _somebody = UnixListener::bind(&path).unwrap();
    let silent = "what listens there is stopped or overloaded";
    for (taken, words) in [(unix(&path), silent), (stack.buildkit_host().to_owned(), "another program listens")] {
        let run = user.linkspan(["doctor", "--json", "--docker-listen", &taken]).args(stack.docker_flags());
        let report = json(&user.has_buildx(run, "v0.36.1").fails().stdout);
        assert_eq!((&report["docker_door"]["open"], &report["works"]), (&false.into(), &false.into()), "{report:#}");
        assert!(checks(&report, "door")[0]["found"].as_str().unwrap().contains(words), "{report:#}");
    }
}

#[test]
fn a_containerd_that_dockerd_does_not_use_is_reported() {
    let (stack, user) = (Stack::shared(), User::new());
    let closed = unix(&stack.fresh_path(".sock"));
    let doctor = |containerd: &str| {
        let run = user.linkspan(["doctor", "--json", "--export-listen", &closed, "--containerd-address", containerd]);
        json(&user.has_buildx(run.args(stack.docker_flags()), "v0.36.1").ok().stdout)
    };
    let is_noted = |report: &serde_json::Value| {
        let containerd = checks(report, "containerd");
        containerd.iter().any(|check| check["found"].as_str().unwrap().contains("was named"))
    };
    assert!(!is_noted(&doctor(stack.containerd_address())));
    assert!(is_noted(&doctor("/nonexistent/containerd.sock")));
}

#[test]
fn the_door_of_the_exporter_api_alone_is_fine() {
    let (stack, user) = (Stack::shared(), User::new());
    let closed = unix(&stack.fresh_path(".sock"));
    let run = user.linkspan(["doctor", "--export-listen", &closed]).args(stack.docker_flags());
    let text = user.has_buildx(run, "v0.36.1").ok().stdout;
    assert!(text.contains("A direct export can work as soon as `linkspan serve` runs"), "{text}");
    assert!(text.contains("linkspan load --to"), "{text}");
    for line in text.lines() {
        let is_one_word = line.split_whitespace().count() == 1;
        assert!(line.chars().count() <= 80 || is_one_word, "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }
}

#[test]
fn a_context_over_ssh_without_a_socket_is_told_the_one_of_a_door() {
    let (stack, user) = (Stack::shared(), User::new());
    let context = |args: &[&str]| {
        let docker = stack.docker(["context"]).args(args).env("DOCKER_CONFIG", user.home.path().join(".docker"));
        docker.without_env("DOCKER_HOST").ok();
    };
    context(&["create", "far", "--docker", "host=ssh://me@far"]);
    context(&["create", "there", "--docker", "host=ssh://me@far/run/linkspan/docker.sock"]);
    let doctor = || {
        let closed = unix(&stack.fresh_path(".sock"));
        let run = user.linkspan(["doctor", "--json", "--export-listen", &closed]).args(stack.docker_flags());
        json(&user.has_buildx(run, "v0.36.1").ok().stdout)
    };
    let report = doctor();
    let found: Vec<_> = checks(&report, "context").iter().map(|check| check["found"].as_str().unwrap()).collect();
    let expected = [
        "the docker context far goes to ssh://me@far, which is dockerd itself on me@far: whole images are sent; where Linkspan serves \
         there, name its socket",
        "the docker context there goes to /run/linkspan/docker.sock on me@far, which is not examined from here",
    ];
    assert_eq!(found, expected, "{report:#}");
    let remedy = checks(&report, "context")[0]["remedy"].to_string();
    assert!(
        remedy.contains("docker context create linkspan --docker host=ssh://me@far/run/linkspan/docker.sock"),
        "{remedy}"
    );
    // Linkspan on this machine is none of what the current context is about.
    context(&["use", "there"]);
    doctor();
}
