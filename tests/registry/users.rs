//! Clients with passwords: raw requests, and the clients that people use.

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::common::{Context, Run, Stack, text, until};
use crate::fixture::{Image, Layer, export, names};
use crate::http::{Response, request, send};
use crate::served::{Served, layout};

/// A password file.
pub(crate) fn htpasswd(users: &[(&str, &str)]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(lines(users).as_bytes()).unwrap();
    file
}

fn lines(users: &[(&str, &str)]) -> String {
    let line = |(name, password): &(&str, &str)| format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap());
    users.iter().map(line).collect()
}

/// The value of `Authorization`.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// What asks a client for its password.
#[track_caller]
fn is_challenge(response: &Response) {
    assert_eq!((response.status, response.code().as_str()), (401, "UNAUTHORIZED"), "{response:?}");
    let challenge = response.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Basic realm=\""), "{challenge}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_password_is_asked_for_one_whatever_it_wants() {
    let users = htpasswd(&[("ci", "s3cret-of-ci"), ("other", "s3cret-of-other")]);
    let args = ["--registry-writable", "--registry-catalog", "--listen-htpasswd", text(users.path())];
    let served = Served::layout(&args).await;
    let address = &served.address;
    for (method, target) in [
        ("GET", "/v2/"),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/app/manifests/1"),
        ("GET", "/v2/app/manifests/1?ns=docker.io"),
        ("GET", "/v2/nothing"),
        ("GET", "/_linkspan/status"),
        ("POST", "/v2/app/blobs/uploads/"),
        ("PUT", "/v2/app/manifests/1"),
        ("DELETE", "/v2/app/manifests/1"),
    ] {
        is_challenge(&request(address, method, target, &[]));
        is_challenge(&request(address, method, target, &[("Authorization", &basic("ci", "s3cret-of-other"))]));
    }
    is_challenge(&request(address, "GET", "/v2/", &[("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")]));
    let (ci, other) = (basic("ci", "s3cret-of-ci"), basic("other", "s3cret-of-other"));
    for user in [&ci, &other] {
        assert_eq!(request(address, "GET", "/v2/", &[("Authorization", user)]).status, 200);
    }
    // Its name is not that of this machine, which it need not be.
    let named = [("Authorization", ci.as_str()), ("Host", "registry.example:5000")];
    assert_eq!(request(address, "GET", "/v2/", &named).status, 200);
    // But a page of a browser that knows the password is none of its user's programs.
    let page = [("Authorization", ci.as_str()), ("Origin", "http://evil.example")];
    assert_eq!(request(address, "GET", "/v2/", &page).status, 403);

    // An upload is its user's, and shows whose it is.
    let begun = send(address, "POST", "/v2/app/blobs/uploads/", &[("Authorization", &ci)], b"");
    let upload = begun.header("location").unwrap().to_owned();
    assert_eq!(send(address, "PATCH", &upload, &[("Authorization", &ci)], b"abc").status, 202);
    assert_eq!(request(address, "GET", &upload, &[("Authorization", &other)]).status, 404);
    assert_eq!(request(address, "GET", &upload, &[("Authorization", &ci)]).status, 204);
    let status: Value = request(address, "GET", "/_linkspan/status", &[("Authorization", &ci)]).json();
    assert_eq!(status["exports"][0]["principal"], "user ci", "{status}");
    let log = served.linkspan.log();
    assert!(log.contains("wrong name or password") && !log.contains("s3cret") && !log.contains("$2b$"), "{log}");
    for credentials in [&ci, &other, &basic("ci", "s3cret-of-other")] {
        assert!(!log.contains(credentials.trim_start_matches("Basic ")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_a_user_is_found_again_after_a_restart() {
    let users = htpasswd(&[("ci", "a"), ("other", "b")]);
    let (folder, stack) = (tempfile::tempdir().unwrap(), Stack::shared());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("tcp://127.0.0.1:{port}");
    let flags = ["--engine", "layout", "--layout", text(folder.path()), "--registry-writable"];
    let args = [&flags[..], &["--registry-listen", &listen, "--listen-htpasswd", text(users.path())]].concat();
    let (mut linkspan, address) = crate::common::Linkspan::registry(stack, &args);
    let (ci, other) = (basic("ci", "a"), basic("other", "b"));
    let begun = send(&address, "POST", "/v2/app/blobs/uploads/", &[("Authorization", &ci)], b"");
    let upload = begun.header("location").unwrap().to_owned();
    let whole = vec![7; 4_000_000];
    let patch = [("Authorization", ci.as_str()), ("Content-Range", "0-2999999")];
    assert_eq!(send(&address, "PATCH", &upload, &patch, &whole[..3_000_000]).status, 202);
    linkspan.kill();
    let (_linkspan, address) = crate::common::Linkspan::registry(stack, &args);
    assert_eq!(request(&address, "GET", &upload, &[("Authorization", &other)]).status, 404);
    let found = request(&address, "GET", &upload, &[("Authorization", &ci)]);
    // Of what came last the store may have less.
    let last: usize = found.header("range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
    assert!(found.status == 204 && (1..3_000_000).contains(&last), "{found:?}");
    let target = format!("{upload}?digest={}", linkspan::image::Digest::sha256(&whole));
    assert_eq!(send(&address, "PUT", &target, &[("Authorization", &ci)], &whole[last + 1..]).status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_that_changes_is_read_again() {
    let users = htpasswd(&[("ci", "old")]);
    let served = Served::layout(&["--listen-htpasswd", text(users.path())]).await;
    let status =
        |password: &str| request(&served.address, "GET", "/v2/", &[("Authorization", &basic("ci", password))]).status;
    assert_eq!((status("old"), status("new")), (200, 401));
    std::fs::write(users.path(), lines(&[("ci", "new")])).unwrap();
    until("the new password to be right", || status("new"), |status| *status == 200);
    assert_eq!(status("old"), 401);
    // What is not usable changes nothing, and is logged.
    std::fs::write(users.path(), "ci:plain\n").unwrap();
    let is_warned = || status("new") == 200 && served.linkspan.log().contains("no bcrypt hash for `ci`");
    until("the log to say so", is_warned, |is_warned| *is_warned);
    assert_eq!(status("new"), 200);
}

/// A folder of docker's configuration, with the stack's plugins.
fn docker_folder(stack: &Stack) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let plugins = stack.state().join("docker-config/cli-plugins");
    std::os::unix::fs::symlink(plugins, folder.path().join("cli-plugins")).unwrap();
    folder
}

/// One in which `docker login` was done.
fn logged_in(served: &Served, user: &str, password: &str) -> TempDir {
    let stack = Stack::shared();
    let folder = docker_folder(stack);
    let login = ["login", "--username", user, "--password-stdin", &served.address];
    let run = stack.docker(login).env("DOCKER_CONFIG", folder.path());
    run.stdin(password.as_bytes()).ok();
    folder
}

fn image(content: &str) -> Image {
    Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()])
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_and_others_log_in_push_and_pull() {
    let (stack, users) = (Stack::shared(), htpasswd(&[("ci", "pass:word")]));
    let served = Served::docker(&["--registry-writable", "--listen-htpasswd", text(users.path())]).await;
    let address = &served.address;
    let anonymous = docker_folder(stack);
    let wrong = ["login", "--username", "ci", "--password-stdin", address];
    let wrong = stack.docker(wrong).env("DOCKER_CONFIG", anonymous.path()).stdin("word").fails();
    assert!(wrong.stderr.contains("401") || wrong.stderr.contains("unauthorized"), "{wrong}");

    let config = logged_in(&served, "ci", "pass:word");
    let image = image("with a password\n");
    let source = crate::fixture::docker(stack).await;
    let name = format!("{address}/users/docker:1");
    export(&*source, &image, &names(&[&name])).await.unwrap();
    stack.docker(["push", "--quiet", &name]).env("DOCKER_CONFIG", anonymous.path()).fails();
    stack.docker(["push", "--quiet", &name]).env("DOCKER_CONFIG", config.path()).ok();
    stack.docker(["rmi", &name]).ok();
    stack.docker(["pull", "--quiet", &name]).env("DOCKER_CONFIG", anonymous.path()).fails();
    stack.docker(["pull", "--quiet", &name]).env("DOCKER_CONFIG", config.path()).ok();
    assert_eq!(stack.run_image(&name, &["cat", "/etc/greeting"]).ok().stdout, "with a password\n");

    // crane and skopeo read docker's configuration, or have words of their own.
    let folder = tempfile::tempdir().unwrap();
    export(&*layout(folder.path()).await, &image, &names(&["pushed:1"])).await.unwrap();
    let crane = |args: &[&str], config: &Path| stack.run("crane").args(args).env("DOCKER_CONFIG", config);
    let name = format!("{address}/users/crane:1");
    crane(&["push", text(folder.path()), &name], anonymous.path()).fails();
    crane(&["push", text(folder.path()), &name], config.path()).ok();
    let digest = crane(&["digest", &name], config.path()).ok().stdout;
    assert_eq!(digest.trim(), image.root.digest.as_str());
    let to = format!("docker://{address}/users/skopeo:1");
    let copy = ["--insecure-policy", "copy", "--dest-tls-verify=false", "--preserve-digests"];
    let from = format!("oci:{}:1", text(folder.path()));
    Run::new("skopeo").args(copy).args(["--dest-creds", "ci:word", &from, &to]).fails();
    Run::new("skopeo").args(copy).args(["--dest-creds", "ci:pass:word", &from, &to]).ok();
    let name = format!("{address}/users/skopeo:1");
    let pull = ["images", "pull", "--plain-http", "--user", "ci:pass:word", &name];
    stack.ctr("registry-users-pulled", pull).ok();

    // BuildKit asks the client of the build for the password, in its session.
    let context = Context::new(&format!("FROM {}\nRUN echo built >/built\n", stack.base_image()));
    let builder = stack.builder(stack.buildkit_host());
    let name = format!("{address}/users/buildx:1");
    let build = |config: &Path| builder.build(context.path(), ["--push", "-t", &name]).env("DOCKER_CONFIG", config);
    build(anonymous.path()).fails();
    build(config.path()).ok();
    assert_eq!(stack.run_image("users/buildx:1", &["cat", "/built"]).ok().stdout, "built\n");
}
