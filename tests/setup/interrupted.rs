//! Take-overs that fail or are interrupted, on a machine in a mount namespace of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{OURS, OWN, UNITS, contents, files, machine, machine_of_its_own, take_over};
use crate::common::Run;

/// A program of this machine's take-over that does `script` instead, if a test says so.
fn program(root: &Path, name: &str, script: &str) {
    let path = root.join("bin").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A machine in a mount namespace of its own, whose `systemctl` writes down its calls and does `script` when it is
/// called with `at`, once.
fn take_over_live(root: &Path, at: &str, script: &str) -> Run {
    let (calls, done) = (root.join("told"), root.join("done"));
    let (calls, done) = (calls.display(), done.display());
    let systemctl = format!(
        "echo \"$*\" >>{calls}\ncase \"$*\" in *is-*) exit 1;; esac\n\
         [ \"$*\" != '{at}' ] || [ -e {done} ] || {{ : >{done}; {script}; }}"
    );
    program(root, "systemctl", &systemctl);
    fs::create_dir_all(root.join("var/lib")).unwrap();
    let mounts = "set -e; mount -t tmpfs none /run; mkdir -p /run/systemd/system /etc/systemd /usr/local/bin\n\
                  mount --bind $0/etc/systemd /etc/systemd; mount -t tmpfs none /usr/local/bin\n\
                  mount --bind $0/var/lib /var/lib\n\
                  printf '#!/bin/sh\n' >/usr/local/bin/linkspan; chmod 755 /usr/local/bin/linkspan\n\
                  PATH=$0/bin:$PATH; export PATH; exec \"$@\"";
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/take-over");
    // A shell cannot trap a signal that was ignored when it began, as it is where tests run in the background of a script.
    let env = ["--default-signal=INT,QUIT", "unshare", "-m", "sh", "-c", mounts];
    Run::new("env").args(env).arg(root).arg(script)
}

/// The calls of `systemctl`, without queries.
fn calls(root: &Path) -> Vec<String> {
    let calls = fs::read_to_string(root.join("told")).unwrap_or_default();
    calls.lines().filter(|line| !line.contains("is-")).map(str::to_owned).collect()
}

#[test]
fn a_step_that_fails_undoes_those_before_it() {
    for (fails, words, restarts) in [
        ("--quiet enable linkspan.socket linkspan.service", "enabling linkspan.service failed", false),
        ("stop docker.service docker.socket", "restarting Docker with its new socket failed", true),
        ("start docker.socket docker.service", "restarting Docker with its new socket failed", true),
        ("restart linkspan.service", "starting linkspan.service failed", true),
    ] {
        let root = machine_of_its_own();
        let units = root.path().join(UNITS);
        let before = contents(&units);
        let output = take_over_live(root.path(), fails, "exit 1").fails();
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(output.stderr.contains(words) && output.stderr.contains("hint: see `journalctl"), "{output}");
        assert_eq!(contents(&units), before, "{output}");
        assert_eq!(files(&root.path().join("var")), [""; 0].map(PathBuf::from), "{output}");
        let calls = calls(root.path());
        if restarts {
            // Docker has its socket again.
            assert_eq!(calls.last().unwrap(), "start docker.socket docker.service", "{calls:?}");
        } else {
            // A container without a restart policy has not ended for nothing.
            assert!(!calls.iter().any(|line| line.contains("docker.service")), "{calls:?}");
        }
    }
}

#[test]
fn what_fails_before_anything_changed_changes_nothing() {
    let root = machine_of_its_own();
    let before = contents(&root.path().join("etc"));
    program(root.path(), "mkdir", "case \"$*\" in */var/lib/linkspan*) exit 1;; esac; exec /bin/mkdir \"$@\"");
    let output = take_over_live(root.path(), "", ":").fails();
    assert!(output.stderr.contains("remembering what was there failed"), "{output}");
    assert_eq!(contents(&root.path().join("etc")), before);
    assert_eq!(calls(root.path()), [""; 0]);
}

#[test]
fn a_torn_copy_of_a_unit_does_not_take_the_place_of_the_unit() {
    let root = machine_of_its_own();
    let units = root.path().join(UNITS);
    let before = contents(&units);
    // `cp -a FROM TO`
    program(
        root.path(),
        "cp",
        "case \"$2\" in */linkspan.service) head -c 5 \"$2\" >\"$3\"; exit 1;; esac; exec /bin/cp \"$@\"",
    );
    let output = take_over_live(root.path(), "", ":").fails();
    assert!(output.stderr.contains("/linkspan.service failed"), "{output}");
    assert_eq!(contents(&units), before, "{output}");
    assert_eq!(files(&root.path().join("var")), [""; 0].map(PathBuf::from), "{output}");
    assert_eq!(calls(root.path()), ["daemon-reload"], "Docker runs on");
    // Nothing of it is in the way.
    fs::remove_file(root.path().join("bin/cp")).unwrap();
    take_over_live(root.path(), "", ":").ok();
    take_over_live(root.path(), "", ":").arg("--undo").ok();
    assert_eq!(contents(&units), before);
}

#[test]
fn a_unit_that_cannot_be_put_back_is_still_kept() {
    for broken in ["mv", "cp"] {
        let root = machine_of_its_own();
        let units = root.path().join(UNITS);
        let before = contents(&units);
        take_over_live(root.path(), "", ":").ok();
        fs::remove_file(root.path().join("told")).unwrap();
        let script = format!("case \"$3\" in /etc/*) exit 1;; esac; exec /bin/{broken} \"$@\"");
        program(root.path(), broken, &script);
        let output = take_over_live(root.path(), "", ":").arg("--undo").fails();
        assert!(output.stderr.contains("not all could be put back"), "{output}");
        let kept = root.path().join("var/lib/linkspan/take-over/linkspan.service");
        assert_eq!(fs::read_to_string(kept).unwrap(), OWN);
        let calls = calls(root.path());
        assert!(!calls.iter().any(|line| line.contains("docker.service")), "what runs goes on: {calls:?}");
        fs::remove_file(root.path().join("bin").join(broken)).unwrap();
        take_over_live(root.path(), "", ":").arg("--undo").ok();
        assert_eq!(contents(&units), before);
        assert_eq!(files(&root.path().join("var")), [""; 0].map(PathBuf::from));
    }
}

#[test]
fn an_interrupted_take_over_and_an_impatient_undo_leave_docker_running() {
    // The whole foreground is interrupted by ^C: the script and what it waits for. It is, again, while that is undone.
    let interrupt = "kill -INT $PPID; kill -INT $$; exit 0";
    for at in ["stop docker.service docker.socket", "start docker.socket docker.service"] {
        let root = machine_of_its_own();
        let units = root.path().join(UNITS);
        let before = contents(&units);
        let again = format!("rm -f {}; {interrupt}", root.path().join("done").display());
        let output = take_over_live(root.path(), at, &again).fails();
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert_eq!(contents(&units), before, "{output}");
        assert_eq!(calls(root.path()).last().unwrap(), "start docker.socket docker.service", "{output}");

        fs::remove_file(root.path().join("told")).unwrap();
        take_over_live(root.path(), "", ":").ok();
        take_over_live(root.path(), at, &again).arg("--undo").ok();
        assert_eq!(contents(&units), before);
        assert_eq!(calls(root.path()).last().unwrap(), "start docker.socket docker.service");
    }
}

#[test]
fn a_second_take_over_that_fails_leaves_the_first_one() {
    for fails in ["start docker.socket docker.service", "restart linkspan.service"] {
        let root = machine_of_its_own();
        let units = root.path().join(UNITS);
        let before = contents(&units);
        take_over_live(root.path(), "", ":").ok();
        // As of an earlier version.
        let ours = units.join(OURS[2]);
        let text = fs::read_to_string(&ours).unwrap() + "# Of an earlier version.\n";
        fs::write(&ours, text).unwrap();
        let first = contents(root.path().join("etc").as_path());
        take_over_live(root.path(), fails, "exit 1").fails();
        assert_eq!(contents(root.path().join("etc").as_path()), first);
        take_over_live(root.path(), "", ":").arg("--undo").ok();
        assert_eq!(contents(&units), before);
    }
}

#[test]
fn a_docker_that_does_not_get_its_socket_from_systemd_is_left_alone() {
    let root = machine();
    let service = root.path().join("usr/lib/systemd/system/docker.service");
    fs::write(&service, "[Service]\nExecStart=/usr/bin/dockerd -H unix:///var/run/docker.sock\n").unwrap();
    let before = files(root.path());
    let output = take_over(root.path()).fails();
    assert!(output.stderr.contains("no fd:// in ExecStart") && output.stderr.contains("hint: "), "{output}");

    fs::remove_file(root.path().join("usr/lib/systemd/system/docker.socket")).unwrap();
    let output = take_over(root.path()).fails();
    assert!(output.stderr.contains("there is no docker.socket"), "{output}");
    assert_eq!(files(root.path()), &before[..1]);
}
