//! Docker contexts, and TLS towards dockerd. The files are those that docker/cli writes; `tests/docker` has them written by it.

use sha2::{Digest, Sha256};

use super::*;
use crate::net::Tls;

impl Sources {
    /// Docker's configuration folder.
    fn docker(&self) -> PathBuf {
        self.folder.path().join("docker")
    }

    /// A docker context; `tls` are its files of TLS.
    fn context(self, name: &str, meta: &str, tls: &[&str]) -> Self {
        let id = hex::encode(Sha256::digest(name));
        let (meta_folder, files) = (self.docker().join("contexts/meta").join(&id), self.docker().join("contexts/tls"));
        let files = files.join(id).join("docker");
        fs::create_dir_all(&meta_folder).unwrap();
        fs::write(meta_folder.join("meta.json"), meta).unwrap();
        for file in tls {
            fs::create_dir_all(&files).unwrap();
            fs::write(files.join(file), "").unwrap();
        }
        let docker = self.docker();
        self.variable("DOCKER_CONFIG", docker)
    }

    fn host(self, name: &str, host: &str, tls: &[&str]) -> Self {
        let meta = format!(r#"{{"Name":"{name}","Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#);
        self.context(name, &meta, tls)
    }

    /// The current context of docker's configuration file.
    fn current(self, name: &str) -> Self {
        fs::create_dir_all(self.docker()).unwrap();
        fs::write(self.docker().join("config.json"), format!(r#"{{"auths":{{}},"currentContext":"{name}"}}"#)).unwrap();
        let docker = self.docker();
        self.variable("DOCKER_CONFIG", docker)
    }
}

fn docker_host(sources: Sources) -> Option<String> {
    sources.config().engine.docker_host.map(|host| host.to_string())
}

#[test]
fn dockerd_is_chosen_as_docker_chooses_it() {
    let sources =
        || Sources::new().host("one", "unix:///one.sock", &[]).host("two", "ssh://u@h/two.sock", &[]).current("one");
    let variable = || sources().variable("DOCKER_CONTEXT", "two");
    let host = || variable().variable("DOCKER_HOST", "unix:///host.sock");
    let file = || host().file("docker-host = 'unix:///file.sock'");
    let own = || file().variable("LINKSPAN_DOCKER_HOST", "unix:///own.sock");
    assert_eq!(docker_host(sources()).as_deref(), Some("unix:///one.sock"));
    assert_eq!(docker_host(variable()).as_deref(), Some("ssh://u@h/two.sock"));
    assert_eq!(docker_host(host()).as_deref(), Some("unix:///host.sock"));
    assert_eq!(docker_host(file()).as_deref(), Some("unix:///file.sock"));
    assert_eq!(docker_host(own()).as_deref(), Some("unix:///own.sock"));
    assert_eq!(docker_host(own().flag(Setting::DockerHost, "/flag.sock")).as_deref(), Some("unix:///flag.sock"));
    for default in ["default", ""] {
        assert_eq!(docker_host(sources().current(default)), None);
    }
    assert_eq!(docker_host(sources().variable("DOCKER_CONTEXT", "default")), None, "it is stronger than the file");
    let other = sources().flag(Setting::Engine, "containerd");
    assert_eq!(docker_host(other), None, "docker has no part in it");
}

#[test]
fn a_context_for_the_clients_of_a_docker_door_names_no_engine() {
    let sources = || Sources::new().host("door", "unix:///door.sock", &[]).current("door");
    assert_eq!(docker_host(sources().flag(Setting::DockerListen, "unix:///door.sock")), None);
    assert_eq!(docker_host(sources().flag(Setting::DockerListen, "/other.sock")).as_deref(), Some("unix:///door.sock"));
    let usual = Sources::new().host("door", "unix:///run/linkspan/docker.sock", &[]).current("door");
    let config = usual.config();
    assert_eq!(config.engine.docker_host, None);
    let door = config.clients_door.unwrap();
    assert_eq!(
        (&*door.text, &*door.origin.to_string()),
        ("unix:///run/linkspan/docker.sock", "the docker context `door`")
    );
}

#[test]
fn a_context_that_cannot_be_used_is_named_where_docker_has_a_part() {
    let unknown = || Sources::new().current("gone");
    let error = unknown().load().unwrap_err();
    assert!(
        error.to_string().starts_with("currentContext of docker's config.json: there is no docker context `gone` in /")
    );
    assert!(error.hint().unwrap().contains("docker context ls"));
    let error = Sources::new().current("one").variable("DOCKER_CONTEXT", "a\n../b").refusal();
    assert!(error.starts_with(r"DOCKER_CONTEXT: there is no docker context `a\n../b` in "), "{error}");
    for engine in ["containerd", "layout"] {
        unknown().flag(Setting::Engine, engine).config();
    }
    unknown().variable("DOCKER_HOST", "unix:///d.sock").config();
    for (meta, reason) in [
        ("{", "EOF while parsing"),
        ("{}", "missing field `Endpoints`"),
        (r#"{"Name":"one","Endpoints":{}}"#, "missing field `docker`"),
        (r#"{"Name":"one","Endpoints":{"docker":{}}}"#, "it names no engine"),
    ] {
        let error = Sources::new().context("one", meta, &[]).current("one").refusal();
        assert!(error.contains("the docker context `one` cannot be read: ") && error.contains(reason), "{error}");
    }
    let error = Sources::new().host("one", "ssh://-oProxyCommand=x", &[]).current("one").refusal();
    assert!(error.starts_with("the docker context `one`: `ssh://-oProxyCommand=x` is no address: "), "{error}");
}

#[test]
fn tls_is_that_of_the_context_or_of_the_environment() {
    let tls = |sources: Sources| sources.config().engine.docker_host.and_then(|host| host.tls().cloned());
    let all = ["ca.pem", "cert.pem", "key.pem"];
    let environment =
        |sources: Sources| sources.variable("DOCKER_TLS_VERIFY", "1").variable("DOCKER_CERT_PATH", "/env");
    let sources = environment(Sources::new().host("one", "tcp://h:2376", &all).current("one"));
    let folder = sources.docker().join("contexts/tls").join(hex::encode(Sha256::digest("one"))).join("docker");
    let file = |name: &str| Some(folder.join(name));
    let of_context =
        Tls { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem"), server_name: None, skip_verify: false };
    assert_eq!(tls(sources), Some(of_context), "and not that of the environment");
    assert_eq!(tls(Sources::new().host("one", "tcp://h:2375", &[]).current("one")), None);
    let skip = r#"{"Name":"one","Endpoints":{"docker":{"Host":"tcp://h","SkipTLSVerify":true}}}"#;
    let skip = Sources::new().context("one", skip, &[]).current("one").config().engine;
    assert_eq!(skip.docker_address().tls(), Some(&Tls { skip_verify: true, ..Tls::default() }));
    assert_eq!(skip.docker_address().to_string(), "tcp://h:2375", "docker's port, with TLS or without");

    let host = || Sources::new().variable("DOCKER_HOST", "tcp://h");
    assert_eq!(tls(host()), None);
    assert_eq!(docker_host(host()).as_deref(), Some("tcp://h:2375"));
    let verified = Tls { ca: Some("/env/ca.pem".into()), ..Tls::default() };
    assert_eq!(tls(environment(host())), Some(verified.clone()));
    assert_eq!(tls(environment(Sources::new()).flag(Setting::DockerHost, "tcp://h:1")), Some(verified.clone()));
    let unverified = host().variable("DOCKER_TLS", "1").variable("DOCKER_CERT_PATH", "/env");
    assert_eq!(tls(unverified), Some(Tls { skip_verify: true, ..Tls::default() }));
    assert_eq!(tls(host().variable("DOCKER_CERT_PATH", "/env")), None, "files alone ask for nothing");
    let alone = || environment(Sources::new());
    assert_eq!((tls(alone()), docker_host(alone()).as_deref()), (Some(verified), Some("tcp://localhost:2376")));
    assert_eq!(
        docker_host(environment(Sources::new().host("one", "ssh://h", &[]).current("one"))).as_deref(),
        Some("ssh://h")
    );
    for other in ["unix:///d.sock", "ssh://h"] {
        assert_eq!(tls(environment(Sources::new().variable("DOCKER_HOST", other))), None, "{other}");
    }
}
