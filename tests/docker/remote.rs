//! `linkspan` on engines of other hosts: over TLS with a client's certificate, and over ssh.

use std::fs;

use crate::common::{Run, SecureDockerd, Sshd, Stack, linkspan, text, unix};
use crate::ssh::{Client, folder_of};

/// An archive with one small image called `name`, made by docker.
fn archive(stack: &Stack, name: &str) -> std::path::PathBuf {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("who"), name).unwrap();
    fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY who /\n").unwrap();
    stack.docker(["build", "--provenance=false", "-t", name]).arg(folder.path()).ok();
    let file = stack.fresh_path("-image.tar");
    stack.docker(["save", "-o", text(&file), name]).ok();
    stack.docker(["image", "rm", name]).ok();
    file
}

/// Loads an image twice, lists it and saves it, with a client's variables.
fn works(stack: &Stack, name: &str, with: &dyn Fn(Run) -> Run) {
    let (file, caches) = (archive(stack, name), stack.fresh_path("-caches"));
    let with = |run: Run| with(run.env("LINKSPAN_CACHE_DIR", &caches));
    let load = || with(linkspan(["load", "-i", text(&file)])).ok();
    assert_eq!(load().stdout, format!("Loaded image: {name}\n"));
    let again = load();
    assert!(again.stderr.contains("sent 0 blobs"), "{again}");
    let listed = with(linkspan(["images", name, "--json"])).ok();
    let inspected = with(stack.docker(["image", "inspect", "--format", "{{.Id}}", name])).ok();
    assert!(listed.stdout.contains(inspected.stdout.trim()), "{listed}{inspected}");
}

#[test]
fn an_engine_behind_tls_is_used_as_docker_uses_it() {
    let stack = Stack::shared();
    let dockerd = SecureDockerd::start(stack);
    // By variables.
    works(stack, "tls-variables:1", &|run| dockerd.with(run));
    // By a context, whose files docker keeps.
    let client = Client::new(stack);
    let file = |name: &str| text(&dockerd.certificates().join(name)).to_owned();
    let create = |name: &str, more: &str| {
        let docker = format!("host={},{more}", dockerd.address());
        client.docker(stack, ["context", "create", name, "--docker", &docker]).ok();
    };
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    create("tls", &format!("ca={ca},cert={cert},key={key}"));
    create("skips", &format!("cert={cert},key={key},skip-tls-verify=true"));
    create("other", &format!("ca={},cert={cert},key={key}", file("other.pem")));
    create("nobody", &format!("ca={ca}"));
    client.docker(stack, ["context", "use", "tls"]).ok();
    works(stack, "tls-context:1", &|run| client.with(run));
    works(stack, "tls-skips:1", &|run| client.with(run).env("DOCKER_CONTEXT", "skips"));
    for (name, hint) in
        [("other", "hint: the engine's certificate is of another"), ("nobody", "hint: show a certificate")]
    {
        let failed = client.with(linkspan(["images"])).env("DOCKER_CONTEXT", name).fails();
        assert!(
            failed.stderr.contains(dockerd.address()) && failed.stderr.to_lowercase().contains("certificate"),
            "{failed}"
        );
        assert!(failed.stderr.contains(hint), "{failed}");
    }
    let missing = dockerd.with(linkspan(["images"])).env("DOCKER_CERT_PATH", "/nowhere").fails();
    assert!(
        missing.stderr.contains("/nowhere/ca.pem") && missing.stderr.contains("hint: DOCKER_CERT_PATH names"),
        "{missing}"
    );
    let plain = linkspan(["images", "--docker-host", dockerd.address()]).fails();
    assert!(plain.stderr.contains("hint: TLS is spoken there"), "{plain}");
}

#[test]
fn an_engine_on_another_host_is_used_over_ssh() {
    let stack = Stack::shared();
    let sshd = Sshd::start(stack, &[&folder_of(stack, "docker")]);
    let client = Client::new(stack);
    let socket = stack.docker_host().trim_start_matches("unix://");
    let host = format!("host=ssh://far{socket}");
    client.docker(stack, ["context", "create", "far", "--docker", &host]).ok();
    client.docker(stack, ["context", "use", "far"]).ok();
    works(stack, "over-ssh-api:1", &|run| sshd.with(client.with(run)));
    let failed = client.with(sshd.with(linkspan(["images", "--docker-host", "ssh://far-refused"]))).fails();
    assert!(failed.stderr.contains("Permission denied (publickey"), "{failed}");
    // A docker door passes bytes on, for which there is a door on that host.
    let (address, door) = (format!("ssh://far{socket}"), unix(&stack.fresh_path("-docker.sock")));
    let serve = linkspan(["serve", "--docker-host", &address, "--docker-listen", &door]);
    let refused = client.with(sshd.with(serve.env("LINKSPAN_CACHE_DIR", stack.fresh_path("-caches")))).fails();
    let words = [&*format!("cannot lead to docker at {address}"), "hint: run `linkspan serve` there"];
    assert!(words.iter().all(|words| refused.stderr.contains(words)), "{refused}");
}
