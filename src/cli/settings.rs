//! The flags that commands share: they choose an engine.

use clap::Args;

use super::client_tls::ClientTls;
use super::destination::Destination;
use crate::config::{Layer, Setting};

/// The flags that choose the engine.
///
/// Values are kept as text here and checked together with those of the other sources, so that errors are the same wherever a
/// value was given.
#[derive(Debug, Clone, Args)]
pub(super) struct EngineSettings {
    /// Read this TOML file [env: LINKSPAN_CONFIG] [default: /etc/linkspan/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<String>,

    /// Which engine to work on: `docker` (with the containerd image store), `docker-classic` (without it), `docker-api` (docker
    /// through its API alone, which needs neither root nor containerd's socket), `containerd`, `layout`, `object`, every node
    /// of a cluster whose nodes are containers of the dockerd at --docker-host (`kind://CLUSTER`, `k3d://CLUSTER`;
    /// `?nodes=a,b` behind it names some), or `auto` [env: LINKSPAN_ENGINE] [default: auto]
    #[arg(
        long,
        value_name = "auto|docker|docker-classic|docker-api|containerd|layout|object|kind://CLUSTER",
        help_heading = "Engine"
    )]
    pub(super) engine: Option<String>,

    /// Where dockerd listens: `unix:///path`, `tcp://HOST:PORT` (for TLS with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH) or
    /// `ssh://[USER@]HOST[:PORT][/path]` [env: LINKSPAN_DOCKER_HOST, DOCKER_HOST] [default: the docker context in DOCKER_CONTEXT,
    /// else the current one, else unix:///var/run/docker.sock]
    #[arg(long, value_name = "ADDR", help_heading = "Engine")]
    pub(super) docker_host: Option<String>,

    /// containerd's socket [env: LINKSPAN_CONTAINERD_ADDRESS, CONTAINERD_ADDRESS] [default: with docker the one that
    /// dockerd uses, else /run/containerd/containerd.sock]
    #[arg(long, value_name = "PATH", help_heading = "Engine")]
    pub(super) containerd_address: Option<String>,

    /// The containerd namespace that images go to [env: LINKSPAN_NAMESPACE, CONTAINERD_NAMESPACE] [default: with docker
    /// the one that dockerd uses, else `default`]
    #[arg(long, value_name = "NS", help_heading = "Engine")]
    pub(super) namespace: Option<String>,

    /// The directory of an OCI image layout, which needs neither an engine nor root. Alone it means `--engine layout`;
    /// with `--engine auto` it is used only where no engine is installed [env: LINKSPAN_LAYOUT] [default:
    /// /var/lib/linkspan/layout]
    #[arg(long, value_name = "DIR", help_heading = "Engine")]
    pub(super) layout: Option<String>,

    /// The bucket of an object store, and a folder in it, with the keys of the distribution registry: `s3://BUCKET/PREFIX`,
    /// `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`. Alone it means `--engine object`. Credentials, region and endpoint are
    /// those of the usual variables (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, …) [env: LINKSPAN_OBJECT]
    #[arg(long, value_name = "ADDR", help_heading = "Engine")]
    pub(super) object: Option<String>,

    /// The directory of build caches with `docker-classic` and `docker-api`, where dockerd cannot store them, and of what
    /// `docker-api` is sent through the exporter API [env: LINKSPAN_CACHE_DIR] [default: /var/lib/linkspan/cache, or for other
    /// users than root $XDG_STATE_HOME/linkspan/cache]
    #[arg(long, value_name = "DIR", help_heading = "Engine")]
    pub(super) cache_dir: Option<String>,

    /// Who unpacks layers into containerd's snapshots: `containerd`, or with `auto` Linkspan itself where it is root beside
    /// containerd and the snapshotter is overlayfs, and containerd everywhere else [env: LINKSPAN_LAYER_APPLIER] [default: auto]
    #[arg(long, value_name = "auto|containerd", help_heading = "Engine")]
    pub(super) layer_applier: Option<String>,
}

impl EngineSettings {
    /// Whether a flag chooses the engine.
    pub(super) fn is_given(&self) -> bool {
        let engine = [&self.engine, &self.docker_host, &self.containerd_address, &self.namespace, &self.layout];
        engine.into_iter().chain([&self.cache_dir, &self.object]).any(Option::is_some)
    }
}

/// The flags that choose an engine of this machine, or the engine behind a daemon.
#[derive(Debug, Args)]
pub(super) struct TargetSettings {
    /// Work through the daemon whose exporter and caching API listens here (`serve --export-listen`) instead of on an engine
    /// directly: `unix:///path`; `ssh://[USER@]HOST[:PORT][/path]` on another machine, which runs `linkspan dial-stdio` there; or
    /// `tcp://HOST:PORT`, with --tls-ca if it is on another machine; or on every node of a cluster, as --engine does:
    /// `kind://CLUSTER` [env: LINKSPAN_TO, unless a flag names an engine]
    #[arg(
        long, value_name = "ADDR", help_heading = "Engine",
        conflicts_with_all = ["engine", "containerd_address", "namespace", "layout", "object", "cache_dir"]
    )]
    pub(super) to: Option<Destination>,

    #[command(flatten)]
    pub(super) tls: ClientTls,

    #[command(flatten)]
    pub(super) engine: EngineSettings,
}

impl From<EngineSettings> for Layer {
    fn from(flags: EngineSettings) -> Self {
        let mut layer = Self::default();
        for (setting, value) in [
            (Setting::Config, flags.config),
            (Setting::Engine, flags.engine),
            (Setting::DockerHost, flags.docker_host),
            (Setting::ContainerdAddress, flags.containerd_address),
            (Setting::Namespace, flags.namespace),
            (Setting::Layout, flags.layout),
            (Setting::Object, flags.object),
            (Setting::CacheDir, flags.cache_dir),
            (Setting::LayerApplier, flags.layer_applier),
        ] {
            layer.add_flag(setting, value);
        }
        layer
    }
}
