//! The flags of the daemon: its doors, listeners and what they allow.

use clap::Args;

use super::settings::EngineSettings;
use crate::config::{Layer, Setting};

/// The flags of `serve` and `doctor`.
#[derive(Debug, Args)]
pub(super) struct DaemonSettings {
    #[command(flatten)]
    engine: EngineSettings,

    /// A builder, as `unix:///path`, `tcp://host:port` or `docker-container://NAME` (a container of the dockerd at
    /// --docker-host; buildx calls that of its builder b `buildx_buildkit_b0`); can be repeated [env: LINKSPAN_BUILDER
    /// (separated by commas), BUILDKIT_HOST]
    #[arg(long, value_name = "ADDR", help_heading = "Doors")]
    builder: Vec<String>,

    /// Where the door to the builder at the same position listens; a unix socket or a loopback address, or with
    /// --listen-tls-client-ca any other; can be repeated [env: LINKSPAN_BUILDKIT_LISTEN (separated by commas)]
    /// [default with one builder:
    /// unix:///run/linkspan/buildkit.sock, or without root in linkspan/ of XDG_RUNTIME_DIR]
    #[arg(long, value_name = "ADDR", help_heading = "Doors")]
    buildkit_listen: Vec<String>,

    /// Where the docker door listens, as `unix:///path`: docker and buildx that use it as their engine get direct exports
    /// from `docker-container` builders, and `docker load` sends only what is missing; without it there is no docker
    /// door, and with it BUILDKIT_HOST counts only beside --buildkit-listen [env: LINKSPAN_DOCKER_LISTEN] [default where no
    /// door is asked for: docker.sock in /run/linkspan, or in linkspan/ of XDG_RUNTIME_DIR without root]
    #[arg(long, value_name = "ADDR", help_heading = "Doors")]
    docker_listen: Option<String>,

    /// Treat the plain exporters `docker` and `oci` as a load, too. Some clients do not mark their `--load`: buildx before
    /// 0.24, and every buildx that finds no engine with the containerd image store. On the wire it is then the same as
    /// `-o type=docker,dest=FILE` or `-o type=oci,dest=FILE`, and FILE is not written: use this only where nobody needs
    /// such files [env: LINKSPAN_PLAIN_IS_LOAD] [default: false] [formerly: --docker-is-load]
    #[arg(
        long, alias = "docker-is-load", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Doors"
    )]
    plain_is_load: Option<String>,

    /// How builders compress the layers that they make for a load, where the client names no compression itself (as in `-o
    /// type=docker,compression=zstd`): `as-asked` (as without Linkspan: gzip), `fast` (gzip at its quickest level), `zstd`, or
    /// `uncompressed`. What a builder made once stays so, also in its later pushes. Builds with other outputs that have the
    /// image's layers are left as they are [env: LINKSPAN_LOAD_COMPRESSION] [default: as-asked]
    #[arg(long, value_name = "as-asked|fast|zstd|uncompressed", help_heading = "Doors")]
    load_compression: Option<String>,

    /// How builders compress the layers that they push, where the client names no compression itself: `as-asked` (as without
    /// Linkspan: each as it was made first), or `gzip`, whatever it was before [env: LINKSPAN_PUSH_COMPRESSION]
    /// [default: as-asked]
    #[arg(long, value_name = "as-asked|gzip", help_heading = "Doors")]
    push_compression: Option<String>,

    /// Where the door of the standard exporter API listens; a unix socket or a loopback address, or any other
    /// where clients have certificates or passwords (--listen-tls-client-ca, --listen-htpasswd) [env:
    /// LINKSPAN_EXPORT_LISTEN] [default where no door is asked for: export.sock beside the docker door's]
    #[arg(long, value_name = "ADDR", help_heading = "Doors")]
    export_listen: Option<String>,

    /// Where the registry door listens, from which registry clients pull the engine's images, and with
    /// --registry-writable to which they push; a loopback address, such as `tcp://127.0.0.1:5000`, or a unix socket; any other
    /// address where clients have passwords or certificates (--listen-htpasswd, --listen-tls-client-ca) [env:
    /// LINKSPAN_REGISTRY_LISTEN]
    #[arg(long, value_name = "ADDR", help_heading = "Doors")]
    registry_listen: Option<String>,

    /// Let clients that use the registry door as a mirror of another registry (`?ns=`) resolve tags there, too. A tag of the
    /// engine may be older than the registry's; digests are always served [env: LINKSPAN_REGISTRY_MIRROR_TAGS] [default:
    /// false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Doors"
    )]
    registry_mirror_tags: Option<String>,

    /// List all repositories at the registry door (`GET /v2/_catalog`) [env: LINKSPAN_REGISTRY_CATALOG] [default: false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Doors"
    )]
    registry_catalog: Option<String>,

    /// Let clients push images to the engine through the registry door, and remove tags there; whoever reaches the door can
    /// set any name that --allow-name and --deny-tag-move leave [env: LINKSPAN_REGISTRY_WRITABLE] [default: false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Doors"
    )]
    registry_writable: Option<String>,

    /// Send clients of the registry door to the object store for blobs, by URLs that are signed for 15 minutes, instead of
    /// passing them through: where the engine is a bucket whose endpoint clients reach by the same name [env:
    /// LINKSPAN_REGISTRY_REDIRECT] [default: false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Doors"
    )]
    registry_redirect: Option<String>,

    /// Where Prometheus gets metrics (`GET /metrics`); a loopback address, such as `tcp://127.0.0.1:9464`, or a unix socket; any
    /// other address where clients have passwords or certificates (--listen-htpasswd, --listen-tls-client-ca) [env:
    /// LINKSPAN_METRICS_LISTEN]
    #[arg(long, value_name = "ADDR", help_heading = "Doors")]
    metrics_listen: Option<String>,

    /// PEM file of the certificate of TCP listeners, with the intermediate ones behind it. Every listener that other machines
    /// reach has TLS; without this one, certificates are made and signed by an authority in --listen-tls-dir. Changed files are
    /// read again [env: LINKSPAN_LISTEN_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Listeners")]
    listen_tls_cert: Option<String>,

    /// PEM file of that certificate's key [env: LINKSPAN_LISTEN_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Listeners")]
    listen_tls_key: Option<String>,

    /// The folder of the authority that signs generated certificates; clients trust the `ca.crt` in it [env:
    /// LINKSPAN_LISTEN_TLS_DIR] [default: /var/lib/linkspan/tls; without root: linkspan/tls in XDG_STATE_HOME]
    #[arg(long, value_name = "DIR", help_heading = "Listeners")]
    listen_tls_dir: Option<String>,

    /// A host name or IP address by which clients reach this machine, for generated certificates, which have those that the
    /// machine knows of itself anyway; can be repeated [env: LINKSPAN_LISTEN_TLS_NAME (separated by commas)]
    #[arg(long, value_name = "NAME", help_heading = "Listeners")]
    listen_tls_name: Vec<String>,

    /// PEM file of the authorities that sign clients' certificates: clients of TCP listeners with TLS are known by these
    /// [env: LINKSPAN_LISTEN_TLS_CLIENT_CA]
    #[arg(long, value_name = "FILE", help_heading = "Listeners")]
    listen_tls_client_ca: Option<String>,

    /// TLS on loopback addresses, too [env: LINKSPAN_LISTEN_TLS_LOOPBACK] [default: false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Listeners"
    )]
    listen_tls_loopback: Option<String>,

    /// Password file with bcrypt hashes, as `htpasswd -B` writes it: clients of the registry door at a TCP address need a name
    /// and a password of it (`docker login`) or a certificate [env: LINKSPAN_LISTEN_HTPASSWD]
    #[arg(long, value_name = "FILE", help_heading = "Listeners")]
    listen_htpasswd: Option<String>,

    /// Allow only names that match this pattern, for exports and for `docker load` through any door (docker's own pull, tag
    /// and build are not restricted); `*` matches any characters of the full name, as in `docker.io/library/ci-*`; can be
    /// repeated [env: LINKSPAN_ALLOW_NAME (separated by commas)] [default: any]
    #[arg(long, value_name = "PATTERN", help_heading = "Doors")]
    allow_name: Vec<String>,
    /// Do not let an export or a `docker load` move a name from one image to another [env: LINKSPAN_DENY_TAG_MOVE] [default: false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Doors"
    )]
    deny_tag_move: Option<String>,
    /// Allow builds to write only build caches whose ref matches this pattern, as in `ci/*`; can be repeated [env:
    /// LINKSPAN_ALLOW_CACHE (separated by commas)] [default: any]
    #[arg(long, value_name = "PATTERN", help_heading = "Build caches")]
    allow_cache: Vec<String>,
    /// Take the images of builds (`FROM`, `COPY --from`) that match this pattern from the engine, if it has them whole, instead of
    /// asking a registry; `*` matches any characters of the name, full or as docker shows it, as in `local/*` or `demo:*`; can
    /// be repeated. All other names stay with the registry [env: LINKSPAN_FROM_ENGINE (separated by commas)] [default: none]
    #[arg(long, value_name = "PATTERN", help_heading = "Doors")]
    from_engine: Vec<String>,
    /// Read the inline cache of the engine's image, too, where a build imports one of the same name from a registry
    /// (`--cache-from type=registry,ref=NAME`) [env: LINKSPAN_CACHE_FROM_ENGINE] [default: false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Build caches"
    )]
    cache_from_engine: Option<String>,
    /// Let builders on this host read a layer of a cache only when a step needs it: from a registry that Linkspan opens on
    /// the builder's own loopback. Needs root [env: LINKSPAN_CACHE_LAZY_IMPORT] [default: false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Build caches"
    )]
    cache_lazy_import: Option<String>,
    /// Delete build caches that were not used for longest when all together have more bytes than this, as in `20GB`
    /// (at least 1 byte) [env: LINKSPAN_CACHE_MAX_BYTES] [default: no limit]
    #[arg(long, value_name = "BYTES", help_heading = "Build caches")]
    cache_max_bytes: Option<String>,
    /// Delete build caches that were not used for this long, as in `30d`; at least `2h`, because the last use is noted to
    /// the hour [env: LINKSPAN_CACHE_MAX_AGE] [default: no limit]
    #[arg(long, value_name = "TIME", help_heading = "Build caches")]
    cache_max_age: Option<String>,
    /// Delete build caches that were not used for longest when there are more versions of parts than this, all caches
    /// together [env: LINKSPAN_CACHE_MAX_COUNT] [default: no limit]
    #[arg(long, value_name = "COUNT", help_heading = "Build caches")]
    cache_max_count: Option<String>,
    /// Let clients of the export door write archives and files below this folder (their attribute `dest`); can be
    /// repeated [env: LINKSPAN_ALLOW_OUTPUT_DIR (separated by commas)] [default: nowhere]
    #[arg(long, value_name = "DIR", help_heading = "Doors")]
    allow_output_dir: Vec<String>,
    /// The group of the unix sockets, by name or number; its members control the engine [env: LINKSPAN_GROUP] [default:
    /// `docker` if it exists, else root; without root the user's own]
    #[arg(long, value_name = "NAME|GID", help_heading = "Doors")]
    group: Option<String>,

    /// PEM file of the authority that signed the builder's certificate; for a single `tcp://` builder, several go into
    /// the configuration file [env: LINKSPAN_TLS_CA]
    #[arg(long, value_name = "FILE", help_heading = "Doors")]
    tls_ca: Option<String>,

    /// PEM file of the certificate to show to the builder [env: LINKSPAN_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Doors")]
    tls_cert: Option<String>,

    /// PEM file of that certificate's key [env: LINKSPAN_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Doors")]
    tls_key: Option<String>,

    /// The name in the builder's certificate, if it is not the host of its address [env: LINKSPAN_TLS_SERVER_NAME]
    #[arg(long, value_name = "NAME", help_heading = "Doors")]
    tls_server_name: Option<String>,

    /// How long to wait at the start for an engine that is not up yet [env: LINKSPAN_ENGINE_TIMEOUT] [default: 60]
    #[arg(long, value_name = "SECONDS")]
    engine_timeout: Option<String>,

    /// How long connections may take to finish after SIGTERM; streams that never end by themselves (`docker events`,
    /// `logs -f`, `wait`) and tunnels on which nothing passes for 10 seconds are ended at once [env: LINKSPAN_DRAIN_TIMEOUT] [default: 30]
    #[arg(long, value_name = "SECONDS")]
    drain_timeout: Option<String>,

    /// The least severe level to log: `error`, `warn`, `info`, `debug` or `trace` [env: LINKSPAN_LOG_LEVEL] [default:
    /// info]
    #[arg(long, value_name = "error|warn|info|debug|trace")]
    log_level: Option<String>,

    /// The format of log lines: `text` or `json` [env: LINKSPAN_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
}

impl From<DaemonSettings> for Layer {
    fn from(flags: DaemonSettings) -> Self {
        let mut layer = Self::from(flags.engine);
        for (setting, value) in [
            (Setting::DockerListen, flags.docker_listen),
            (Setting::PlainIsLoad, flags.plain_is_load),
            (Setting::LoadCompression, flags.load_compression),
            (Setting::PushCompression, flags.push_compression),
            (Setting::ExportListen, flags.export_listen),
            (Setting::RegistryListen, flags.registry_listen),
            (Setting::RegistryMirrorTags, flags.registry_mirror_tags),
            (Setting::RegistryCatalog, flags.registry_catalog),
            (Setting::RegistryWritable, flags.registry_writable),
            (Setting::RegistryRedirect, flags.registry_redirect),
            (Setting::MetricsListen, flags.metrics_listen),
            (Setting::ListenTlsCert, flags.listen_tls_cert),
            (Setting::ListenTlsKey, flags.listen_tls_key),
            (Setting::ListenTlsDir, flags.listen_tls_dir),
            (Setting::ListenTlsClientCa, flags.listen_tls_client_ca),
            (Setting::ListenTlsLoopback, flags.listen_tls_loopback),
            (Setting::ListenHtpasswd, flags.listen_htpasswd),
            (Setting::DenyTagMove, flags.deny_tag_move),
            (Setting::CacheFromEngine, flags.cache_from_engine),
            (Setting::CacheLazyImport, flags.cache_lazy_import),
            (Setting::CacheMaxBytes, flags.cache_max_bytes),
            (Setting::CacheMaxAge, flags.cache_max_age),
            (Setting::CacheMaxCount, flags.cache_max_count),
            (Setting::Group, flags.group),
            (Setting::TlsCa, flags.tls_ca),
            (Setting::TlsCert, flags.tls_cert),
            (Setting::TlsKey, flags.tls_key),
            (Setting::TlsServerName, flags.tls_server_name),
            (Setting::EngineTimeout, flags.engine_timeout),
            (Setting::DrainTimeout, flags.drain_timeout),
            (Setting::LogLevel, flags.log_level),
            (Setting::LogFormat, flags.log_format),
        ] {
            layer.add_flag(setting, value);
        }
        layer.add_flag(Setting::Builder, flags.builder);
        layer.add_flag(Setting::BuildkitListen, flags.buildkit_listen);
        layer.add_flag(Setting::ListenTlsName, flags.listen_tls_name);
        layer.add_flag(Setting::AllowName, flags.allow_name);
        layer.add_flag(Setting::AllowCache, flags.allow_cache);
        layer.add_flag(Setting::FromEngine, flags.from_engine);
        layer.add_flag(Setting::AllowOutputDir, flags.allow_output_dir);
        layer
    }
}
