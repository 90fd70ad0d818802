//! The list of all settings.

/// A setting, of any source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// The configuration file; not settable in the file itself.
    Config,
    /// `auto`, `docker`, `docker-classic`, `docker-api`, `containerd`, `layout` or `object`.
    Engine,
    /// dockerd's address.
    DockerHost,
    /// containerd's socket.
    ContainerdAddress,
    /// The containerd namespace.
    Namespace,
    /// The directory of an image layout.
    Layout,
    /// The address of a bucket in an object store.
    Object,
    /// The directory of build caches, for an engine that cannot store them.
    CacheDir,
    /// Who unpacks layers beside containerd: `auto` or `containerd`.
    LayerApplier,
    /// A builder's address; repeatable. In the file: a `[[builder]]` table.
    Builder,
    /// Where the door to the builder at the same position listens; repeatable. In the file: `listen` of a table.
    BuildkitListen,
    /// Where the docker door listens.
    DockerListen,
    /// Whether the plain exporters `docker` and `oci` count as a load.
    PlainIsLoad,
    /// How builders compress new layers of loads: `as-asked`, `fast`, `zstd` or `uncompressed`.
    LoadCompression,
    /// How builders compress layers that they push: `as-asked` or `gzip`.
    PushCompression,
    /// Where the door of the standard exporter API listens.
    ExportListen,
    /// Where the registry door listens.
    RegistryListen,
    /// Whether a mirror's clients may resolve tags at the registry door.
    RegistryMirrorTags,
    /// Whether the registry door lists all repositories.
    RegistryCatalog,
    /// Whether clients may push to the registry door.
    RegistryWritable,
    /// Whether the registry door sends clients to the store for blobs.
    RegistryRedirect,
    /// Where metrics are served.
    MetricsListen,
    /// The certificate of the TCP listeners.
    ListenTlsCert,
    /// The key of that certificate.
    ListenTlsKey,
    /// The folder of the authority that signs generated certificates.
    ListenTlsDir,
    /// A name in generated certificates; repeatable.
    ListenTlsName,
    /// The authority of certificates of clients.
    ListenTlsClientCa,
    /// Whether loopback listeners have TLS, too.
    ListenTlsLoopback,
    /// The password file of the TCP listeners.
    ListenHtpasswd,
    /// A pattern of names that clients may set; repeatable.
    AllowName,
    /// Whether a name must not move to another image.
    DenyTagMove,
    /// A pattern of build caches that clients may write; repeatable.
    AllowCache,
    /// A pattern of images that builds take from the engine; repeatable.
    FromEngine,
    /// Whether the engine's images are read as caches beside a registry's.
    CacheFromEngine,
    /// Whether a builder on this host reads the layers of a cache only when it needs them.
    CacheLazyImport,
    /// The most bytes that all build caches together may have.
    CacheMaxBytes,
    /// How long an unused build cache is kept.
    CacheMaxAge,
    /// How many versions all build caches together may have.
    CacheMaxCount,
    /// A folder that clients may write outputs into; repeatable.
    AllowOutputDir,
    /// The certificate authority of the only builder.
    TlsCa,
    /// Our certificate towards the only builder.
    TlsCert,
    /// The key of that certificate.
    TlsKey,
    /// The name in the only builder's certificate.
    TlsServerName,
    /// The group of our unix sockets.
    Group,
    /// How long to wait for the engine at the start, in seconds.
    EngineTimeout,
    /// How long connections may take to finish after a signal, in seconds.
    DrainTimeout,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    LogLevel,
    /// `text` or `json`.
    LogFormat,
}

impl Setting {
    /// Every setting.
    pub const ALL: [Self; 48] = [
        Self::Config,
        Self::Engine,
        Self::DockerHost,
        Self::ContainerdAddress,
        Self::Namespace,
        Self::Layout,
        Self::Object,
        Self::CacheDir,
        Self::LayerApplier,
        Self::Builder,
        Self::BuildkitListen,
        Self::DockerListen,
        Self::PlainIsLoad,
        Self::LoadCompression,
        Self::PushCompression,
        Self::ExportListen,
        Self::RegistryListen,
        Self::RegistryMirrorTags,
        Self::RegistryCatalog,
        Self::RegistryWritable,
        Self::RegistryRedirect,
        Self::MetricsListen,
        Self::ListenTlsCert,
        Self::ListenTlsKey,
        Self::ListenTlsDir,
        Self::ListenTlsName,
        Self::ListenTlsClientCa,
        Self::ListenTlsLoopback,
        Self::ListenHtpasswd,
        Self::AllowName,
        Self::DenyTagMove,
        Self::AllowCache,
        Self::FromEngine,
        Self::CacheFromEngine,
        Self::CacheLazyImport,
        Self::CacheMaxBytes,
        Self::CacheMaxAge,
        Self::CacheMaxCount,
        Self::AllowOutputDir,
        Self::TlsCa,
        Self::TlsCert,
        Self::TlsKey,
        Self::TlsServerName,
        Self::Group,
        Self::EngineTimeout,
        Self::DrainTimeout,
        Self::LogLevel,
        Self::LogFormat,
    ];

    /// The long flag without its dashes; also the key in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Engine => "engine",
            Self::DockerHost => "docker-host",
            Self::ContainerdAddress => "containerd-address",
            Self::Namespace => "namespace",
            Self::Layout => "layout",
            Self::Object => "object",
            Self::CacheDir => "cache-dir",
            Self::LayerApplier => "layer-applier",
            Self::Builder => "builder",
            Self::BuildkitListen => "buildkit-listen",
            Self::DockerListen => "docker-listen",
            Self::PlainIsLoad => "plain-is-load",
            Self::LoadCompression => "load-compression",
            Self::PushCompression => "push-compression",
            Self::ExportListen => "export-listen",
            Self::RegistryListen => "registry-listen",
            Self::RegistryMirrorTags => "registry-mirror-tags",
            Self::RegistryCatalog => "registry-catalog",
            Self::RegistryWritable => "registry-writable",
            Self::RegistryRedirect => "registry-redirect",
            Self::MetricsListen => "metrics-listen",
            Self::ListenTlsCert => "listen-tls-cert",
            Self::ListenTlsKey => "listen-tls-key",
            Self::ListenTlsDir => "listen-tls-dir",
            Self::ListenTlsName => "listen-tls-name",
            Self::ListenTlsClientCa => "listen-tls-client-ca",
            Self::ListenTlsLoopback => "listen-tls-loopback",
            Self::ListenHtpasswd => "listen-htpasswd",
            Self::AllowName => "allow-name",
            Self::DenyTagMove => "deny-tag-move",
            Self::AllowCache => "allow-cache",
            Self::FromEngine => "from-engine",
            Self::CacheFromEngine => "cache-from-engine",
            Self::CacheLazyImport => "cache-lazy-import",
            Self::CacheMaxBytes => "cache-max-bytes",
            Self::CacheMaxAge => "cache-max-age",
            Self::CacheMaxCount => "cache-max-count",
            Self::AllowOutputDir => "allow-output-dir",
            Self::TlsCa => "tls-ca",
            Self::TlsCert => "tls-cert",
            Self::TlsKey => "tls-key",
            Self::TlsServerName => "tls-server-name",
            Self::Group => "group",
            Self::EngineTimeout => "engine-timeout",
            Self::DrainTimeout => "drain-timeout",
            Self::LogLevel => "log-level",
            Self::LogFormat => "log-format",
        }
    }

    /// Linkspan's own variable for it.
    pub fn variable(self) -> String {
        variable(self.name())
    }

    /// Its name in earlier versions, as a flag without dashes and as a key in the file.
    pub fn former_name(self) -> Option<&'static str> {
        match self {
            Self::PlainIsLoad => Some("docker-is-load"),
            _ => None,
        }
    }

    /// Linkspan's own variable under the former name.
    pub fn former_variable(self) -> Option<String> {
        self.former_name().map(variable)
    }

    /// The variable of another program for the same setting.
    ///
    /// Sources: docker's client (`DOCKER_HOST`), containerd's `cmd/ctr/app/main.go` (`CONTAINERD_ADDRESS`,
    /// `CONTAINERD_NAMESPACE`), BuildKit's `cmd/buildctl/main.go` (`BUILDKIT_HOST`).
    pub fn foreign_variable(self) -> Option<&'static str> {
        match self {
            Self::DockerHost => Some("DOCKER_HOST"),
            Self::ContainerdAddress => Some("CONTAINERD_ADDRESS"),
            Self::Namespace => Some("CONTAINERD_NAMESPACE"),
            Self::Builder => Some("BUILDKIT_HOST"),
            _ => None,
        }
    }

    /// Whether it is a list: its flag can be repeated, and its variable is split at commas.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            Self::Builder
                | Self::BuildkitListen
                | Self::ListenTlsName
                | Self::AllowName
                | Self::AllowCache
                | Self::FromEngine
                | Self::AllowOutputDir
        )
    }
}

fn variable(name: &str) -> String {
    format!("LINKSPAN_{}", name.to_ascii_uppercase().replace('-', "_"))
}
