//! Getting builders through the door: `linkspan setup`, `scripts/take-over`.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{Builder, Context, Linkspan, Part, Run, Stack};
use tempfile::TempDir;

/// `linkspan ARGS`, told nothing by the machine's environment, for the user of `builder`.
fn linkspan<'a>(builder: &Builder<'_>, args: impl IntoIterator<Item = &'a str>) -> Run {
    let run = Run::new(env!("CARGO_BIN_EXE_linkspan")).args(args).env("BUILDX_CONFIG", builder.config());
    ["DOCKER_HOST", "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "BUILDKIT_HOST"]
        .iter()
        .fold(run, |run, name| run.without_env(name))
}

/// Whether a build by `builder` sends a tarball; what it builds is in the engine afterwards.
#[track_caller]
fn sends_a_tarball(builder: &Builder<'_>, context: &Context, tag: &str) -> bool {
    let output = builder.build(context.path(), ["--load", "-t", tag]).ok();
    output.stderr.contains("sending tarball")
}

#[test]
fn a_builder_that_exists_goes_through_the_door_and_back() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let builder = stack.container_builder(stack.docker_host(), "mine");
    let file = builder.config().join("instances/mine");
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 100_000, 7);
    assert!(sends_a_tarball(&builder, &context, "before"));
    let container = || {
        let show = ["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", "buildx_buildkit_mine0"];
        stack.docker(show).ok().stdout
    };
    let (started, settings) = (container(), fs::read_to_string(&file).unwrap());

    let door = Linkspan::docker_door(&stack);
    let setup = |args: &[&str]| {
        let ways = ["--docker-listen", &door.address(), "--docker-host", stack.docker_host()];
        linkspan(&builder, ["setup", "buildx", "mine"]).args(ways).args(args)
    };
    let doctor = || {
        let ways = ["doctor", "--json", "--docker-listen", &door.address(), "--docker-host", stack.docker_host()];
        let report = linkspan(&builder, ways).ok().stdout;
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["buildx"][0].clone()
    };
    assert_eq!(doctor()["remedy"], format!("linkspan setup buildx mine --docker-listen {}", door.address()));
    let output = setup(&[]).ok();
    let said = format!("builder mine: node mine0 goes to {} now, before to {}\n", door.address(), stack.docker_host());
    assert!(output.stdout.starts_with(&said) && output.stdout.contains("--undo"), "{output}");
    assert_eq!(doctor()["through"], "docker");
    let shown = builder.buildx(["inspect", "mine"]).ok();
    assert!(shown.lines().iter().any(|line| line.split_whitespace().eq(["Endpoint:", &door.address()])), "{shown}");
    assert!(!sends_a_tarball(&builder, &context, "through"));
    let output = builder.build(context.path(), ["--load", "-t", "through"]).ok();
    assert!(output.stderr.contains("CACHED"), "the cache is kept: {output}");
    assert_eq!(container(), started, "the container is the same one, and was not restarted");
    assert_eq!(stack.image("docker.io/library/through:latest"), stack.image("docker.io/library/before:latest"));

    setup(&["--undo"]).ok();
    assert_eq!(
        fs::read_to_string(&file).unwrap().parse::<serde_json::Value>().unwrap(),
        settings.parse::<serde_json::Value>().unwrap()
    );
    assert!(sends_a_tarball(&builder, &context, "after"));
    assert_eq!(container(), started);
}

#[test]
fn what_setup_cannot_do_is_said_and_nothing_is_changed() {
    let stack = Stack::shared();
    let builder = stack.container_builder(stack.docker_host(), "still");
    let file = builder.config().join("instances/still");
    let before = fs::read_to_string(&file).unwrap();
    let closed = format!("unix://{}", stack.fresh_path(".sock").display());
    for (args, words) in [
        (["setup", "buildx", "absent"], "buildx has no builder `absent`"),
        (["setup", "buildx", "still"], "does not answer"),
    ] {
        let ways = ["--docker-listen", &closed, "--docker-host", stack.docker_host()];
        let output = linkspan(&builder, args).args(ways).fails();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stderr.starts_with("linkspan: error: ") && output.stderr.contains(words), "{output}");
    }
    let output = linkspan(&builder, ["setup", "buildx"]).fails();
    assert_eq!(output.status.code(), Some(2), "{output}");
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}

/// What the take-over's units do: dockerd at another path, Linkspan at the usual one, and nobody was told.
#[test]
fn a_builder_that_knows_of_nothing_goes_through_a_door_at_the_usual_path() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let builder = stack.container_builder(stack.docker_host(), "unaware");
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 100_000, 8);
    assert!(sends_a_tarball(&builder, &context, "unaware"));
    let usual = Path::new(stack.docker_host().strip_prefix("unix://").unwrap());
    let engine = usual.with_file_name("docker-engine.sock");
    // A socket goes on being served under another name.
    fs::rename(usual, &engine).unwrap();
    let door = Linkspan::docker_door_at(&stack, &format!("unix://{}", engine.display()), usual.to_owned());
    assert!(!sends_a_tarball(&builder, &context, "unaware"));
    drop(door);
    // The door is killed, not drained: its socket is left, and in the way.
    fs::rename(&engine, usual).unwrap();
    assert!(sends_a_tarball(&builder, &context, "unaware"));
}

/// A folder that stands for a machine whose Docker gets its socket from systemd, as that of docker.com and Debian does.
fn machine() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::write(units.join("docker.socket"), "[Socket]\nListenStream=/run/docker.sock\nSocketGroup=docker\n").unwrap();
    let service = "[Service]\nExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock\n";
    fs::write(units.join("docker.service"), service).unwrap();
    root
}

fn take_over(root: &Path) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/take-over");
    Run::new(script).arg("--root").arg(root)
}

/// Every file and link below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

const UNITS: &str = "etc/systemd/system";
/// What a take-over writes there.
const OURS: [&str; 5] = [
    "docker.socket.d/linkspan-take-over.conf",
    "linkspan.service",
    "linkspan.service.d/take-over.conf",
    "linkspan.socket",
    "linkspan.socket.d/take-over.conf",
];
const ENABLED: [&str; 2] = ["multi-user.target.wants/linkspan.service", "sockets.target.wants/linkspan.socket"];

/// The values of `key` in a unit and its drop-in, in order; an empty one forgets those before it (systemd.syntax(7)).
fn values(texts: &[&str], key: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        match line.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')) {
            Some("") => found.clear(),
            Some(value) => found.push(value.to_owned()),
            None => {}
        }
    }
    found
}

#[test]
fn a_take_over_is_two_units_and_three_drop_ins_and_leaves_nothing_when_it_is_undone() {
    let root = machine();
    let before = files(root.path());
    take_over(root.path()).ok();
    let units = root.path().join(UNITS);
    let names: Vec<_> = OURS.iter().chain(&ENABLED).map(|name| units.join(name)).collect();
    assert_eq!(files(&units), names);
    let read = |name: &str| fs::read_to_string(units.join(name)).unwrap();

    let docker = read("docker.socket.d/linkspan-take-over.conf");
    // A list is emptied before it is filled again (systemd.socket(5)), or dockerd would listen at both paths.
    let engine = values(&["ListenStream=/run/docker.sock", &docker], "ListenStream");
    assert_eq!(engine, ["/run/docker-engine.sock"]);
    // What Linkspan is told is what dockerd and systemd are told.
    let (service, service_drop_in) = (read("linkspan.service"), read("linkspan.service.d/take-over.conf"));
    let told = values(&[&service, &service_drop_in], "Environment");
    let told =
        |name: &str| told.iter().rfind(|value| value.starts_with(name)).unwrap().split_once("=unix://").unwrap().1;
    assert_eq!(told("LINKSPAN_DOCKER_HOST"), engine[0]);
    let (socket, socket_drop_in) = (read("linkspan.socket"), read("linkspan.socket.d/take-over.conf"));
    let listens = values(&[&socket, &socket_drop_in], "ListenStream");
    assert_eq!(listens, [told("LINKSPAN_DOCKER_LISTEN"), told("LINKSPAN_EXPORT_LISTEN")]);
    assert_eq!(listens[0], "/run/docker.sock");
    // Without the drop-ins they are at the usual addresses, which need not be told.
    assert_eq!(values(&[&socket], "ListenStream"), ["/run/linkspan/docker.sock", "/run/linkspan/export.sock"]);
    // There before a container is, whatever fails and however often, and not taken away with the service.
    assert!(socket.contains("\nBefore=docker.service\n"));
    for unit in [&socket, &service] {
        assert!(unit.contains("\nStartLimitIntervalSec=0\n"), "{unit}");
    }
    assert!(socket.contains("\nTriggerLimitIntervalSec=0\n") && service.contains("\nRuntimeDirectoryPreserve=yes\n"));

    // A second time is as the first one.
    take_over(root.path()).ok();
    assert_eq!(files(&units), names);
    take_over(root.path()).arg("--undo").ok();
    assert_eq!(files(root.path()), before);
    let output = take_over(root.path()).arg("--undo").fails();
    assert!(output.stderr.contains("nothing was taken over"), "{output}");
}

#[test]
fn the_socket_unit_removes_an_empty_folder_that_is_in_its_place() {
    let root = machine();
    take_over(root.path()).ok();
    let drop_in = fs::read_to_string(root.path().join(UNITS).join("linkspan.socket.d/take-over.conf")).unwrap();
    let [command] = &values(&[&drop_in], "ExecStartPre")[..] else { panic!("{drop_in}") };
    let place = root.path().join("docker.sock");
    let command = command.strip_prefix("-/bin/sh -c '").unwrap().strip_suffix('\'').unwrap();
    let command = command.replace("/run/docker.sock", place.to_str().unwrap());
    let clear = || Run::new("sh").args(["-c", &command]).output();
    fs::create_dir(&place).unwrap();
    clear();
    assert!(!place.exists());
    for precious in [place.join("precious"), place.clone()] {
        fs::create_dir_all(precious.parent().unwrap()).unwrap();
        let _ = fs::remove_dir(&precious);
        fs::write(&precious, "").unwrap();
        clear();
        assert!(precious.exists());
        let _ = fs::remove_dir_all(&place);
    }
}

#[test]
fn systemd_understands_the_units() {
    let root = machine();
    take_over(root.path()).ok();
    let program = root.path().join("usr/local/bin/linkspan");
    for program in [&program, &root.path().join("bin/sh"), &root.path().join("usr/bin/dockerd")] {
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let verify = Run::new("systemd-analyze").arg("verify").arg(format!("--root={}", root.path().display()));
    let output = verify.args(["linkspan.socket", "linkspan.service"]).output();
    // What it says of units that this folder lacks is none of our business.
    for line in output.stderr.lines().filter(|line| line.contains("linkspan")) {
        for word in ["Unknown", "Invalid", "Failed to parse", "ignoring", "cycle", "not executable"] {
            assert!(!line.contains(word), "{output}");
        }
    }
}

#[test]
fn what_was_there_before_a_take_over_comes_back() {
    let root = machine();
    let units = root.path().join(UNITS);
    fs::create_dir_all(units.join("linkspan.service.d")).unwrap();
    fs::create_dir_all(units.join("multi-user.target.wants")).unwrap();
    let own = [
        ("linkspan.service", "[Service]\nExecStart=/opt/linkspan serve\n[Install]\nWantedBy=multi-user.target\n"),
        ("linkspan.service.d/take-over.conf", "[Service]\nNice=5\n"),
        ("linkspan.service.d/mine.conf", "[Service]\nNice=6\n"),
    ];
    for (name, text) in own {
        fs::write(units.join(name), text).unwrap();
    }
    // Masked, and enabled.
    std::os::unix::fs::symlink("/dev/null", units.join("linkspan.socket")).unwrap();
    std::os::unix::fs::symlink("../linkspan.service", units.join(ENABLED[0])).unwrap();
    let before = files(root.path());
    for _ in 0..2 {
        take_over(root.path()).ok();
        for name in OURS {
            let text = fs::read_to_string(units.join(name)).unwrap();
            assert!(text.starts_with("# Installed by Linkspan's take-over"), "{name}: {text}");
        }
    }
    take_over(root.path()).arg("--undo").ok();
    assert_eq!(files(root.path()), before);
    for (name, text) in own {
        assert_eq!(fs::read_to_string(units.join(name)).unwrap(), text, "{name}");
    }
    assert_eq!(fs::read_link(units.join("linkspan.socket")).unwrap(), Path::new("/dev/null"));
}

#[test]
fn a_take_over_of_an_earlier_version_can_be_undone_and_taken_further() {
    for further in [false, true] {
        let root = machine();
        let before = files(root.path());
        let units = root.path().join(UNITS);
        let mark = "# Installed by Linkspan's take-over: of an earlier version.\n";
        for (name, text) in [
            (OURS[0], format!("{mark}[Socket]\nListenStream=\nListenStream=/run/docker-engine.sock\n")),
            (
                OURS[1],
                "[Service]\nExecStart=/usr/local/bin/linkspan serve\n[Install]\nWantedBy=multi-user.target\n".into(),
            ),
            (OURS[2], format!("{mark}[Service]\nEnvironment=LINKSPAN_DOCKER_LISTEN=unix:///run/docker.sock\n")),
        ] {
            fs::create_dir_all(units.join(name).parent().unwrap()).unwrap();
            fs::write(units.join(name), text).unwrap();
        }
        if further {
            take_over(root.path()).ok();
        }
        take_over(root.path()).arg("--undo").ok();
        assert_eq!(files(root.path()), before);
    }
}

/// A program of this machine's take-over that does `script` instead, if a test says so.
fn program(root: &Path, name: &str, script: &str) {
    let path = root.join("bin").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A machine in a mount namespace of its own, whose `systemctl` writes down what it is told and does `script` when it is
/// told `at`, once.
fn take_over_live(root: &Path, at: &str, script: &str) -> Run {
    let (told, done) = (root.join("told"), root.join("done"));
    let (told, done) = (told.display(), done.display());
    let systemctl = format!(
        "echo \"$*\" >>{told}\ncase \"$*\" in *is-*) exit 1;; esac\n\
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
    Run::new("unshare").args(["-m", "sh", "-c", mounts]).arg(root).arg(script)
}

/// A [`machine`] with all of it below `/etc`, and a `linkspan.service` of its own.
fn machine_of_its_own() -> TempDir {
    let root = machine();
    let units = root.path().join(UNITS);
    fs::create_dir_all(&units).unwrap();
    for name in ["docker.socket", "docker.service"] {
        fs::copy(root.path().join("usr/lib/systemd/system").join(name), units.join(name)).unwrap();
    }
    fs::write(units.join("linkspan.service"), OWN).unwrap();
    root
}

const OWN: &str = "[Service]\nExecStart=/opt/linkspan serve\n";

/// The names and the contents of every file below `folder`.
fn contents(folder: &Path) -> Vec<(PathBuf, String)> {
    files(folder).into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap_or_default())).collect()
}

/// What `systemctl` was told, without questions.
fn told(root: &Path) -> Vec<String> {
    let told = fs::read_to_string(root.join("told")).unwrap_or_default();
    told.lines().filter(|line| !line.contains("is-")).map(str::to_owned).collect()
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
        let told = told(root.path());
        if restarts {
            // Docker has its socket again.
            assert_eq!(told.last().unwrap(), "start docker.socket docker.service", "{told:?}");
        } else {
            // A container without a restart policy has not ended for nothing.
            assert!(!told.iter().any(|line| line.contains("docker.service")), "{told:?}");
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
    assert_eq!(told(root.path()), [""; 0]);
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
    assert_eq!(told(root.path()), ["daemon-reload"], "Docker runs on");
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
        let told = told(root.path());
        assert!(!told.iter().any(|line| line.contains("docker.service")), "what runs goes on: {told:?}");
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
        assert_eq!(told(root.path()).last().unwrap(), "start docker.socket docker.service", "{output}");

        fs::remove_file(root.path().join("told")).unwrap();
        take_over_live(root.path(), "", ":").ok();
        take_over_live(root.path(), at, &again).arg("--undo").ok();
        assert_eq!(contents(&units), before);
        assert_eq!(told(root.path()).last().unwrap(), "start docker.socket docker.service");
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
