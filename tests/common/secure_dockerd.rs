//! A dockerd that is reached over TCP, with TLS and clients' certificates.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

use super::{Run, Stack, file_of, text, until};

/// A dockerd beside that of a stack, on the stack's containerd, in a namespace of its own.
#[derive(Debug)]
pub(crate) struct SecureDockerd {
    child: Child,
    log: PathBuf,
    address: String,
    certificates: PathBuf,
}

impl SecureDockerd {
    #[track_caller]
    pub(crate) fn start(stack: &Stack) -> Self {
        Self::start_with(stack, &serde_json::json!({}))
    }

    /// The same with `more` in its configuration.
    #[track_caller]
    pub(crate) fn start_with(stack: &Stack, more: &serde_json::Value) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = stack.fresh_path("-dockerd");
        let certificates = root.join("tls");
        certify(&certificates);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("tcp://127.0.0.1:{port}");
        let in_root = |name: &str| format!("{}/{name}", text(&root));
        let mut config = serde_json::json!({
            "bridge": "none", "iptables": false, "ip6tables": false, "userland-proxy": false, "shutdown-timeout": 3,
            "containerd": stack.containerd_address(), "features": {"containerd-snapshotter": true},
            "containerd-namespace": format!("moby-tls-{number}"),
            "containerd-plugins-namespace": format!("plugins-tls-{number}"),
            "data-root": in_root("data"), "exec-root": in_root("x"), "pidfile": in_root("pid"),
            "hosts": [address], "tlsverify": true,
            "tlscacert": in_root("tls/ca.pem"), "tlscert": in_root("tls/server.pem"), "tlskey": in_root("tls/server.key"),
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fs::write(root.join("daemon.json"), config.to_string()).unwrap();
        let log = root.join("log");
        let program = stack.run("sh").args(["-c", "command -v dockerd"]).ok().lines().remove(0);
        let path = format!("{}:{}", text(Path::new(&program).parent().unwrap()), std::env::var("PATH").unwrap());
        let (name, value) = stack.mark();
        let child = Command::new(&program)
            .arg("--config-file")
            .arg(root.join("daemon.json"))
            .env("PATH", path)
            .env(name, value)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut dockerd = Self { child, log, address, certificates };
        let look = |dockerd: &mut Self| {
            let responds = dockerd.with(stack.docker(["version"])).output().status.success();
            (dockerd.child.try_wait().unwrap(), responds)
        };
        let (ended, _) = until("dockerd to respond", || look(&mut dockerd), |(ended, ok)| ended.is_some() || *ok);
        assert!(ended.is_none(), "dockerd ended:\n{}", file_of(&dockerd.log));
        dockerd
    }

    /// Its address, `tcp://127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The folder with `ca.pem`, `cert.pem` and `key.pem` of a client, and with `other.pem`, an authority that signed nothing.
    pub(crate) fn certificates(&self) -> &Path {
        &self.certificates
    }

    /// A docker client, or another program with its variables, for this dockerd.
    pub(crate) fn with(&self, run: Run) -> Run {
        let run = run.env("DOCKER_HOST", &self.address).env("DOCKER_TLS_VERIFY", "1");
        run.env("DOCKER_CERT_PATH", &self.certificates)
    }
}

impl Drop for SecureDockerd {
    fn drop(&mut self) {
        // So that it leaves no mounts.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        until("dockerd to end", || self.child.try_wait().is_ok_and(|ended| ended.is_some()), |ended| *ended);
        if std::thread::panicking() {
            eprintln!("--- dockerd's log\n{}", file_of(&self.log));
        }
    }
}

/// An authority, and what it signed for the dockerd at 127.0.0.1 and for a client.
fn certify(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let authority = |file: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(folder.join(file), params.self_signed(&key).unwrap().pem()).unwrap();
        Issuer::new(params, key)
    };
    authority("other.pem");
    let authority = authority("ca.pem");
    for (name, pem, secret) in [("127.0.0.1", "server.pem", "server.key"), ("client.test", "cert.pem", "key.pem")] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        fs::write(folder.join(pem), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
        fs::write(folder.join(secret), key.serialize_pem()).unwrap();
    }
}
