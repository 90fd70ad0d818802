//! `linkspan ps` while exports through several doors are under way.

use std::{io::Write as _, os::unix::net::UnixStream};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    common::{Stack, full_name, linkspan, until},
    engine::{ENGINES, Engine},
    fault_injection::Application,
    proxied::Proxied,
};

/// The exports that `linkspan ps` finds at `door`, ordered by the doors they came through.
fn ps(door: &str) -> Vec<Value> {
    let lines = linkspan(["ps", "--json", "--to", door]).ok().lines();
    let mut exports: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    exports.sort_by_key(|export| export["door"].as_str().map(str::to_owned));
    exports
}

#[test]
fn a_build_and_a_load_are_listed_at_every_door_until_they_end() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::docker(&stack);
    let docker = stack.fresh_path("-docker.sock");
    let [docker_door, export_door] =
        [&docker, &stack.fresh_path("-export.sock")].map(|path| format!("unix://{}", path.display()));
    let listen = ["--docker-listen", &docker_door, "--export-listen", &export_door].map(str::to_owned);
    let proxied = Proxied::with(engine, Stack::shared(), [&engine.args()[..], &listen].concat());
    let buildkit_door = proxied.linkspan.address();
    assert_eq!(ps(&export_door), Vec::<Value>::new());

    let build = proxied.build_half(&Application::new("listed").context, "listed:1");
    let mut load = UnixStream::connect(&docker).unwrap();
    load.write_all(b"POST /images/load HTTP/1.1\r\nHost: docker\r\nContent-Length: 1024\r\n\r\n").unwrap();
    until("the load to begin", || ps(&export_door).len(), |exports| *exports == 2);
    let user = format!("uid {}, gid {}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for door in [&buildkit_door, &docker_door, &export_door] {
        let [build, load] = &ps(door)[..] else { panic!("{door}") };
        assert_eq!((&build["door"], &build["state"]), (&"buildkit".into(), &"transferring".into()), "{build}");
        assert_eq!((&build["builder"], &build["names"][0]), (&proxied.builder.address().into(), &full("listed:1")));
        assert!(build["blobs"].as_u64() > Some(0) && build["bytes"].as_u64() > Some(0), "{build}");
        assert!(build["principal"].as_str().unwrap().starts_with(&user) && build["created"].is_u64(), "{build}");
        assert_eq!((&load["door"], &load["state"]), (&"docker".into(), &"loading".into()), "{load}");
        let this_process = format!("{user}, pid {}", std::process::id());
        assert_eq!(load["principal"], this_process.as_str());
    }
    let table = linkspan(["ps", "--to", &export_door]).ok();
    assert!(table.stdout.contains(" listed:1") && table.stdout.contains(&user), "{table}");

    drop(load);
    until("the load to end", || ps(&export_door), |exports| exports.len() == 1 && exports[0]["door"] == "buildkit");
    build.signal(Signal::KILL);
    build.wait();
    until("the build to end", || ps(&export_door), Vec::is_empty);
    let log = proxied.linkspan.log();
    assert!(log.contains(&format!("principal=\"{user}")), "{log}");
    engine.nothing_is_left();
}

fn full(tag: &str) -> Value {
    full_name(tag).into()
}
