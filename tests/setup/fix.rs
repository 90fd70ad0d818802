//! `linkspan doctor --fix`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::common::{self, Run};

/// A user with sockets of their own, and builders.
struct User(TempDir);

const BACK: &str = "unix:///nowhere/docker.sock";

impl User {
    fn new() -> Self {
        let user = Self(tempfile::tempdir().unwrap());
        for folder in ["linkspan", "buildx/instances", "buildx/linkspan"] {
            fs::create_dir_all(user.path(folder)).unwrap();
        }
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A builder that goes to `endpoint`, and was sent there by `linkspan setup` if `sent`.
    fn builder(&self, name: &str, endpoint: &str, sent: bool) {
        let node = format!("{name}0");
        let builder = serde_json::json!({"Name": name, "Driver": "docker-container", "Nodes": [{"Name": node, "Endpoint": endpoint}]});
        fs::write(self.path("buildx/instances").join(name), builder.to_string()).unwrap();
        if sent {
            let record = serde_json::json!({node: BACK});
            fs::write(self.path("buildx/linkspan").join(format!("{name}.json")), record.to_string()).unwrap();
        }
    }

    fn endpoint(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path("buildx/instances").join(name)).unwrap();
        let builder: serde_json::Value = serde_json::from_str(&text).unwrap();
        builder["Nodes"][0]["Endpoint"].as_str().unwrap().to_owned()
    }

    fn fix(&self, args: &[&str]) -> Run {
        self.doctor(&[&["--fix"], args].concat())
    }

    /// In a mount namespace of its own: nobody's sockets in `/run` are there.
    fn doctor(&self, args: &[&str]) -> Run {
        let program = env!("CARGO_BIN_EXE_linkspan");
        let hidden = ["-m", "sh", "-c", "mount -t tmpfs none /run && exec \"$@\"", "sh", program, "doctor"];
        let run = Run::new("unshare").args(hidden).args(args).env("XDG_RUNTIME_DIR", self.0.path());
        let run = run.env("BUILDX_CONFIG", self.path("buildx")).env("DOCKER_CONFIG", self.0.path());
        ["DOCKER_HOST", "BUILDKIT_HOST", "DOCKER_CONTEXT"].iter().fold(run, |run, name| run.without_env(name))
    }
}

#[test]
fn what_nobody_uses_is_mended_and_all_else_stays() {
    let user = User::new();
    drop(UnixListener::bind(user.path("linkspan/stale.sock")).unwrap());
    let live = user.path("linkspan/live.sock");
    let held = UnixListener::bind(&live).unwrap();
    held.set_nonblocking(true).unwrap();
    fs::create_dir(user.path("linkspan/docker.sock")).unwrap();
    fs::create_dir_all(user.path("linkspan/full.sock/of")).unwrap();
    let gone = common::unix(&user.path("linkspan/gone.sock"));
    user.builder("stranded", &gone, true);
    user.builder("others", &gone, false);
    user.builder("served", &common::unix(&live), true);

    let planned = user.fix(&["--dry-run"]).fails();
    assert_eq!((planned.status.code(), planned.lines().len()), (Some(1), 3), "{planned}");
    let asked = user.fix(&[]).fails();
    assert!(asked.status.code() == Some(2) && asked.stderr.contains("--yes"), "{asked}");
    assert!(user.path("linkspan/stale.sock").exists() && user.path("linkspan/docker.sock").exists());
    assert_eq!(user.endpoint("stranded"), gone);

    let report: serde_json::Value = serde_json::from_str(&user.fix(&["--yes", "--json"]).ok().stdout).unwrap();
    let mut mended: Vec<_> = report
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["kind"].as_str().unwrap(), it["state"].as_str().unwrap()))
        .collect();
    mended.sort_unstable();
    assert_eq!(mended, [("empty-folder", "done"), ("stale-socket", "done"), ("stranded-builder", "done")], "{report}");
    assert!(!user.path("linkspan/stale.sock").exists() && !user.path("linkspan/docker.sock").exists());
    assert!(live.exists() && user.path("linkspan/full.sock/of").exists());
    assert_eq!((user.endpoint("stranded"), user.endpoint("others")), (BACK.to_owned(), gone));
    assert_eq!(user.endpoint("served"), common::unix(&live));
    let output = user.fix(&["--yes"]).ok();
    assert!(output.stdout.contains("nothing that can be mended"), "{output}");
    // Nobody has connected: a service manager that holds the socket would have started its program.
    assert_eq!(held.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_builder_whose_door_is_gone_is_a_failure_until_it_is_mended() {
    let user = User::new();
    let gone = common::unix(&user.path("linkspan/gone.sock"));
    user.builder("stranded", &gone, true);
    let layout = user.path("layout");
    let doctor = || user.doctor(&["--json", "--engine", "layout", "--layout", layout.to_str().unwrap()]).output();
    let output = doctor();
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let failed: Vec<_> = report["checks"].as_array().unwrap().iter().filter(|it| it["mark"] == "fail").collect();
    let [check] = failed.as_slice() else { panic!("{output}") };
    let (found, remedy) = (check["found"].as_str().unwrap(), check["remedy"].as_str().unwrap());
    assert!(found.contains("builder stranded") && found.contains("no build with it works"), "{found}");
    let serve = format!("linkspan serve --docker-listen {gone}");
    let ways = [&*serve, "setup buildx stranded --undo", "doctor --fix"];
    assert!(ways.iter().all(|way| remedy.contains(way)), "{remedy}");
    // Others could export.
    assert!(output.status.code() == Some(1) && report["works"] == true, "{output}");
    // What is planned and what was done are told apart.
    let found = format!("builder stranded goes to {gone}, where nobody listens");
    let planned = user.fix(&["--dry-run"]).fails();
    assert_eq!(planned.stdout, format!("{found}; --fix would: send builder stranded back to {BACK}\n"));
    let done = user.fix(&["--yes"]).ok();
    assert_eq!(done.stdout, format!("{found}: sent builder stranded back to {BACK}\n"));
    assert_eq!(user.endpoint("stranded"), BACK);
    assert!(!doctor().stdout.contains("--fix"));
}

#[test]
fn builders_that_cannot_be_read_keep_nothing_else_from_being_mended() {
    let user = User::new();
    drop(UnixListener::bind(user.path("linkspan/stale.sock")).unwrap());
    let gone = common::unix(&user.path("linkspan/gone.sock"));
    for name in ["aaa", "zzz"] {
        user.builder(name, &gone, true);
    }
    fs::write(user.path("buildx/instances/broken"), "no JSON").unwrap();
    // A builder whose record is broken is another one that cannot be looked at.
    user.builder("unrecorded", &gone, true);
    fs::write(user.path("buildx/linkspan/unrecorded.json"), "no JSON").unwrap();
    let output = user.fix(&["--yes"]).fails();
    assert!(!user.path("linkspan/stale.sock").exists(), "{output}");
    assert_eq!([user.endpoint("aaa"), user.endpoint("zzz")], [BACK, BACK], "{output}");
    assert_eq!(user.endpoint("unrecorded"), gone);
    let words = "not all of your builders were looked at: ";
    assert!(output.status.code() == Some(1) && output.stderr.matches(words).count() == 2, "{output}");
    assert!(output.stderr.contains("linkspan/unrecorded.json"), "{output}");
    fs::remove_file(user.path("buildx/linkspan/unrecorded.json")).unwrap();
    assert!(output.stderr.contains("instances/broken"), "{output}");
    // That alone is something which is left.
    let again = user.fix(&["--yes"]).fails();
    assert!(again.status.code() == Some(1) && !again.stdout.contains("nothing that can be mended"), "{again}");
    let planned = user.fix(&["--dry-run", "--json"]).fails();
    assert!(planned.stdout.trim() == "[]" && planned.stderr.contains(words), "{planned}");
}

#[test]
fn on_a_terminal_each_thing_is_asked_for() {
    let user = User::new();
    for name in ["a.sock", "b.sock"] {
        drop(UnixListener::bind(user.path("linkspan").join(name)).unwrap());
    }
    let program = env!("CARGO_BIN_EXE_linkspan");
    let script = format!("mount -t tmpfs none /run && {program} doctor --fix; echo code $?");
    let run = Run::new("unshare").args(["-m", "script", "-qec", &script, "/dev/null"]).stdin("n\ny\n");
    let run =
        run.env("SHELL", "/bin/sh").env("XDG_RUNTIME_DIR", user.0.path()).env("BUILDX_CONFIG", user.path("buildx"));
    let output = ["DOCKER_HOST", "BUILDKIT_HOST"].iter().fold(run, |run, name| run.without_env(name)).output();
    assert!(output.stdout.contains("a.sock? [y/N]") && output.stdout.contains("code 1"), "{output}");
    assert!(user.path("linkspan/a.sock").exists() && !user.path("linkspan/b.sock").exists(), "{output}");
}

#[test]
fn a_remote_builder_whose_door_is_gone_is_a_failure_too() {
    let user = User::new();
    let gone = common::unix(&user.path("bk.sock"));
    let builder = serde_json::json!({"Name": "far", "Driver": "remote", "Nodes": [{"Name": "far0", "Endpoint": gone}]});
    fs::write(user.path("buildx/instances/far"), builder.to_string()).unwrap();
    let layout = user.path("layout");
    let doctor = |args: &[&str]| {
        user.doctor(&[&["--engine", "layout", "--layout", layout.to_str().unwrap()], args].concat()).output()
    };
    let output = doctor(&["--json"]);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["about"] == "buildx").unwrap_or_else(|| panic!("{output}"));
    assert!(check["mark"] == "fail" && output.status.code() == Some(1), "{output}");
    let remedy = check["remedy"].as_str().unwrap();
    let serve = format!("start `linkspan serve --builder ADDR --buildkit-listen {gone}` again");
    assert!(remedy.starts_with(&serve) && !remedy.contains("opens a door for it"), "{remedy}");

    // In the text the command is whole: what is copied of a line runs, or is continued.
    let text = doctor(&[]).stdout;
    let from = text.find("`linkspan serve --builder").unwrap_or_else(|| panic!("{text}"));
    let command = text[from + 1..].split('`').next().unwrap();
    let continued = command.lines().rev().skip(1).all(|line| line.ends_with('\\'));
    assert!(continued, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.trim().split(' ').count() <= 2), "{text}");
}
