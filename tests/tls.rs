//! A builder behind TLS: a real buildkitd that asks its clients for a certificate.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

mod common;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use common::certificates::{Certificates, NAME};
use common::{Context, Linkspan, Run, Stack, until};
use rustix::process::{Pid, Signal, kill_process};

/// A buildkitd on a port of this machine, ended with SIGTERM when dropped, so that it leaves no mounts.
struct SecureBuilder {
    child: Child,
    address: String,
}

impl SecureBuilder {
    fn start(stack: &Stack, certificates: &Certificates) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (address, root) = (format!("tcp://127.0.0.1:{port}"), stack.fresh_path("-buildkit"));
        let config = root.with_extension("toml");
        let text = format!(
            "root = {root:?}\n[grpc]\naddress = [{address:?}]\n[grpc.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n\
             [otel]\nsocketPath = {:?}\n[worker.oci]\nenabled = true\nsnapshotter = \"overlayfs\"\n\
             networkMode = \"host\"\n[worker.containerd]\nenabled = false\n",
            certificates.path("ca.pem"),
            certificates.path(&format!("{NAME}.pem")),
            certificates.path(&format!("{NAME}.key")),
            root.with_extension("otel"),
        );
        fs::write(&config, text).unwrap();
        let program = stack.run("sh").args(["-c", "command -v buildkitd"]).ok().lines().remove(0);
        let log = fs::File::create(root.with_extension("log")).unwrap();
        // Its runc is beside it.
        let path = format!("{}:{}", Path::new(&program).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command.arg("--config").arg(config).env("PATH", path);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let builder = Self { child, address };
        let is_ready = || builder.probe(stack, certificates).output().status.success();
        until("the builder to respond", is_ready, |is_ready| *is_ready);
        builder
    }

    fn probe(&self, stack: &Stack, certificates: &Certificates) -> Run {
        let files = [("--tlscacert", "ca.pem"), ("--tlscert", "client.test.pem"), ("--tlskey", "client.test.key")];
        let run = stack.buildctl(["--addr", &self.address, "--tlsservername", NAME]);
        files
            .iter()
            .fold(run, |run, (flag, file)| run.args([*flag, &certificates.path(file)]))
            .args(["debug", "workers"])
    }
}

impl Drop for SecureBuilder {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn a_door_to_a_builder_behind_tls() {
    let stack = Stack::shared();
    let certificates = Certificates::new(stack.fresh_path("-tls"));
    let secure = SecureBuilder::start(stack, &certificates);
    let engine = stack.docker_flags();
    let (ca, cert, key) =
        (certificates.path("ca.pem"), certificates.path("client.test.pem"), certificates.path("client.test.key"));
    let complete = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key, "--tls-server-name", NAME];

    let doctor = |tls: &[&str]| {
        let run = Run::new(env!("CARGO_BIN_EXE_linkspan")).arg("doctor").args(engine);
        run.args(["--builder", &secure.address]).args(tls)
    };

    let found = doctor(&complete).ok();
    assert!(found.stdout.contains(&format!("at {}, can export directly", secure.address)), "{found}");
    let linkspan = Linkspan::start(stack, &[&engine[..], &complete].concat(), &[&secure.address]);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "through TLS");
    stack.builder(&linkspan.address()).build(context.path(), ["--load", "-t", "tls"]).ok();
    assert!(stack.tagged("moby", "tls:latest").is_some());

    let other = Certificates::new(stack.fresh_path("-other"));
    let stranger = other.path("ca.pem");
    let failing: [(&[&str], &str); 4] = [
        (&["--tls-ca", &ca, "--tls-server-name", NAME], "CertificateRequired"),
        (&["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key], "not valid for name"),
        (
            &["--tls-ca", &stranger, "--tls-cert", &cert, "--tls-key", &key, "--tls-server-name", NAME],
            "invalid peer certificate",
        ),
        // It broke off, or was closed: the builder's end may come before its reset.
        (&[], ": the connection "),
    ];
    for (tls, words) in failing {
        let linkspan = Linkspan::start(stack, &[&engine[..], tls].concat(), &[&secure.address]);
        stack.buildctl(["--addr", &linkspan.address(), "debug", "workers"]).fails();
        let output = doctor(tls).fails();
        // It is wrapped.
        let message = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(message.contains(&format!("no response from the builder at {}: ", secure.address)), "{output}");
        assert!(message.contains(words), "{words}: {output}");
    }
}

/// A certificate of the listeners, for 127.0.0.1, and the flags that name it.
fn listeners(certificates: &Certificates) -> Vec<String> {
    let flags = [
        ("--listen-tls-cert", "127.0.0.1.pem"),
        ("--listen-tls-key", "127.0.0.1.key"),
        ("--listen-tls-client-ca", "ca.pem"),
    ];
    let flags = flags.iter().flat_map(|(flag, file)| [(*flag).to_owned(), certificates.path(file)]);
    flags.chain(["--listen-tls-loopback".to_owned()]).collect()
}

/// The port that a door has announced.
fn port_of(linkspan: &Linkspan, door: &str) -> String {
    let before = format!("{door} listening on tcp://127.0.0.1:");
    let log = until("the door to listen", || linkspan.log(), |log| log.contains(&before));
    log.split_once(&before).unwrap().1.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn the_doors_of_builders_and_of_the_api_have_clients_with_certificates() {
    let stack = Stack::shared();
    let certificates = Certificates::new(stack.fresh_path("-tls"));
    let config = stack.fresh_path(".toml");
    fs::write(
        &config,
        "[[rule]]\nprincipals = ['certificate:client.test']\nnames = ['*']\nallow = ['pull', 'push', 'move', 'delete']\n\
         [[rule]]\nprincipals = ['certificate:builder.test']\nnames = ['docker.io/some/*']\nallow = ['pull', 'push']\n",
    )
    .unwrap();
    let listeners = listeners(&certificates);
    let plain_door = stack.fresh_path("-plain.sock");
    let plain_docker = format!("unix://{}", plain_door.display());
    // A unix socket beside them, by which the start is seen.
    let door = stack.fresh_path(".sock");
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let buildkit = format!("tcp://127.0.0.1:{}", free());
    let builder = ["--builder", stack.buildkit_host(), "--buildkit-listen", &buildkit];
    let docker = format!("unix://{}", door.display());
    let other =
        ["--export-listen", "tcp://127.0.0.1:0", "--docker-listen", &docker, "--config", config.to_str().unwrap()];
    let args = [&stack.docker_flags()[..], &builder, &other].concat();
    let args: Vec<String> = args.into_iter().map(str::to_owned).chain(listeners).collect();
    let linkspan = Linkspan::start_at(stack, &args, &[], vec![door]);

    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "by a client with a certificate");
    let load = |name: &str, tag: &str| {
        let (cert, key) = (certificates.path(&format!("{name}.pem")), certificates.path(&format!("{name}.key")));
        let options = format!("cacert={},cert={cert},key={key}", certificates.path("ca.pem"));
        let builder = stack.builder_with(&buildkit, &["--driver-opt", &options]);
        builder.build(context.path(), ["--load", "-t", tag])
    };
    load("client.test", "some/secure:1").ok();
    assert!(stack.image_of("moby", "docker.io/some/secure:1").is_some());
    let denied = load(NAME, "some/secure:2").fails();
    assert!(denied.stderr.contains("limited by rules"), "{denied}");
    let plain = stack.buildctl(["--addr", &buildkit, "debug", "workers"]).fails();
    assert!(!plain.stdout.contains("linux/"), "{plain}");

    let export = format!("tcp://127.0.0.1:{}", port_of(&linkspan, "export door"));
    let run = |args: &[&str], name: Option<&str>| {
        let run =
            common::linkspan(args.iter().copied()).args(["--to", &export, "--tls-ca", &certificates.path("ca.pem")]);
        match name {
            Some(name) => {
                let of = |kind: &str| certificates.path(&format!("{name}.{kind}"));
                run.args(["--tls-cert", &of("pem"), "--tls-key", &of("key")])
            }
            None => run,
        }
    };
    let listed = run(&["images", "--json"], Some("client.test")).ok();
    assert!(listed.stdout.contains("some/secure"), "{listed}");
    run(&["tag", "some/secure:1", "some/secure:3"], Some("client.test")).ok();
    assert!(stack.image_of("moby", "docker.io/some/secure:3").is_some());
    run(&["ps"], Some("client.test")).ok();
    run(&["images"], None).fails();
    let denied = run(&["images"], Some(NAME)).fails();
    assert!(denied.stderr.contains("limited by rules"), "{denied}");
    // What TLS says, and not that somebody else listens there.
    let stranger = Certificates::new(stack.fresh_path("-stranger")).path("ca.pem");
    for command in ["images", "ps"] {
        let refused = common::linkspan([command, "--to", &export, "--tls-ca", &stranger]).fails();
        assert!(refused.stderr.contains("invalid peer certificate"), "{refused}");
        assert!(!refused.stderr.contains("another program"), "{refused}");
    }
    let log = linkspan.log();
    assert!(log.contains("certificate client.test"), "{log}");
    // Without TLS: that there is TLS, and not that somebody else listens there.
    for command in [&["images"][..], &["ps"], &["cache", "ls"]] {
        let refused = common::linkspan(command.iter().copied()).args(["--to", &export]).fails();
        let expected = format!("the server at {export} has TLS, and no authority was named for its certificate");
        assert!(refused.stderr.contains(&expected) && refused.stderr.contains("--tls-ca"), "{refused}");
    }
    let found = common::linkspan(["doctor"]).args(stack.docker_flags()).args(["--export-listen", &export]).output();
    let found = found.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = format!("export door at {export} cannot be asked: a server with TLS listens there");
    assert!(found.contains(&expected) && !found.contains("another program"), "{found}");
    // With another authority's, with none of the client's, and with flags of TLS where there is none.
    let hint = |args: &[&str], words: &str, hint: &str| {
        let refused = common::linkspan(["images"]).args(args.iter().copied()).fails();
        assert!(refused.stderr.contains(words), "{refused}");
        let (_, said) = refused.stderr.split_once("hint: ").unwrap();
        assert!(said.contains(hint), "{refused}");
    };
    let ca = certificates.path("ca.pem");
    hint(
        &["--to", &export, "--tls-ca", &stranger],
        "invalid peer certificate",
        "name the one that signed it with --tls-ca",
    );
    // TLS 1.3 says so behind the handshake: a client that is writing may see a broken connection first.
    let without = || common::linkspan(["images", "--to", &export, "--tls-ca", &ca]).fails().stderr;
    let refused = until("the server's word to come first", without, |said| said.contains("CertificateRequired"));
    assert!(refused.contains("hint: ") && refused.contains("with --tls-cert and --tls-key"), "{refused}");
    hint(
        &["--to", &export, "--tls-ca", &ca, "--tls-server-name", "other.test"],
        "not valid for name",
        "--tls-server-name says which",
    );
    let missing = certificates.path("absent.pem");
    hint(&["--to", &export, "--tls-ca", &missing], "absent.pem: No such file", "name PEM files");
    let unsecured = Linkspan::start_at(
        stack,
        &[&stack.docker_flags()[..], &["--export-listen", "tcp://127.0.0.1:0", "--docker-listen", &plain_docker]]
            .concat(),
        &[],
        vec![plain_door],
    );
    let plain = format!("tcp://127.0.0.1:{}", port_of(&unsecured, "export door"));
    hint(&["--to", &plain, "--tls-ca", &ca], "TLS", "leave out --tls-ca");

    let elsewhere = common::linkspan(["images", "--to", "tcp://linkspan.example:1"]).fails();
    assert!(elsewhere.stderr.contains("--tls-ca"), "{elsewhere}");
}

#[test]
fn each_builder_has_tls_of_its_own() {
    let stack = Stack::shared();
    let certificates = Certificates::new(stack.fresh_path("-tls"));
    let secure = SecureBuilder::start(stack, &certificates);
    let (config, doors) = (stack.fresh_path(".toml"), [stack.fresh_path(".sock"), stack.fresh_path(".sock")]);
    let text = format!(
        "engine = \"docker\"\ndocker-host = {:?}\n\
         [[builder]]\naddress = {:?}\nlisten = \"unix://{}\"\n\
         tls = {{ ca = {:?}, cert = {:?}, key = {:?}, server-name = {NAME:?} }}\n\
         [[builder]]\naddress = {:?}\nlisten = \"unix://{}\"\n",
        stack.docker_host(),
        secure.address,
        doors[0].display(),
        certificates.path("ca.pem"),
        certificates.path("client.test.pem"),
        certificates.path("client.test.key"),
        stack.buildkit_host(),
        doors[1].display(),
    );
    fs::write(&config, text).unwrap();
    let _linkspan = Linkspan::start_at(stack, &["--config", config.to_str().unwrap()], &[], doors.to_vec());
    for door in &doors {
        stack.buildctl(["--addr", &format!("unix://{}", door.display()), "debug", "workers"]).ok();
    }
}
