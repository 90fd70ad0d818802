//! Programs on gRPC's C core, here in Python. On a unix socket it names the path of the socket where a host should be.

use crate::common::{Linkspan, Run, Stack};
use crate::server::Server;

/// What clients name that reach a socket by its path, and what else can be said there.
const AUTHORITIES: [&str; 6] = ["", "unix:/run/x.sock", "/run/x.sock", "user@host:1", "%2Frun%2Fx.sock", "[::1"];

/// `scripts/stack install` makes it.
fn python(program: &str) -> Run {
    Run::new("linkspan-python").arg(format!("{}/tests/python/{program}", env!("CARGO_MANIFEST_DIR")))
}

#[test]
fn a_program_in_python_exports_an_image() {
    let server = Server::containerd("python-export");
    let address = server.linkspan.address();
    let output = python("export.py").arg(&address).arg("from-python").ok().stdout;
    let digest = server.stack.image_of("python-export", "docker.io/library/from-python:latest").unwrap();
    assert_eq!(output, format!("docker.io/library/from-python:latest {digest}, 3 blobs sent\n"));
    server.stack.ctr("python-export", ["images", "check"]).ok();
    let long = "x".repeat(60_000);
    for authority in AUTHORITIES.into_iter().chain([&long[..]]) {
        let output = python("export.py").args([&address, "from-python", authority]).ok().stdout;
        assert_eq!(output, format!("docker.io/library/from-python:latest {digest}, 0 blobs sent\n"), "{authority}");
    }
}

#[test]
fn a_program_in_python_reaches_a_builder() {
    let stack = Stack::shared();
    let linkspan = Linkspan::docker(stack);
    let direct = python("version.py").arg(stack.buildkit_host()).ok().stdout;
    assert!(direct.contains("buildkit"), "{direct}");
    assert_eq!(python("version.py").arg(linkspan.address()).ok().stdout, direct);
    for authority in AUTHORITIES {
        let output = python("version.py").arg(linkspan.address()).arg(authority).ok().stdout;
        assert_eq!(output, direct, "{authority}");
    }
}

#[test]
fn a_program_in_python_reaches_a_builder_in_a_container() {
    let stack = Stack::shared();
    let linkspan = Linkspan::docker_door(stack);
    let builder = stack.container_builder(&linkspan.address(), "python");
    builder.buildx(["inspect", "--bootstrap"]).ok();
    let version = |host: &str| python("version.py").args(["--exec", host, "buildx_buildkit_python0"]).ok().stdout;
    let direct = version(stack.docker_host());
    assert!(direct.contains("buildkit"), "{direct}");
    assert_eq!(version(&linkspan.address()), direct);
}
