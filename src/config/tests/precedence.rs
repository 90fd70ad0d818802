//! The precedence of sources.

use super::*;
use crate::build_outputs::{LoadCompression, OutputOptions, PushCompression};
use crate::caches::{CacheLimits, CachePolicy};
use crate::engine::select::ApplierChoice;
use crate::net::{ServerCertificate, ServerTlsSettings};

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
    let foreign = || Sources::new().variable("CONTAINERD_NAMESPACE", "neighbour");
    let file = || foreign().file("namespace = 'file'");
    let variable = || file().variable("LINKSPAN_NAMESPACE", "variable");
    assert_eq!(namespace(foreign()).as_deref(), Some("neighbour"));
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
        .variable("LINKSPAN_LOAD_COMPRESSION", "fast")
        .variable("LINKSPAN_PUSH_COMPRESSION", "gzip")
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
        .variable("LINKSPAN_CACHE_DIR", "/srv/cache")
        .variable("LINKSPAN_LAYER_APPLIER", "containerd")
        .variable("LINKSPAN_CACHE_MAX_BYTES", "20GB")
        .variable("LINKSPAN_CACHE_MAX_AGE", "30d")
        .variable("LINKSPAN_CACHE_MAX_COUNT", "50")
        .variable("LINKSPAN_ALLOW_CACHE", "ci/*,main")
        .variable("LINKSPAN_FROM_ENGINE", "local/*,demo:*")
        .variable("LINKSPAN_LISTEN_TLS_CERT", "l.pem")
        .variable("LINKSPAN_LISTEN_TLS_KEY", "l.key")
        .variable("LINKSPAN_LISTEN_TLS_CLIENT_CA", "clients.pem")
        .variable("LINKSPAN_LISTEN_TLS_LOOPBACK", "true")
        .variable("LINKSPAN_LISTEN_HTPASSWD", "users")
        .config();
    let tls = crate::net::Tls {
        ca: Some("ca.pem".into()),
        cert: Some("cert.pem".into()),
        key: Some("key.pem".into()),
        server_name: Some("name".to_owned()),
        skip_verify: false,
    };
    let outputs = OutputOptions {
        plain_is_load: true,
        load_compression: LoadCompression::Fast,
        push_compression: PushCompression::Gzip,
    };
    let builder = Builder {
        endpoint: "tcp://b:1".parse::<Address>().unwrap().into(),
        tls: Some(tls),
        listen: "tcp://[::1]:2".parse().unwrap(),
        outputs,
    };
    assert_eq!(
        config,
        Config {
            engine: Selection {
                kind: Some(EngineKind::Docker),
                docker_host: Some("unix:///d.sock".parse().unwrap()),
                cluster: None,
                containerd_address: Some("/c.sock".into()),
                namespace: Some("moby".to_owned()),
                layout: None,
                object: None,
                object_variables: Default::default(),
                cache_dir: Some("/srv/cache".into()),
                layer_applier: ApplierChoice::Containerd,
            },
            builders: vec![builder],
            export_listen: Some("unix:///e.sock".parse().unwrap()),
            registry_door: None,
            metrics_listen: None,
            security: ListenerSecurity {
                tls: ServerTlsSettings {
                    certificate: ServerCertificate::Files { cert: "l.pem".into(), key: "l.key".into() },
                    client_ca: Some("clients.pem".into()),
                },
                tls_on_loopback: true,
                htpasswd: Some("users".into()),
            },
            rules: Vec::new(),
            names: Names { allowed: vec!["a/*".to_owned(), "b/*".to_owned()], allow_tag_move: false },
            caches: CacheSettings {
                limits: CacheLimits {
                    max_bytes: Some(20_000_000_000),
                    max_age: Some(Duration::from_secs(30 * 86_400)),
                    max_count: Some(50),
                },
                policy: CachePolicy { allowed: vec!["ci/*".to_owned(), "main".to_owned()] },
                from_engine: false,
                lazy_import: false,
            },
            from_engine: vec!["local/*".to_owned(), "demo:*".to_owned()],
            output_dirs: vec!["/srv/a".into(), "/srv/b".into()],
            docker_door: Some(DockerDoor { listen: "unix:///l.sock".parse().unwrap(), outputs, is_default: false }),
            clients_door: None,
            gid: 50,
            engine_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
            log: Log { level: Level::DEBUG, format: LogFormat::Json },
        }
    );
}

#[test]
fn a_file_configures_the_same_and_more() {
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
            load-compression = "zstd"
            cache-max-count = 7
            allow-output-dir = ["/srv/exports"]
            [[builder]]
            address = "unix:///b.sock"
            listen = "unix:///l.sock"
            [[builder]]
            address = "tcp://b:1"
            listen = "tcp://localhost:0"
            docker-is-load = false
            load-compression = "uncompressed"
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
    assert_eq!(config.caches.limits.max_count, Some(7));
    let [first, second] = config.builders.as_slice() else { panic!("{:?}", config.builders) };
    assert_eq!((first.listen.to_string(), first.outputs.plain_is_load), ("unix:///l.sock".to_owned(), true));
    assert_eq!((first.tls.is_none(), second.outputs.plain_is_load), (true, false));
    let compressions = [first, second].map(|builder| builder.outputs.load_compression);
    assert_eq!(compressions, [LoadCompression::Zstd, LoadCompression::Uncompressed]);
    assert_eq!(second.tls.as_ref().unwrap().server_name.as_deref(), Some("name"));
}

#[test]
fn a_former_name_is_taken_unless_the_new_one_is_there() {
    let builder = |sources: Sources| sources.variable("BUILDKIT_HOST", "unix:///b.sock").config().builders.remove(0);
    assert!(builder(Sources::new().variable("LINKSPAN_DOCKER_IS_LOAD", "true")).outputs.plain_is_load);
    assert!(builder(Sources::new().file("docker-is-load = true")).outputs.plain_is_load);
    let both = Sources::new().variable("LINKSPAN_DOCKER_IS_LOAD", "true").variable("LINKSPAN_PLAIN_IS_LOAD", "false");
    assert!(!builder(both).outputs.plain_is_load);
}
