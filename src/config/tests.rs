//! Which source wins, and what each refusal says.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;

use tempfile::TempDir;
use tracing::Level;

use super::*;
use crate::engine::EngineKind;
use crate::net::Address;

/// Sources of a test: nothing of the machine.
struct Sources {
    folder: TempDir,
    flags: Layer,
    variables: HashMap<String, OsString>,
}

impl Sources {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("group"), "root:x:0:\nbroken\ndocker:x:998:ann,bob\nstaff:x:50:\n").unwrap();
        Self { folder, flags: Layer::default(), variables: HashMap::new() }
    }

    fn flag(mut self, setting: Setting, text: &str) -> Self {
        self.flags.add(setting, text, Origin::Flag(setting));
        self
    }

    fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    fn file(self, text: &str) -> Self {
        fs::write(self.folder.path().join("config.toml"), text).unwrap();
        self
    }

    fn load(self) -> Result<Config, ConfigError> {
        self.resolve(true, None)
    }

    /// As a daemon does that is or is not root's, and was handed sockets that say `handed`.
    fn serving(self, is_root: bool, handed: Layer) -> Result<Config, ConfigError> {
        self.resolve(is_root, Some(handed))
    }

    fn resolve(&self, is_root: bool, serving: Option<Layer>) -> Result<Config, ConfigError> {
        let (file, groups) = (self.folder.path().join("config.toml"), self.folder.path().join("group"));
        let places = Places { file, groups, is_root };
        Config::resolve(self.flags.clone(), &|name: &str| self.variables.get(name).cloned(), &places, serving)
    }

    fn config(self) -> Config {
        self.load().unwrap()
    }

    /// The refusal, with the test's folder left out.
    fn refusal(self) -> String {
        let folder = format!("{}/", self.folder.path().display());
        self.load().unwrap_err().to_string().replace(&folder, "")
    }
}

#[test]
fn defaults() {
    let config = Sources::new().config();
    assert_eq!(config.engine, Selection::default());
    assert_eq!(config.builders, []);
    assert_eq!(config.docker_door, None);
    assert_eq!(config.drain_timeout, DEFAULT_DRAIN);
    assert_eq!(config.log, Log { level: Level::INFO, format: LogFormat::Text });
    if rustix::process::geteuid().is_root() {
        assert_eq!(config.gid, 998, "the docker group");
    }
}

#[test]
fn a_stronger_source_wins() {
    let namespace = |sources: Sources| sources.config().engine.namespace;
    let neighbour = || Sources::new().variable("CONTAINERD_NAMESPACE", "neighbour");
    let file = || neighbour().file("namespace = 'file'");
    let variable = || file().variable("LINKSPAN_NAMESPACE", "variable");
    assert_eq!(namespace(neighbour()).as_deref(), Some("neighbour"));
    assert_eq!(namespace(file()).as_deref(), Some("file"));
    assert_eq!(namespace(variable()).as_deref(), Some("variable"));
    assert_eq!(namespace(variable().flag(Setting::Namespace, "flag")).as_deref(), Some("flag"));
    assert_eq!(namespace(file().variable("LINKSPAN_NAMESPACE", "")).as_deref(), Some("file"), "empty is not set");
}

#[test]
fn every_setting_can_be_given_by_variable() {
    let config = Sources::new()
        .variable("LINKSPAN_ENGINE", "docker")
        .variable("LINKSPAN_DOCKER_HOST", "unix:///d.sock")
        .variable("LINKSPAN_CONTAINERD_ADDRESS", "unix:///c.sock")
        .variable("LINKSPAN_NAMESPACE", "moby")
        .variable("LINKSPAN_BUILDER", "tcp://b:1")
        .variable("LINKSPAN_BUILDKIT_LISTEN", "tcp://[::1]:2")
        .variable("LINKSPAN_DOCKER_LISTEN", "unix:///l.sock")
        .variable("LINKSPAN_PLAIN_IS_LOAD", "true")
        .variable("LINKSPAN_TLS_CA", "ca.pem")
        .variable("LINKSPAN_TLS_CERT", "cert.pem")
        .variable("LINKSPAN_TLS_KEY", "key.pem")
        .variable("LINKSPAN_TLS_SERVER_NAME", "name")
        .variable("LINKSPAN_GROUP", "staff")
        .variable("LINKSPAN_DRAIN_TIMEOUT", "5")
        .variable("LINKSPAN_LOG_LEVEL", "debug")
        .variable("LINKSPAN_EXPORT_LISTEN", "unix:///e.sock")
        .variable("LINKSPAN_ALLOW_NAME", "a/*,b/*")
        .variable("LINKSPAN_DENY_TAG_MOVE", "true")
        .variable("LINKSPAN_ALLOW_OUTPUT_DIR", "/srv/a,/srv/b/")
        .variable("LINKSPAN_LOG_FORMAT", "json")
        .config();
    let tls = crate::net::Tls {
        ca: Some("ca.pem".into()),
        cert: Some("cert.pem".into()),
        key: Some("key.pem".into()),
        server_name: Some("name".to_owned()),
    };
    let builder = Builder {
        place: "tcp://b:1".parse::<Address>().unwrap().into(),
        tls: Some(tls),
        listen: "tcp://[::1]:2".parse().unwrap(),
        plain_is_load: true,
    };
    assert_eq!(
        config,
        Config {
            engine: Selection {
                kind: Some(EngineKind::Docker),
                docker_host: Some("unix:///d.sock".to_owned()),
                containerd_address: Some("/c.sock".into()),
                namespace: Some("moby".to_owned()),
                layout: None,
            },
            builders: vec![builder],
            export_listen: Some("unix:///e.sock".parse().unwrap()),
            names: Names { allowed: vec!["a/*".to_owned(), "b/*".to_owned()], allow_tag_move: false },
            output_dirs: vec!["/srv/a".into(), "/srv/b".into()],
            docker_door: Some(DockerDoor {
                listen: "unix:///l.sock".parse().unwrap(),
                plain_is_load: true,
                is_default: false
            }),
            gid: 50,
            engine_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
            log: Log { level: Level::DEBUG, format: LogFormat::Json },
        }
    );
}

#[test]
fn a_file_says_the_same_and_more() {
    let config = Sources::new()
        .file(
            r#"
            engine = "containerd"
            containerd-address = "/c.sock"
            namespace = "k8s.io"
            group = 7
            drain-timeout = 0
            log-level = "warn"
            plain-is-load = true
            allow-output-dir = ["/srv/exports"]
            [[builder]]
            address = "unix:///b.sock"
            listen = "unix:///l.sock"
            [[builder]]
            address = "tcp://b:1"
            listen = "tcp://localhost:0"
            docker-is-load = false
            tls = { ca = "ca.pem", server-name = "name" }
            "#,
        )
        .variable("DOCKER_HOST", "not even an address")
        .variable("BUILDKIT_HOST", "unix:///ignored.sock")
        .config();
    assert_eq!(config.engine.kind, Some(EngineKind::Containerd));
    assert_eq!(config.engine.docker_host, None, "of no interest with containerd");
    assert_eq!((config.gid, config.drain_timeout, config.log.level), (7, Duration::ZERO, Level::WARN));
    assert_eq!(config.output_dirs, [PathBuf::from("/srv/exports")]);
    let [first, second] = config.builders.as_slice() else { panic!("{:?}", config.builders) };
    assert_eq!((first.listen.to_string(), first.plain_is_load), ("unix:///l.sock".to_owned(), true));
    assert_eq!((first.tls.is_none(), second.plain_is_load), (true, false));
    assert_eq!(second.tls.as_ref().unwrap().server_name.as_deref(), Some("name"));
}

#[test]
fn builders_are_paired_and_replaced_as_a_whole() {
    let listens = |config: Config| -> Vec<_> {
        config.builders.iter().map(|builder| format!("{} {}", builder.place, builder.listen)).collect()
    };
    let table = "[[builder]]\naddress = 'unix:///t'\nlisten = 'unix:///u'";
    assert_eq!(listens(Sources::new().file(table).config()), ["unix:///t unix:///u"]);
    assert_eq!(
        listens(Sources::new().file(table).flag(Setting::BuildkitListen, "unix:///v").config()),
        ["unix:///t unix:///v"]
    );
    let flagged = Sources::new().file(table).flag(Setting::Builder, "unix:///f").config();
    assert_eq!(listens(flagged), ["unix:///f unix:///run/linkspan/buildkit.sock"]);
    let several = Sources::new()
        .variable("LINKSPAN_BUILDER", "unix:///a, tcp://b:2")
        .variable("LINKSPAN_BUILDKIT_LISTEN", "unix:///c,unix:///d")
        .config();
    assert_eq!(listens(several), ["unix:///a unix:///c", "tcp://b:2 unix:///d"]);
    let neighbour = Sources::new().variable("BUILDKIT_HOST", "unix:///n").config();
    assert_eq!(listens(neighbour), ["unix:///n unix:///run/linkspan/buildkit.sock"]);
}

#[test]
fn every_engine_can_be_asked_for() {
    for (text, kind) in [
        ("auto", None),
        ("docker", Some(EngineKind::Docker)),
        ("docker-classic", Some(EngineKind::DockerClassic)),
        ("containerd", Some(EngineKind::Containerd)),
    ] {
        let sources = Sources::new().flag(Setting::Engine, text).flag(Setting::Builder, "unix:///b");
        assert_eq!(sources.config().engine.kind, kind);
    }
}

#[test]
fn another_door_does_not_bring_a_builders_door() {
    let doors = |sources: Sources| {
        let config = sources.config();
        (config.docker_door.map(|door| door.listen.to_string()), config.builders.len())
    };
    let door = || Some("unix:///d".to_owned());
    let docker = || Sources::new().flag(Setting::DockerListen, "unix:///d");
    assert_eq!(doors(docker()), (door(), 0));
    assert_eq!(doors(docker().variable("BUILDKIT_HOST", "nothing of ours")), (door(), 0), "not even looked at");
    assert_eq!(doors(docker().flag(Setting::Builder, "unix:///b")), (door(), 1));
    assert_eq!(doors(docker().variable("LINKSPAN_BUILDER", "unix:///b")), (door(), 1));
    let export = Sources::new().flag(Setting::ExportListen, "unix:///e").variable("BUILDKIT_HOST", "unix:///b");
    assert_eq!(doors(export), (None, 0));
    let both = docker().variable("BUILDKIT_HOST", "unix:///b").flag(Setting::BuildkitListen, "unix:///l");
    assert_eq!(doors(both), (door(), 1));
    let file = Sources::new().file("docker-listen = 'unix:///d'\n[[builder]]\naddress = 'unix:///b'");
    assert_eq!(doors(file), (door(), 1));
}

#[test]
fn wrong_values_are_named_with_their_place() {
    let sources = Sources::new;
    let cases = [
        (
            sources().flag(Setting::Engine, "podman"),
            "--engine: `podman` is no engine; expected `auto`, `docker`, `docker-classic`, `containerd` or `layout`",
        ),
        (
            sources().variable("LINKSPAN_ENGINE", "podman"),
            "LINKSPAN_ENGINE: `podman` is no engine; expected `auto`, `docker`, `docker-classic`, `containerd` or `layout`",
        ),
        (
            sources().file("engine = 5"),
            "`engine` in config.toml: `5` is no engine; expected `auto`, `docker`, `docker-classic`, `containerd` or `layout`",
        ),
        (
            sources().variable("DOCKER_HOST", "tcp://nowhere"),
            "DOCKER_HOST: `tcp://nowhere` is no address: expected a port, as in `tcp://127.0.0.1:1234`",
        ),
        (
            sources().flag(Setting::DockerHost, "localhost:2375"),
            "--docker-host: `localhost:2375` is no address: expected `unix:///path`, a path or `tcp://host:port`",
        ),
        (
            sources().variable("CONTAINERD_ADDRESS", "tcp://c:1"),
            "CONTAINERD_ADDRESS: `tcp://c:1` is no socket of this machine; expected a path such as \
             `/run/containerd/containerd.sock`",
        ),
        (
            sources().variable("BUILDKIT_HOST", "kube-pod://b"),
            "BUILDKIT_HOST: `kube-pod://b` is no address: expected `unix:///path`, a path, `tcp://host:port` or \
             `docker-container://NAME`",
        ),
        (
            sources().file("[[builder]]\naddress = 'unix:///a'\nlisten = 'tcp://0.0.0.0:1'"),
            "`listen of builder 1` in config.toml: `tcp://0.0.0.0:1` can be reached from other machines, and whoever \
             reaches it controls the engine; expected a unix socket or a loopback address such as \
             `tcp://127.0.0.1:1234` until TLS exists for it",
        ),
        (sources().flag(Setting::PlainIsLoad, "yes"), "--plain-is-load: `yes` is neither `true` nor `false`"),
        (
            sources().flag(Setting::Group, "nobody-has-this"),
            "--group: `nobody-has-this` is no group in group; expected a group's name, or its number",
        ),
        (
            sources().flag(Setting::Group, "4294967295"),
            "--group: `4294967295` is no group in group; expected a group's name, or its number",
        ),
        (
            sources().flag(Setting::DrainTimeout, "1m"),
            "--drain-timeout: `1m` is not a whole number of seconds from 0 to 86400",
        ),
        (
            sources().flag(Setting::DrainTimeout, "86401"),
            "--drain-timeout: `86401` is not a whole number of seconds from 0 to 86400",
        ),
        (
            sources().flag(Setting::LogLevel, "loud"),
            "--log-level: `loud` is no level; expected `error`, `warn`, `info`, `debug` or `trace`",
        ),
        (sources().flag(Setting::LogFormat, "xml"), "--log-format: `xml` is no log format; expected `text` or `json`"),
        (
            sources().flag(Setting::Config, "/nonexistent/file"),
            "cannot read the configuration file /nonexistent/file: No such file or directory (os error 2)",
        ),
    ];
    for (sources, expected) in cases {
        assert_eq!(sources.refusal(), expected);
    }
}

#[test]
fn contradictions_are_explained() {
    let builders = |count: usize| {
        (0..count).fold(Sources::new(), |sources, number| sources.flag(Setting::Builder, &format!("tcp://b:{number}")))
    };
    let listen = |sources: Sources, text| sources.flag(Setting::BuildkitListen, text);
    let cases = [
        (
            builders(2),
            "the builder tcp://b:0 has no address to listen on: with several builders give one --buildkit-listen for \
             each --builder",
        ),
        (
            listen(builders(2), "unix:///a"),
            "2 builders but 1 listen address: they are paired in order, so give one --buildkit-listen for each \
             --builder",
        ),
        (
            listen(listen(builders(1), "unix:///a"), "unix:///b"),
            "1 builder but 2 listen addresses: they are paired in order, so give one --buildkit-listen for each \
             --builder",
        ),
        (
            listen(listen(builders(2), "unix:///a"), "unix:///a"),
            "two builders would listen on unix:///a; give each its own --buildkit-listen",
        ),
        (
            listen(Sources::new().flag(Setting::Builder, "unix:///a"), "unix:///a"),
            "the builder unix:///a is itself the address to listen on; a door needs an address of its own",
        ),
        (
            listen(builders(0), "unix:///a"),
            "no builder is configured: name one with --builder unix:///run/buildkit/buildkitd.sock, with \
             LINKSPAN_BUILDER or BUILDKIT_HOST, or in a [[builder]] table of /etc/linkspan/config.toml; or open the \
             docker door with --docker-listen unix:///run/linkspan/docker.sock, or that of the exporter API with \
             --export-listen unix:///run/linkspan/export.sock",
        ),
        (
            Sources::new().flag(Setting::DockerListen, "tcp://127.0.0.1:2375"),
            "--docker-listen: `tcp://127.0.0.1:2375` is no unix socket: whoever reaches Docker's API is root here, and \
             over TCP that is every user of this machine and every page in their browsers; expected `unix:///path`",
        ),
        (
            Sources::new().flag(Setting::DockerListen, "unix:///a").flag(Setting::Engine, "containerd"),
            "--docker-listen: `unix:///a` needs a Docker behind it, and the engine is to be `containerd`",
        ),
        (
            Sources::new().flag(Setting::DockerListen, "unix:///a").flag(Setting::DockerHost, "unix:///a"),
            "--docker-listen: `unix:///a` is the address of the engine itself, so that the door would lead to itself; say \
             where dockerd listens with --docker-host, or choose another address",
        ),
        (
            listen(builders(1), "unix:///a").flag(Setting::DockerListen, "unix:///a"),
            "the docker door and the door to tcp://b:0 would both listen on unix:///a; give each an address of its own",
        ),
        (
            listen(builders(1), "unix:///a").flag(Setting::ExportListen, "unix:///a"),
            "--export-listen is unix:///a, which is another door's address or a builder's; a door needs an address of its \
             own",
        ),
        (builders(65), "65 builders are configured; at most 64 can be"),
        (
            Sources::new().variable("LINKSPAN_TLS_CA", "ca.pem"),
            "LINKSPAN_TLS_CA needs exactly one builder, and there are 0; with several, give each its own `tls` in a \
             [[builder]] table of the configuration file",
        ),
        (
            Sources::new().flag(Setting::Builder, "unix:///a").flag(Setting::TlsCa, "ca.pem"),
            "--tls-ca: TLS needs a `tcp://` builder, and this one is a unix socket",
        ),
        (
            builders(1).flag(Setting::TlsServerName, "name"),
            "--tls-server-name: the certificate authority that signed the builder's certificate is missing (tls-ca)",
        ),
        (
            builders(1).flag(Setting::TlsCa, "ca.pem").flag(Setting::TlsKey, "key.pem"),
            "--tls-ca: a certificate and its key go together, and one is missing (tls-cert, tls-key)",
        ),
    ];
    for (sources, expected) in cases {
        assert_eq!(sources.refusal(), expected);
    }
}

#[test]
fn the_shell_of_a_user_of_the_docker_door_says_nothing_of_the_engine() {
    let door = || Sources::new().flag(Setting::DockerListen, "unix:///a");
    let engine = |sources: Sources| sources.config().engine.docker_host;
    assert_eq!(engine(door().variable("DOCKER_HOST", "unix:///a")), None);
    assert_eq!(engine(door().variable("DOCKER_HOST", "unix:///b")).as_deref(), Some("unix:///b"));
    let usual = "unix:///run/linkspan/docker.sock";
    assert_eq!(engine(Sources::new().variable("DOCKER_HOST", usual)), None, "a daemon has it open, not this process");
    let refusal = door().variable("LINKSPAN_DOCKER_HOST", "unix:///a").refusal();
    assert!(refusal.contains("the door would lead to itself"), "{refusal}");
    let usual = Sources::new().flag(Setting::DockerListen, "unix:///var/run/docker.sock").refusal();
    assert!(usual.contains("say where dockerd listens with --docker-host"), "{usual}");
}

#[test]
fn the_shell_of_a_user_of_a_buildkit_door_says_nothing_of_a_builder() {
    let builders = |sources: Sources| sources.config().builders.len();
    assert_eq!(builders(Sources::new().variable("BUILDKIT_HOST", DEFAULT_LISTEN)), 0);
    let listens = || Sources::new().flag(Setting::Builder, "unix:///b").flag(Setting::BuildkitListen, "unix:///l");
    assert_eq!(builders(listens().variable("BUILDKIT_HOST", "unix:///l")), 1);
    assert_eq!(builders(Sources::new().variable("BUILDKIT_HOST", "unix:///other")), 1);
}

#[test]
fn files_that_are_none() {
    let refusal = Sources::new().file("enginee = 'docker'").refusal();
    for part in ["config.toml", "line 1", "unknown field `enginee`", "`containerd-address`", "`builder`"] {
        assert!(refusal.contains(part), "{part} in: {refusal}");
    }
    let refusal = Sources::new().file("[[builder]]\naddress = 'tcp://b:1'\ntls = { certificate = 'x' }").refusal();
    for part in ["line 3", "unknown field `certificate`", "`ca`, `cert`, `key`, `server-name`"] {
        assert!(refusal.contains(part), "{part} in: {refusal}");
    }
    let refusal = Sources::new().file("[[builder]]\nlisten = 'unix:///l'").refusal();
    assert!(refusal.contains("missing field `address`"), "{refusal}");
    let refusal = Sources::new().file("group = 1.5").refusal();
    assert!(refusal.contains("expected a string, a whole number or a boolean"), "{refusal}");
    let refusal = Sources::new().file(&"#".repeat((1 << 20) + 1)).refusal();
    assert_eq!(refusal, "the configuration file config.toml is longer than 1048576 bytes; is it the right file?");
}

#[test]
fn variables_must_be_text() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(vec![b'a', 0xff]);
    let refusal = Sources::new().variable("LINKSPAN_NAMESPACE", value).refusal();
    assert_eq!(refusal, "LINKSPAN_NAMESPACE: the value is not UTF-8");
}

#[test]
fn namespaces_follow_containerd() {
    let accepted = |text: &str| Sources::new().flag(Setting::Namespace, text).load().is_ok();
    let longest = "n".repeat(76);
    for good in ["default", "k8s.io", "moby", "0", "A-b_c.d", longest.as_str()] {
        assert!(accepted(good), "{good}");
    }
    let too_long = "n".repeat(77);
    for bad in ["", ".", "a..b", "-a", "a-", "a/b", "a b", "ü", "a.-b", "../etc", too_long.as_str()] {
        assert!(!accepted(bad), "{bad}");
    }
}

#[test]
fn a_builder_in_a_container_is_one_of_the_docker_that_is_named() {
    let config = |sources: Sources| sources.flag(Setting::Builder, "docker-container://b0").config();
    let docker = |config: Config| match &config.builders[0].place {
        Place::Container { container, docker } => (container.to_string(), docker.clone()),
        place => panic!("{place} is no container"),
    };
    let expected = |socket: &str| ("docker-container://b0".to_owned(), PathBuf::from(socket));
    assert_eq!(docker(config(Sources::new())), expected("/var/run/docker.sock"));
    // Whatever the engine is.
    let containerd = Sources::new().flag(Setting::Engine, "containerd").flag(Setting::DockerHost, "unix:///d.sock");
    assert_eq!(docker(config(containerd)), expected("/d.sock"));
    let refusal = |sources: Sources| sources.flag(Setting::Builder, "docker-container://b0").refusal();
    let said = refusal(Sources::new().variable("DOCKER_HOST", "tcp://d:1"));
    assert!(said.contains("`tcp://d:1` is none of this machine; expected `unix:///path` for --docker-host"), "{said}");
    let said = refusal(Sources::new().flag(Setting::TlsCa, "ca.pem"));
    assert!(said.contains("this one is in a container"), "{said}");
    let said = Sources::new().flag(Setting::Builder, "docker-container://a/b").refusal();
    assert!(said.contains("expected a container's name or id"), "{said}");
}

#[test]
fn a_layout_goes_with_its_own_engine_or_with_none_that_is_named() {
    let layout = |sources: Sources| sources.flag(Setting::Layout, "/images").config().engine;
    let selection = layout(Sources::new().flag(Setting::Engine, "layout").variable("DOCKER_HOST", "tcp://elsewhere:1"));
    assert_eq!(
        (selection.kind, selection.layout.as_deref()),
        (Some(EngineKind::Layout), Some(std::path::Path::new("/images")))
    );
    assert_eq!(selection.docker_host, None);
    // Alone, whatever the environment and the file say of engines.
    let told = || Sources::new().variable("LINKSPAN_ENGINE", "docker").file("engine = 'containerd'");
    assert_eq!(
        (layout(Sources::new()).kind, layout(told()).kind),
        (Some(EngineKind::Layout), Some(EngineKind::Layout))
    );
    assert_eq!(layout(Sources::new().flag(Setting::Engine, "auto")).kind, None);
    assert_eq!(layout(Sources::new().flag(Setting::DockerHost, "/d.sock")).kind, None, "not alone");
    let ambient = Sources::new().variable("LINKSPAN_LAYOUT", "/images");
    assert_eq!(ambient.config().engine.kind, None, "only where it is, not that it is meant");
    let other = Sources::new().file("layout = '/images'").flag(Setting::Engine, "docker").config().engine;
    assert_eq!((other.kind, other.layout), (Some(EngineKind::Docker), None));
    assert_eq!(
        Sources::new().file("layout = 'relative/images'").config().engine.layout,
        Some("relative/images".into())
    );
    for engine in ["docker", "containerd"] {
        let error = Sources::new().flag(Setting::Engine, engine).flag(Setting::Layout, "/images").refusal();
        assert!(error.contains("--engine layout"), "{error}");
    }
    let error = Sources::new().flag(Setting::Layout, "file:///images").refusal();
    assert!(error.starts_with("--layout: `file:///images` is no directory"), "{error}");
}

#[test]
fn a_former_name_is_taken_unless_the_new_one_is_there() {
    let builder = |sources: Sources| sources.variable("BUILDKIT_HOST", "unix:///b.sock").config().builders.remove(0);
    assert!(builder(Sources::new().variable("LINKSPAN_DOCKER_IS_LOAD", "true")).plain_is_load);
    assert!(builder(Sources::new().file("docker-is-load = true")).plain_is_load);
    let both = Sources::new().variable("LINKSPAN_DOCKER_IS_LOAD", "true").variable("LINKSPAN_PLAIN_IS_LOAD", "false");
    assert!(!builder(both).plain_is_load);
}

#[test]
fn an_address_without_a_scheme_is_a_path() {
    let config = Sources::new()
        .flag(Setting::DockerHost, "/d.sock")
        .flag(Setting::Builder, "/b.sock")
        .flag(Setting::BuildkitListen, "/l.sock")
        .flag(Setting::DockerListen, "/door.sock")
        .flag(Setting::ExportListen, "/e.sock")
        .variable("CONTAINERD_ADDRESS", "unix:///c.sock")
        .config();
    assert_eq!(config.engine.docker_host.as_deref(), Some("unix:///d.sock"));
    assert_eq!(config.engine.containerd_address, Some("/c.sock".into()));
    assert_eq!(config.builders[0].place.to_string(), "unix:///b.sock");
    assert_eq!(config.builders[0].listen.to_string(), "unix:///l.sock");
    assert_eq!(config.docker_door.unwrap().listen.to_string(), "unix:///door.sock");
    assert_eq!(config.export_listen.unwrap().to_string(), "unix:///e.sock");
    let config = Sources::new().flag(Setting::DockerListen, "/d.sock").variable("DOCKER_HOST", "unix:///d.sock");
    assert_eq!(config.config().engine.docker_host, None, "it is the same address");
    let said = Sources::new().flag(Setting::DockerListen, "unix:///d.sock").flag(Setting::DockerHost, "/d.sock");
    assert!(said.refusal().contains("the door would lead to itself"));
}

/// The addresses of the docker door and of the exporter API's.
fn doors(config: Result<Config, ConfigError>) -> (Option<String>, Option<String>) {
    let config = config.unwrap();
    let docker = config.docker_door.map(|door| door.listen.to_string());
    (docker, config.export_listen.map(|listen| listen.to_string()))
}

#[test]
fn a_daemon_that_is_told_of_no_door_opens_the_default_ones() {
    let serving = |sources: Sources, is_root| doors(sources.serving(is_root, Layer::default()));
    let some = |text: &str| Some(text.to_owned());
    let root = (some("unix:///run/linkspan/docker.sock"), some("unix:///run/linkspan/export.sock"));
    assert_eq!(serving(Sources::new(), true), root);
    assert_eq!(serving(Sources::new().variable("XDG_RUNTIME_DIR", "/run/user/7"), true), root);
    let users = (some("unix:///run/user/7/linkspan/docker.sock"), some("unix:///run/user/7/linkspan/export.sock"));
    assert_eq!(serving(Sources::new().variable("XDG_RUNTIME_DIR", "/run/user/7"), false), users);
    for engine in ["containerd", "layout"] {
        assert_eq!(serving(Sources::new().flag(Setting::Engine, engine), true), (None, root.1.clone()));
    }
    for folder in ["", "relative"] {
        let error = Sources::new().variable("XDG_RUNTIME_DIR", folder).serving(false, Layer::default()).unwrap_err();
        assert!(matches!(error, ConfigError::NoRuntimeFolder), "{error}");
    }
    // Who asks for any door gets that one.
    let one = Sources::new().flag(Setting::ExportListen, "unix:///e.sock");
    assert_eq!(serving(one, true), (None, some("unix:///e.sock")));
    for sources in [
        Sources::new().flag(Setting::Builder, "unix:///b.sock"),
        Sources::new().variable("BUILDKIT_HOST", "unix:///b.sock"),
        Sources::new().file("[[builder]]\naddress = 'unix:///b.sock'\n"),
    ] {
        let config = sources.serving(true, Layer::default()).unwrap();
        assert_eq!((config.builders.len(), config.docker_door, config.export_listen), (1, None, None));
    }
    // What is no daemon opens none.
    assert_eq!(doors(Sources::new().load()), (None, None));
}

#[test]
fn a_default_docker_door_does_not_lead_to_itself() {
    let door = "unix:///run/linkspan/docker.sock";
    let config = Sources::new().variable("DOCKER_HOST", door).serving(true, Layer::default()).unwrap();
    assert_eq!(config.engine.docker_host, None);
    let error = Sources::new().flag(Setting::DockerHost, door).serving(true, Layer::default()).unwrap_err().to_string();
    assert!(
        error.starts_with("the default of --docker-listen: `unix:///run/linkspan/docker.sock` is the address of"),
        "{error}"
    );
}

#[test]
fn names_of_sockets_that_are_handed_over_ask_for_doors_and_give_way_to_everything() {
    let handed = |names: &[(Setting, &str)]| {
        let mut layer = Layer::default();
        for (setting, address) in names {
            layer.add(*setting, *address, Origin::Variable("LISTEN_FDNAMES".to_owned()));
        }
        layer
    };
    let some = |text: &str| Some(text.to_owned());
    // linkspan.socket listens at the usual addresses, whatever the engine is to be.
    let usual = || {
        let mut layer = Layer::default();
        layer.add(Setting::DockerListen, DEFAULT_DOCKER_LISTEN.to_owned(), Origin::Default(Setting::DockerListen));
        layer
    };
    assert_eq!(doors(Sources::new().serving(true, usual())), (some(DEFAULT_DOCKER_LISTEN), None));
    assert_eq!(doors(Sources::new().flag(Setting::Engine, "containerd").serving(true, usual())), (None, None));
    let docker = handed(&[(Setting::DockerListen, "unix:///d.sock")]);
    assert_eq!(doors(Sources::new().serving(true, docker.clone())), (some("unix:///d.sock"), None));
    let own = Sources::new().flag(Setting::DockerListen, "unix:///own.sock");
    assert_eq!(doors(own.serving(true, docker)), (some("unix:///own.sock"), None));
    let buildkit = handed(&[(Setting::BuildkitListen, "unix:///l.sock")]);
    let listens =
        |sources: Sources| sources.serving(true, buildkit.clone()).unwrap().builders.remove(0).listen.to_string();
    assert_eq!(listens(Sources::new().flag(Setting::Builder, "unix:///b.sock")), "unix:///l.sock");
    let table = "[[builder]]\naddress = 'unix:///b.sock'\nlisten = 'unix:///own.sock'\n";
    assert_eq!(listens(Sources::new().file(table)), "unix:///own.sock");
}
