//! The TOML file as a source.

use std::fmt;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::builder::Draft;
use super::rules::RuleDraft;
use super::{ConfigError, Given, Layer, Origin, Setting};
use crate::plain_file;

/// The largest file; it keeps a wrong path (a log, a device) from filling memory.
const MAX_LENGTH: u64 = 1 << 20;
/// The length of the lines of a list of keys, which has to be more than that of every key.
const LIST_WIDTH: usize = 76;

/// The settings in a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Everything but builders.
    pub layer: Layer,
    /// Its `[[builder]]` tables.
    pub builders: Vec<Draft>,
    /// Its `[[rule]]` tables.
    pub rules: Vec<RuleDraft>,
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<Contents, ConfigError> {
    match plain_file::read_text(path, MAX_LENGTH) {
        Ok(text) => parse(path, &text),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Err(ConfigError::TooLong { path: path.to_owned(), limit: MAX_LENGTH })
        }
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

/// Reads the file at `path`, which may be absent.
pub(super) fn read_if_there(path: &Path) -> Result<Contents, ConfigError> {
    match read(path) {
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Contents::default()),
        other => other,
    }
}

fn parse(path: &Path, text: &str) -> Result<Contents, ConfigError> {
    let document: Document = toml::from_str(text).map_err(|error| ConfigError::Parse {
        path: path.to_owned(),
        reason: suggesting(error.to_string().trim_end()),
    })?;
    let origin = |key: String| Origin::File { path: path.to_owned(), key };
    let mut layer = Layer::default();
    for (setting, scalar) in [
        (Setting::Engine, document.engine),
        (Setting::DockerHost, document.docker_host),
        (Setting::ContainerdAddress, document.containerd_address),
        (Setting::Namespace, document.namespace),
        (Setting::DockerListen, document.docker_listen),
        (Setting::Layout, document.layout),
        (Setting::Object, document.object),
        (Setting::CacheDir, document.cache_dir),
        (Setting::LayerApplier, document.layer_applier),
        (Setting::CacheFromEngine, document.cache_from_engine),
        (Setting::CacheLazyImport, document.cache_lazy_import),
        (Setting::CacheMaxBytes, document.cache_max_bytes),
        (Setting::CacheMaxAge, document.cache_max_age),
        (Setting::CacheMaxCount, document.cache_max_count),
        (Setting::PlainIsLoad, document.plain_is_load),
        (Setting::LoadCompression, document.load_compression),
        (Setting::PushCompression, document.push_compression),
        (Setting::ExportListen, document.export_listen),
        (Setting::RegistryListen, document.registry_listen),
        (Setting::RegistryMirrorTags, document.registry_mirror_tags),
        (Setting::RegistryCatalog, document.registry_catalog),
        (Setting::RegistryWritable, document.registry_writable),
        (Setting::RegistryRedirect, document.registry_redirect),
        (Setting::MetricsListen, document.metrics_listen),
        (Setting::ListenTlsCert, document.listen_tls_cert),
        (Setting::ListenTlsKey, document.listen_tls_key),
        (Setting::ListenTlsDir, document.listen_tls_dir),
        (Setting::ListenTlsClientCa, document.listen_tls_client_ca),
        (Setting::ListenTlsLoopback, document.listen_tls_loopback),
        (Setting::ListenHtpasswd, document.listen_htpasswd),
        (Setting::DenyTagMove, document.deny_tag_move),
        (Setting::Group, document.group),
        (Setting::EngineTimeout, document.engine_timeout),
        (Setting::DrainTimeout, document.drain_timeout),
        (Setting::LogLevel, document.log_level),
        (Setting::LogFormat, document.log_format),
    ] {
        if let Some(Scalar(text)) = scalar {
            layer.add(setting, text, origin(setting.name().to_owned()));
        }
    }
    for (setting, list) in [
        (Setting::ListenTlsName, document.listen_tls_name),
        (Setting::AllowName, document.allow_name),
        (Setting::AllowCache, document.allow_cache),
        (Setting::FromEngine, document.from_engine),
        (Setting::AllowOutputDir, document.allow_output_dir),
    ] {
        for Scalar(text) in list {
            layer.add(setting, text, origin(setting.name().to_owned()));
        }
    }
    let builders = document.builder.into_iter().zip(1..).map(|(table, number)| {
        let given =
            |key: &str, scalar: Scalar| Given { text: scalar.0, origin: origin(format!("{key} of builder {number}")) };
        let tls = table.tls.unwrap_or_default();
        Draft {
            address: given("address", table.address),
            listen: table.listen.map(|value| given("listen", value)),
            plain_is_load: table.plain_is_load.map(|value| given("plain-is-load", value)),
            load_compression: table.load_compression.map(|value| given("load-compression", value)),
            ca: tls.ca.map(|value| given("tls.ca", value)),
            cert: tls.cert.map(|value| given("tls.cert", value)),
            key: tls.key.map(|value| given("tls.key", value)),
            server_name: tls.server_name.map(|value| given("tls.server-name", value)),
        }
    });
    let rules = document.rule.into_iter().zip(1..).map(|(table, number)| {
        let list = |key: &str, scalars: Vec<Scalar>| {
            let given = |Scalar(text)| Given { text, origin: origin(format!("{key} of rule {number}")) };
            scalars.into_iter().map(given).collect()
        };
        RuleDraft {
            principals: list("principals", table.principals),
            names: list("names", table.names),
            allow: list("allow", table.allow),
        }
    });
    Ok(Contents { layer, builders: builders.collect(), rules: rules.collect() })
}

/// The parser's error. Of a key that does not exist it lists all that do: the one that was meant says more, and a long list is
/// put into lines.
fn suggesting(reason: &str) -> String {
    let Some((before, keys)) =
        reason.split_once(", expected one of ").filter(|(text, _)| text.contains("unknown field"))
    else {
        return reason.to_owned();
    };
    let unknown = before.rsplit('`').nth(1).unwrap_or_default();
    let known: Vec<_> = keys.split('`').skip(1).step_by(2).collect();
    let distance = |key: &&&str| strsim::osa_distance(unknown, key);
    let nearest = known.iter().min_by_key(distance).filter(|key| distance(key) <= (unknown.chars().count() / 3).max(1));
    if let Some(nearest) = nearest {
        return format!("{before}; did you mean `{nearest}`?");
    }
    let mut text = format!("{before}, expected one of");
    let mut room = 0;
    for (at, key) in known.iter().enumerate() {
        let word = format!("`{key}`{}", if at + 1 < known.len() { "," } else { "" });
        let length = word.len() + 1;
        if room < length {
            (text, room) = (text + "\n ", LIST_WIDTH);
        }
        room -= length;
        text = text + " " + &word;
    }
    text
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    engine: Option<Scalar>,
    docker_host: Option<Scalar>,
    containerd_address: Option<Scalar>,
    namespace: Option<Scalar>,
    docker_listen: Option<Scalar>,
    layout: Option<Scalar>,
    object: Option<Scalar>,
    cache_dir: Option<Scalar>,
    layer_applier: Option<Scalar>,
    cache_from_engine: Option<Scalar>,
    cache_lazy_import: Option<Scalar>,
    cache_max_bytes: Option<Scalar>,
    cache_max_age: Option<Scalar>,
    cache_max_count: Option<Scalar>,
    #[serde(alias = "docker-is-load")]
    plain_is_load: Option<Scalar>,
    load_compression: Option<Scalar>,
    push_compression: Option<Scalar>,
    export_listen: Option<Scalar>,
    registry_listen: Option<Scalar>,
    registry_mirror_tags: Option<Scalar>,
    registry_catalog: Option<Scalar>,
    registry_writable: Option<Scalar>,
    registry_redirect: Option<Scalar>,
    metrics_listen: Option<Scalar>,
    listen_tls_cert: Option<Scalar>,
    listen_tls_key: Option<Scalar>,
    listen_tls_dir: Option<Scalar>,
    listen_tls_client_ca: Option<Scalar>,
    listen_tls_loopback: Option<Scalar>,
    listen_htpasswd: Option<Scalar>,
    #[serde(default)]
    listen_tls_name: Vec<Scalar>,
    #[serde(default)]
    allow_name: Vec<Scalar>,
    #[serde(default)]
    allow_cache: Vec<Scalar>,
    #[serde(default)]
    from_engine: Vec<Scalar>,
    #[serde(default)]
    allow_output_dir: Vec<Scalar>,
    deny_tag_move: Option<Scalar>,
    group: Option<Scalar>,
    engine_timeout: Option<Scalar>,
    drain_timeout: Option<Scalar>,
    log_level: Option<Scalar>,
    log_format: Option<Scalar>,
    #[serde(default)]
    builder: Vec<Table>,
    #[serde(default)]
    rule: Vec<RuleTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleTable {
    principals: Vec<Scalar>,
    names: Vec<Scalar>,
    allow: Vec<Scalar>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    address: Scalar,
    listen: Option<Scalar>,
    #[serde(alias = "docker-is-load")]
    plain_is_load: Option<Scalar>,
    load_compression: Option<Scalar>,
    tls: Option<TlsTable>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TlsTable {
    ca: Option<Scalar>,
    cert: Option<Scalar>,
    key: Option<Scalar>,
    server_name: Option<Scalar>,
}

/// A string, integer or boolean, kept as text, so that it is checked like a flag's value.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a whole number or a boolean")
            }
            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(value.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}
