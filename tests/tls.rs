//! A builder behind TLS: a real buildkitd that asks its clients for a certificate.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

mod common;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::{Context, Linkspan, Run, Stack, until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

/// The name in the builder's certificate; nothing resolves it.
const NAME: &str = "builder.test";

/// PEM files: an authority, and what it signed.
struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let authority = Issuer::new(params, key);
        for name in [NAME, "client.test"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
            fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { folder }
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).to_str().unwrap().to_owned()
    }
}

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
        (&[], "the connection broke off"),
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
