//! `docker linkspan …`, by docker's own command line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::common::{self, Run, Stack, unix, until};

/// A user's folder of docker, with the plugin.
struct User {
    folder: TempDir,
}

impl User {
    fn new() -> Self {
        let user = Self { folder: tempfile::tempdir().unwrap() };
        let output = user.setup(&[]).ok();
        assert!(output.stdout.contains("`docker linkspan` works"), "{output}");
        user
    }

    fn setup(&self, args: &[&str]) -> Run {
        common::linkspan(["setup", "plugin"]).args(args).env("DOCKER_CONFIG", self.folder.path())
    }

    fn link(&self) -> PathBuf {
        self.folder.path().join("cli-plugins/docker-linkspan")
    }

    /// `docker ARGS` of this user, who has no engine of his own.
    fn docker(&self, args: &[&str]) -> Run {
        let run = Stack::shared().run("docker").args(args).without_env("DOCKER_HOST").without_env("CONTAINERD_ADDRESS");
        run.env("DOCKER_CONFIG", self.folder.path())
    }
}

#[test]
fn docker_knows_the_plugin_and_calls_it() {
    let (user, stack) = (User::new(), Stack::shared());
    let version = format!("linkspan {}", env!("CARGO_PKG_VERSION"));
    assert!(user.docker(&["linkspan", "version"]).ok().stdout.starts_with(&version));
    let help = user.docker(&["linkspan", "--help"]).ok().stdout;
    assert!(
        help.contains("Usage: docker linkspan") && help.contains("docker linkspan") && help.contains("serve"),
        "{help}"
    );
    let help = user.docker(&["help", "linkspan"]).ok().stdout;
    assert!(help.contains("Usage: docker linkspan"), "{help}");
    assert!(user.docker(&["--help"]).ok().stdout.contains("linkspan*"), "it is among docker's commands");

    let format = ["-H", stack.docker_host(), "info", "--format", "{{json .ClientInfo.Plugins}}"];
    let plugins: serde_json::Value = serde_json::from_str(&user.docker(&format).ok().stdout).unwrap();
    let plugin = plugins.as_array().unwrap().iter().find(|plugin| plugin["Name"] == "linkspan").unwrap();
    assert_eq!((&plugin["SchemaVersion"], &plugin["Version"]), (&"0.1.0".into(), &env!("CARGO_PKG_VERSION").into()));
    assert!(plugin.get("Err").is_none(), "{plugin}");

    let output = user.docker(&["linkspan", "nonsense"]).fails();
    assert!(output.status.code() == Some(2) && output.stderr.contains("nonsense"), "{output}");
}

#[test]
fn docker_s_own_options_say_which_engine_is_meant() {
    let (user, stack) = (User::new(), Stack::shared());
    stack.docker(["pull", stack.base_image()]).ok();
    stack.docker(["tag", stack.base_image(), "plugin-base:1"]).ok();
    let host = format!("host={}", stack.docker_host());
    user.docker(&["context", "create", "far", "--docker", &host]).ok();
    let engine = ["linkspan", "images", "--engine", "docker"];
    for globals in [&["-H", stack.docker_host()][..], &["--context", "far"], &["-D", "--host", stack.docker_host()]] {
        let output = user.docker(&[globals, &engine[..]].concat()).ok();
        assert!(output.stdout.contains("plugin-base"), "{output}");
    }
    // The option comes before the variable, as for docker.
    let output =
        user.docker(&[&["--context", "far"][..], &engine].concat()).env("DOCKER_HOST", "unix:///nowhere.sock").ok();
    assert!(output.stdout.contains("plugin-base"), "{output}");
    let output = user.docker(&[&["--tlskey", "/k"][..], &engine].concat()).fails();
    assert!(output.stderr.contains("--tlskey") && output.stderr.contains("hint: "), "{output}");
}

#[test]
fn docker_completes_the_plugin_s_words() {
    let user = User::new();
    let complete = |words: &[&str]| user.docker(&[&["__complete", "linkspan"][..], words].concat()).ok().stdout;
    let words = |answer: &str| -> Vec<String> {
        let words = answer.lines().filter_map(|line| line.split('\t').next());
        words.filter(|word| !word.starts_with(':')).map(str::to_owned).collect()
    };
    assert_eq!(words(&complete(&["compl"])), ["completion"]);
    assert_eq!(words(&complete(&["completion", "z"])), ["zsh"]);
    assert_eq!(words(&complete(&["doctor", "--dry"])), ["--dry-run"]);
    assert!(complete(&["load", "-i", ""]).ends_with(":0\n"), "the shell completes files");
    assert!(complete(&["ser"]).starts_with("serve\t"), "words have descriptions");
}

#[test]
fn a_plugin_ends_when_docker_is_told_to() {
    let (user, stack) = (User::new(), Stack::shared());
    let door = stack.fresh_path(".sock");
    let (name, value) = stack.mark();
    let mut command = Command::new("docker");
    command.args(["linkspan", "serve", "--engine", "docker", "--docker-host", stack.docker_host()]);
    command.args(["--docker-listen", &unix(&door)]).env("DOCKER_CONFIG", user.folder.path()).env(name, value);
    command.env("PATH", stack.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut docker = command.spawn().unwrap();
    until("the door", || UnixStream::connect(&door).is_ok(), |open| *open);
    // Only docker: what is no terminal sends the plugin no signal.
    kill_process(Pid::from_child(&docker), Signal::TERM).unwrap();
    until("docker to end", || docker.try_wait().unwrap(), Option::is_some);
    until("the door to close", || door.exists(), |there| !there);
}

/// `docker linkspan ARGS` in a process group of its own, as a service manager starts it; its standard input stays open.
fn start(user: &User, path: &Path, args: &[&str]) -> Child {
    let stack = Stack::shared();
    let (name, value) = stack.mark();
    let mut command = Command::new("docker");
    command.arg("linkspan").args(args).env("DOCKER_CONFIG", user.folder.path()).env(name, value).process_group(0);
    command.env("PATH", format!("{}:{}", path.display(), stack.path()));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Whether the plugin of `docker` has a thread in which the kernel waits as `wait` says, for the other side of a pipe.
fn waits(docker: &Child, wait: &str) -> bool {
    let read = |file: String| fs::read_to_string(file).unwrap_or_default();
    let tasks = |pid: &str| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.map(|task| task.path().display().to_string()).collect::<Vec<_>>()
    };
    let children = tasks(&docker.id().to_string()).into_iter().map(|task| read(format!("{task}/children")));
    let children: Vec<_> = children.flat_map(|pids| pids.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    // docker asks each plugin what it is, in processes that end.
    let called = children.iter().filter(|pid| read(format!("/proc/{pid}/cmdline")).contains("\0linkspan\0"));
    called.into_iter().any(|pid| tasks(pid).iter().any(|task| read(format!("{task}/wchan")).contains(wait)))
}

#[test]
fn a_plugin_that_waits_ends_by_a_code_when_it_is_interrupted() {
    let user = User::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    Run::new("mkfifo").args([path("fifo")]).ok();
    let (fifo, archive, layout) = (path("fifo"), format!("docker-archive:{}", path("fifo")), path("layout"));
    let (bin, connected) = (folder.path().join("bin"), folder.path().join("connected"));
    fs::create_dir(&bin).unwrap();
    // An ssh whose host says nothing.
    let ssh = format!("#!/bin/sh\n: >{}\nexec sleep 1000\n", connected.display());
    fs::write(bin.join("ssh"), ssh).unwrap();
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let to_layout = format!("oci:{layout}:new");
    let engine = ["--engine", "layout", "--layout", &layout];
    let pipe = [&["load", "-i", &fifo][..], &engine].concat();
    let input = [&["load"][..], &engine].concat();
    let (copied, far) = (["copy", &archive, &to_layout], ["images", "--to", "ssh://far"]);
    let opening = "wait_for_partner";
    for (args, wait) in [(&pipe[..], opening), (&copied, opening), (&input, "pipe_read"), (&far, "")] {
        // To docker and its plugin at once, as a terminal and a service manager send it; or to docker alone, which closes the
        // plugin's socket, whatever the signal was.
        for (signal, to_all, code) in
            [(Signal::INT, true, 130), (Signal::TERM, true, 143), (Signal::INT, false, 130), (Signal::TERM, false, 130)]
        {
            let _ = fs::remove_file(&connected);
            let mut docker = start(&user, &bin, args);
            let is_waiting = || if wait.is_empty() { connected.exists() } else { waits(&docker, wait) };
            until("the plugin to wait", is_waiting, |waiting| *waiting);
            let pid = Pid::from_child(&docker);
            if to_all { kill_process_group(pid, signal) } else { kill_process(pid, signal) }.unwrap();
            // Its standard input stays open: `wait` would close it.
            let status = until("docker to end", || docker.try_wait().unwrap(), Option::is_some).unwrap();
            assert_eq!(status.code(), Some(code), "{args:?}, {signal:?}, to all: {to_all}");
        }
    }
}

#[test]
fn the_link_is_made_once_and_removed_and_nothing_else_is() {
    let user = User::new();
    assert_eq!(fs::read_link(user.link()).unwrap(), Path::new(env!("CARGO_BIN_EXE_linkspan")));
    assert!(user.setup(&[]).ok().stdout.contains("already"));
    let report: serde_json::Value = serde_json::from_str(&user.setup(&["--json"]).ok().stdout).unwrap();
    assert_eq!(report["changed"], false);
    // That of an earlier place is replaced.
    fs::remove_file(user.link()).unwrap();
    std::os::unix::fs::symlink("/opt/old/linkspan", user.link()).unwrap();
    user.setup(&[]).ok();
    user.docker(&["linkspan", "version"]).ok();
    assert_eq!(fs::read_dir(user.link().parent().unwrap()).unwrap().count(), 1);

    user.setup(&["--undo"]).ok();
    user.docker(&["linkspan", "version"]).fails();
    assert!(user.setup(&["--undo"]).fails().stderr.contains("nothing to undo"));
    fs::write(user.link(), "of another").unwrap();
    for args in [&[][..], &["--undo"]] {
        let output = user.setup(args).fails();
        assert!(output.stderr.contains("no link to linkspan") && output.stderr.contains("hint: "), "{output}");
    }
    assert_eq!(fs::read_to_string(user.link()).unwrap(), "of another");
}

#[test]
fn a_link_to_a_program_of_another_name_is_known_by_the_program_itself() {
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("linkspan-0.9-amd64");
    fs::copy(env!("CARGO_BIN_EXE_linkspan"), &renamed).unwrap();
    let called = folder.path().join("ls-dbg");
    std::os::unix::fs::symlink(&renamed, &called).unwrap();
    let setup = |args: &[&str]| {
        Run::new(called.to_str().unwrap()).args(["setup", "plugin"]).args(args).env("DOCKER_CONFIG", folder.path())
    };
    let link = folder.path().join("cli-plugins/docker-linkspan");
    setup(&[]).ok();
    assert_eq!(fs::read_link(&link).unwrap(), renamed);
    assert!(setup(&[]).ok().stdout.contains("works already"));
    setup(&["--undo"]).ok();
    assert!(!link.is_symlink());
    // By one that is there under two names.
    std::os::unix::fs::symlink(&called, &link).unwrap();
    setup(&["--undo"]).ok();
    // That of another program stays.
    std::os::unix::fs::symlink("/bin/true", &link).unwrap();
    assert!(setup(&["--undo"]).fails().stderr.contains("no link to linkspan"));
    assert!(setup(&[]).fails().stderr.contains("no link to linkspan"));
}

#[test]
fn in_a_folder_that_docker_does_not_search_the_plugin_is_not_said_to_work() {
    let user = User::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().canonicalize().unwrap();
    let dir = elsewhere.join("b");
    let output = user.setup(&["--dir", common::text(&dir)]).ok();
    assert!(!output.stdout.contains("works"), "{output}");
    for words in [
        "but docker does not look there",
        common::text(&user.folder.path().join("cli-plugins")),
        "/usr/libexec/docker/cli-plugins",
        &format!("\nUndo it with: linkspan setup plugin --undo --dir {}\n", dir.display()),
    ] {
        assert!(output.stdout.contains(words), "{words}: {output}");
    }
    // What it says undoes it, from anywhere.
    user.setup(&["--undo", "--dir", common::text(&dir)]).ok();
    assert!(!dir.join("docker-linkspan").is_symlink());

    // A relative folder is one of this process.
    let output = user.setup(&["--dir", "c"]).dir(&elsewhere).ok();
    assert!(output.stdout.contains(common::text(&elsewhere.join("c/docker-linkspan"))), "{output}");
    assert!(output.stdout.contains(&format!("--dir {}", elsewhere.join("c").display())), "{output}");

    // docker is told to look there.
    let config = serde_json::json!({"cliPluginsExtraDirs": [dir]});
    fs::write(user.folder.path().join("config.json"), config.to_string()).unwrap();
    user.setup(&["--undo"]).ok();
    let report: serde_json::Value =
        serde_json::from_str(&user.setup(&["--json", "--dir", common::text(&dir)]).ok().stdout).unwrap();
    assert_eq!((&report["changed"], &report["searched"]), (&true.into(), &true.into()));
    user.docker(&["linkspan", "version"]).ok();
}
