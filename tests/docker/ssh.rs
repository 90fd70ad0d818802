//! Docker's own client over a real ssh, with the docker door of the host there as its context; and the contexts of docker's
//! client as what chooses the engine of `linkspan`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{
    both_ways::base,
    common::{Linkspan, Run, Sshd, Stack, linkspan, text},
};

/// A user of docker's client with contexts of their own.
pub(crate) struct Client {
    config: PathBuf,
}

impl Client {
    pub(crate) fn new(stack: &Stack) -> Self {
        let config = stack.fresh_path("-docker-config");
        fs::create_dir(&config).unwrap();
        std::os::unix::fs::symlink(stack.state().join("docker-config/cli-plugins"), config.join("cli-plugins"))
            .unwrap();
        Self { config }
    }

    /// Adds `run` to what this user runs: neither it nor its contexts are the stack's.
    pub(crate) fn with(&self, run: Run) -> Run {
        run.env("DOCKER_CONFIG", &self.config).without_env("DOCKER_HOST").without_env("DOCKER_CONTEXT")
    }

    pub(crate) fn docker<'s>(&self, stack: &Stack, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.with(stack.docker(args))
    }
}

/// The folder of a program of the stack.
pub(crate) fn folder_of(stack: &Stack, program: &str) -> PathBuf {
    let path = stack.run("sh").args(["-c", "command -v \"$0\"", program]).ok().lines().remove(0);
    Path::new(&path).parent().unwrap().to_owned()
}

#[test]
fn docker_uses_the_door_of_another_host_as_its_own() {
    let stack = Stack::shared();
    let door = Linkspan::docker_door(stack);
    let sshd = Sshd::start(stack, &[&folder_of(stack, "docker")]);
    let client = Client::new(stack);
    let far = |args: &[&str]| sshd.with(client.docker(stack, args.iter().copied()));
    let socket = text(&door.doors()[0]).to_owned();
    let host = format!("host=ssh://far{socket}");
    far(&["context", "create", "far", "--docker", &host]).ok();
    far(&["context", "use", "far"]).ok();

    let here = stack.docker(["info", "--format", "{{.ID}} {{.DockerRootDir}}"]).ok().stdout;
    assert_eq!(far(&["info", "--format", "{{.ID}} {{.DockerRootDir}}"]).ok().stdout, here);
    // Docker 29 has a `=` where 28 has none.
    let command = format!("-o ConnectTimeout=30 -T -- far docker --host unix://{socket} system dial-stdio");
    let is_command = |arguments: &str| arguments.replace("--host=", "--host ") == command;
    assert!(sshd.started().iter().all(|(_, arguments)| is_command(arguments)), "{:?}", sshd.started());

    // What streams, ends by half, and is taken over.
    let image = base(stack);
    let run = ["run", "--rm", "-i", "--network", "host", image, "cat"];
    assert_eq!(far(&run).stdin("there and back\n").ok().stdout, "there and back\n");
    let archive = stack.fresh_path("-far.tar");
    far(&["save", "-o", text(&archive), image]).ok();
    let before = door.log().len();
    assert!(far(&["load", "-i", text(&archive)]).ok().stdout.contains("Loaded image"));
    let log = &door.log()[before..];
    assert!(log.contains("spared_blobs=") && !log.contains("spared_blobs=0"), "the load is filtered there: {log}");
    let events =
        far(&["events", "--since", "1h", "--until", "0s", "--filter", "type=image", "--format", "{{.Action}}"]).ok();
    assert!(events.stdout.contains("save"), "{events}");
    let absent = far(&["image", "inspect", "not-there:1"]).fails();
    assert!(absent.stderr.contains("No such image"), "{absent}");
}

#[test]
fn a_builder_that_was_made_over_ssh_loads_without_the_wire() {
    let stack = Stack::shared();
    let door = Linkspan::docker_door(stack);
    let sshd = Sshd::start(stack, &[&folder_of(stack, "docker")]);
    let builder =
        stack.container_builder_with(&format!("ssh://far{}", text(&door.doors()[0])), "far", vec![sshd.variable()]);
    let context = crate::common::Context::new("FROM scratch\nCOPY large /\n").noise("large", 8 << 20, 71);
    let build = || builder.build(context.path(), ["--load", "-t", "over-ssh:1"]).ok();
    let first = build();
    assert!(first.stderr.contains("importing to docker"), "{first}");
    let again = build();
    assert!(again.stderr.contains("0 blobs, 0B sent") || again.stderr.contains("already in docker"), "{again}");
    assert!(stack.docker(["image", "inspect", "over-ssh:1"]).ok().stdout.contains("sha256:"));
}

#[test]
fn contexts_of_dockers_client_choose_the_engine() {
    let stack = Stack::shared();
    let client = Client::new(stack);
    let image = base(stack);
    let host = format!("host={}", stack.docker_host());
    client.docker(stack, ["context", "create", "here", "--docker", &host]).ok();
    client.docker(stack, ["context", "create", "nowhere", "--docker", "host=unix:///nowhere/docker.sock"]).ok();
    let digest = |run: Run| client.with(run).output();
    let expected = linkspan(["digest", image]).args(stack.docker_flags()).ok().stdout;

    let by_variable = client.with(linkspan(["digest", image])).env("DOCKER_CONTEXT", "here").ok();
    assert_eq!(by_variable.stdout, expected);
    client.docker(stack, ["context", "use", "here"]).ok();
    assert_eq!(digest(linkspan(["digest", image])).stdout, expected);
    let other = client.with(linkspan(["digest", image])).env("DOCKER_CONTEXT", "nowhere").fails();
    assert!(other.stderr.contains("unix:///nowhere/docker.sock"), "{other}");
    let stronger = client.with(linkspan(["digest", image])).env("DOCKER_CONTEXT", "nowhere");
    assert_eq!(stronger.env("DOCKER_HOST", stack.docker_host()).ok().stdout, expected);
    let flag = client.with(linkspan(["digest", image, "--docker-host", stack.docker_host()]));
    assert_eq!(flag.env("DOCKER_CONTEXT", "gone").ok().stdout, expected);

    let unknown = client.with(linkspan(["digest", image])).env("DOCKER_CONTEXT", "gone").fails();
    let error = "linkspan: error: DOCKER_CONTEXT: there is no docker context `gone` in ";
    assert!(unknown.stderr.starts_with(error) && unknown.stderr.contains("docker context ls"), "{unknown}");
    // It has no part in another engine, nor in what goes through a daemon.
    let folder = stack.fresh_path("-layout");
    let layout = client.with(linkspan(["images", "--layout", text(&folder)])).env("DOCKER_CONTEXT", "gone").fails();
    assert!(!layout.stderr.contains("gone"), "{layout}");
    let daemon =
        client.with(linkspan(["images", "--to", "unix:///nowhere.sock"])).env("DOCKER_CONTEXT", "gone").fails();
    assert!(daemon.stderr.contains("unix:///nowhere.sock") && !daemon.stderr.contains("gone"), "{daemon}");
}
