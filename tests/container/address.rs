//! `--builder docker-container://NAME`: a door to a builder in a container, for clients of sockets.

use crate::common::{Builder, Context, Linkspan, Part, Stack, until};

/// A container that runs buildkitd, and what buildx calls it.
fn container<'a>(stack: &'a Stack, name: &str) -> (Builder<'a>, String) {
    let builder = stack.container_builder(stack.docker_host(), name);
    builder.buildx(["inspect", "--bootstrap"]).ok();
    (builder, format!("buildx_buildkit_{name}0"))
}

/// The processes in a container that lead to its builder.
fn tunnels(stack: &Stack, container: &str) -> usize {
    let processes = stack.docker(["exec", container, "ps", "-o", "args"]).ok();
    processes.lines().iter().filter(|line| line.contains("dial-stdio")).count()
}

#[test]
fn a_door_to_a_container() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let (direct, name) = container(&stack, "one");
    let linkspan = {
        let engine = stack.docker_flags();
        Linkspan::start(&stack, &engine, &[&format!("docker-container://{name}")])
    };
    let through = stack.builder(&linkspan.address());
    let context = Context::new("FROM scratch\nCOPY a /a\nCOPY big /big\n").file("a", "some").noise("big", 3 << 20, 1);

    // buildx's remote driver.
    let output = through.build(context.path(), ["--load", "-t", "through:1"]).ok();
    assert!(!output.stderr.contains("sending tarball"), "{output}");
    let output = direct.build(context.path(), ["--load", "-t", "direct:1"]).ok();
    assert!(output.stderr.contains("sending tarball"), "{output}");
    assert_eq!(stack.tagged("moby", "through:1").unwrap(), stack.tagged("moby", "direct:1").unwrap());

    // buildctl.
    let workers = |address: &str| stack.buildctl(["--addr", address, "debug", "workers"]).ok().stdout;
    assert_eq!(workers(&linkspan.address()), workers(&format!("docker-container://{name}")));

    // All of it over one process, which is still there, and ends with us.
    assert_eq!(tunnels(&stack, &name), 1);
    let mut linkspan = linkspan;
    assert!(linkspan.terminate().success());
    until("the process in the container to end", || tunnels(&stack, &name), |count| *count == 0);
}

#[test]
fn a_container_that_comes_and_goes() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let (_direct, name) = container(&stack, "restarted");
    let engine = stack.docker_flags();
    let linkspan = Linkspan::start(&stack, &engine, &[&format!("docker-container://{name}")]);
    let workers = || stack.buildctl(["--addr", &linkspan.address(), "--timeout", "60", "debug", "workers"]);
    workers().ok();
    stack.docker(["stop", &name]).ok();
    let refused = workers().fails();
    assert!(refused.stderr.contains(&format!("container `{name}` cannot run `buildctl dial-stdio`")), "{refused}");
    assert!(refused.stderr.contains("is not running"), "{refused}");
    stack.docker(["start", &name]).ok();
    until("the builder to respond again", || workers().output().status.success(), |is_ready| *is_ready);
}

#[test]
fn what_is_no_builder_is_reported() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let (_direct, name) = container(&stack, "named");
    stack.docker(["run", "-d", "--name", "idle", "--entrypoint", "sleep", crate::common::BUILDER_IMAGE, "600"]).ok();
    let doctor = |builder: &str| {
        let address = format!("docker-container://{builder}");
        let args = ["doctor", "--engine", "docker", "--docker-host", stack.docker_host(), "--builder", &address];
        stack.run(env!("CARGO_BIN_EXE_linkspan")).args(args).output()
    };
    let found = doctor(&name);
    assert!(found.status.success() && found.stdout.contains(&format!("at docker-container://{name}")), "{found}");
    for (builder, words) in [
        ("named", format!("docker has no container `named`; did you mean `docker-container://{name}`?")),
        ("nonesuch", "docker has no container `nonesuch`".to_owned()),
        // buildctl's own words on standard error: there is no buildkitd.
        ("idle", "in container `idle` leads to no builder: error: dial unix /run/buildkit/buildkitd.sock".to_owned()),
    ] {
        let found = doctor(builder);
        let message = found.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!found.status.success() && message.contains(&words), "{found}");
    }
}
