//! TLS: a door that other machines reach, and the clients that people use.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::common::{Run, Stack, linkspan, text};
use crate::fixture::{Image, Layer, export, names};
use crate::served::{Served, layout};
use crate::users::htpasswd;

/// The address of this machine by which others reach it.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: the kernel chooses the route. It needs an address beside loopback.
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

/// A folder in which dockerd looks for what it needs to trust a registry; gone when this is dropped.
struct CertsFolder(PathBuf);

impl CertsFolder {
    fn new(host: &str, files: &[(&Path, &str)]) -> Self {
        let folder = Self(Path::new("/etc/docker/certs.d").join(host));
        fs::create_dir_all(&folder.0).unwrap();
        for (from, to) in files {
            fs::copy(from, folder.0.join(to)).unwrap();
        }
        folder
    }
}

impl Drop for CertsFolder {
    fn drop(&mut self) {
        // What cannot be removed hides no failure of a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn image(content: &str) -> Image {
    Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()])
}

/// A layout with `image`, for clients that push from one.
async fn pushable(image: &Image) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    export(&*layout(folder.path()).await, image, &names(&["pushed:1"])).await.unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_beyond_this_machine_has_tls_and_clients_that_were_given_its_authority_use_it() {
    let (stack, users, tls) = (Stack::shared(), htpasswd(&[("ci", "word")]), tempfile::tempdir().unwrap());
    let args = ["--registry-writable", "--registry-listen", "tcp://0.0.0.0:0", "--listen-htpasswd", text(users.path())];
    let served = Served::docker(&[&args[..], &["--listen-tls-dir", text(tls.path())]].concat()).await;
    let (_, port) = served.address.rsplit_once(':').unwrap();
    let (address, ca) = (format!("{}:{port}", own_address()), tls.path().join("ca.crt"));
    let log = served.linkspan.log();
    assert!(log.contains(text(&ca)) && log.contains("sha256 ") && log.contains("/etc/docker/certs.d/"), "{log}");

    let image = image("through TLS\n");
    let folder = pushable(&image).await;
    let (config, certs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::copy(&ca, certs.path().join("ca.crt")).unwrap();
    let login = || {
        let login = ["login", "--username", "ci", "--password-stdin", &address];
        stack.docker(login).env("DOCKER_CONFIG", config.path()).stdin("word")
    };
    let untrusted = login().fails();
    assert!(untrusted.stderr.contains("certificate"), "{untrusted}");
    let trusted = CertsFolder::new(&address, &[(&ca, "ca.crt")]);
    login().ok();
    let docker = |args: &[&str]| stack.docker(args.iter().copied()).env("DOCKER_CONFIG", config.path());
    let name = format!("{address}/secure/docker:1");
    let source = crate::fixture::docker(stack).await;
    export(&*source, &image, &names(&[&name])).await.unwrap();
    docker(&["push", "--quiet", &name]).ok();
    docker(&["rmi", &name]).ok();
    docker(&["pull", "--quiet", &name]).ok();
    assert_eq!(stack.run_image(&name, &["cat", "/etc/greeting"]).ok().stdout, "through TLS\n");

    // skopeo looks there, too.
    drop(trusted);
    let name = format!("{address}/secure/crane:1");
    let crane = |args: &[&str]| stack.run("crane").args(args).env("DOCKER_CONFIG", config.path());
    crane(&["push", text(folder.path()), &name]).fails();
    crane(&["push", text(folder.path()), &name]).env("SSL_CERT_FILE", &ca).ok();
    let copy = ["--insecure-policy", "copy", "--preserve-digests", "--src-creds", "ci:word"];
    let (from, to) = (format!("docker://{name}"), tempfile::tempdir().unwrap());
    let to = format!("dir:{}", text(to.path()));
    Run::new("skopeo").args(copy).args([&from, &to]).fails();
    Run::new("skopeo").args(copy).args(["--src-cert-dir", text(certs.path()), &from, &to]).ok();
    // Without TLS there is nothing.
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut received = Vec::new();
    // A connection that is reset has not been answered either.
    let _ = plain.read_to_end(&mut received);
    assert!(!received.starts_with(b"HTTP/"), "{received:?}");
}

#[test]
fn a_door_beyond_this_machine_needs_clients_that_can_be_known() {
    let folder = tempfile::tempdir().unwrap();
    let tls = folder.path().join("tls");
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let serve_with = |tls: &Path, args: &[&str]| {
        linkspan(["serve", "--listen-tls-dir", text(tls)]).args(engine).args(args).fails().stderr
    };
    let serve = |args: &[&str]| serve_with(&tls, args);
    let open = ["--registry-listen", "tcp://0.0.0.0:0"];
    let refused = serve(&open);
    assert!(refused.contains("--listen-tls-client-ca") && refused.contains("--listen-htpasswd"), "{refused}");
    let refused = serve(&["--export-listen", "tcp://[::]:0"]);
    assert!(refused.contains("--listen-htpasswd"), "{refused}");
    let users = htpasswd(&[("ci", "ci")]);
    let builder = ["--builder", "unix:///b.sock", "--buildkit-listen", "tcp://0.0.0.0:0"];
    let refused = serve(&[&builder[..], &["--listen-htpasswd", text(users.path())]].concat());
    assert!(refused.contains("--listen-tls-client-ca") && refused.contains("send no passwords"), "{refused}");
    let refused = serve(&[&open[..], &["--listen-htpasswd", "/nonexistent"]].concat());
    assert!(refused.contains("the password file /nonexistent"), "{refused}");
    let refused = serve(&[&open[..], &["--listen-htpasswd", text(users.path()), "--listen-tls-cert", "/c"]].concat());
    assert!(refused.contains("go together"), "{refused}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = serve_with(&file, &[&open[..], &["--listen-htpasswd", text(users.path())]].concat());
    assert!(refused.contains("hint: name a folder that can be written to"), "{refused}");
}

/// PEM files: an authority, and what it signed.
fn certificates(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, key);
    for (file, name) in [("server", "127.0.0.1"), ("client", "ci.test"), ("other", "other.test"), ("ops", "ops.test")] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        fs::write(folder.join(format!("{file}.cert")), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
        fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_known_by_their_certificates() {
    let (stack, folder) = (Stack::shared(), tempfile::tempdir().unwrap());
    certificates(folder.path());
    let path = |file: &str| text(&folder.path().join(file)).to_owned();
    let rules = path("config.toml");
    let text_of = "[[rule]]\nprincipals = ['certificate:ci.test']\nnames = ['docker.io/certified/*']\nallow = ['pull', 'push']\n\
         [[rule]]\nprincipals = ['certificate:ops.test']\nnames = ['*']\nallow = ['pull']\n";
    fs::write(&rules, text_of).unwrap();
    let [cert, key, ca] = ["server.cert", "server.key", "ca.pem"].map(path);
    let tls = ["--listen-tls-loopback", "--listen-tls-cert", &cert, "--listen-tls-key", &key];
    let args = [&tls[..], &["--listen-tls-client-ca", &ca, "--registry-writable", "--config", &rules]].concat();
    let served = Served::containerd("registry-certified", &args).await;
    let image = image("by its certificate\n");
    let pushable = pushable(&image).await;

    // skopeo takes every `*.cert` of a folder for a client's, with its key.
    let certs = |name: Option<&str>| {
        let certs = tempfile::tempdir().unwrap();
        fs::copy(path("ca.pem"), certs.path().join("ca.crt")).unwrap();
        for kind in ["cert", "key"] {
            let Some(name) = name else { continue };
            fs::copy(path(&format!("{name}.{kind}")), certs.path().join(format!("client.{kind}"))).unwrap();
        }
        certs
    };
    let push = |certs: &TempDir, name: &str| {
        let to = format!("docker://{}/{name}", served.address);
        let copy = ["--insecure-policy", "copy", "--preserve-digests", "--dest-cert-dir", text(certs.path())];
        Run::new("skopeo").args(copy).args([&format!("oci:{}:1", text(pushable.path())), &to])
    };
    let (nobody, ci, other) = (certs(None), certs(Some("client")), certs(Some("other")));
    push(&nobody, "certified/app:1").fails();
    push(&ci, "certified/app:1").ok();
    push(&ci, "elsewhere/app:1").fails();
    push(&other, "certified/app:1").fails();
    let log = served.linkspan.log();
    assert!(log.contains("certificate ci.test") && log.contains("certificate other.test"), "{log}");

    // containerd's hosts.toml has the certificate, too.
    let hosts = |name: &str| {
        let hosts = tempfile::tempdir().unwrap();
        let of_host = hosts.path().join(&served.address);
        fs::create_dir(&of_host).unwrap();
        let url = format!("https://{}", served.address);
        let text = format!(
            "server = {url:?}\n[host.{url:?}]\ncapabilities = ['pull', 'resolve', 'push']\nca = {:?}\nclient = [[{:?}, {:?}]]\n",
            path("ca.pem"),
            path(&format!("{name}.cert")),
            path(&format!("{name}.key"))
        );
        fs::write(of_host.join("hosts.toml"), text).unwrap();
        hosts
    };
    let name = format!("{}/certified/app:1", served.address);
    let pull = |hosts: &TempDir| {
        stack.ctr("registry-certified-pulled", ["images", "pull", "--hosts-dir", text(hosts.path()), &name])
    };
    pull(&hosts("other")).fails();
    pull(&hosts("client")).ok();
    // Who may see everything sees what is under way, too.
    let ps = |name: &str| {
        let (to, cert, key) =
            (format!("tcp://{}", served.address), path(&format!("{name}.cert")), path(&format!("{name}.key")));
        linkspan(["ps", "--to", &to, "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key])
    };
    assert_eq!(ps("ops").ok().lines().len(), 1, "only the heads of the columns");
    ps("client").fails();
    assert_eq!(stack.image_of("registry-certified-pulled", &name), Some(image.root.digest.to_string()));
}
