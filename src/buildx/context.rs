//! Docker contexts.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::plain_file;

/// The context that docker makes of its flags and variables. It is in no file.
pub(super) const DEFAULT: &str = "default";

/// The most contexts that are listed.
const MAX_CONTEXTS: usize = 1024;

/// A docker context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Its name.
    pub name: String,
    /// The address of its engine.
    pub host: String,
}

/// How the engine of a docker context is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerEndpoint {
    /// Its address, as in `DOCKER_HOST`.
    pub host: String,
    /// TLS towards it, if it is at a `tcp://` address.
    pub tls: Option<ContextTls>,
}

/// TLS towards the engine of a docker context. All paths name PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextTls {
    /// The authority that signed the engine's certificate; otherwise one of the system's did.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// The key of that.
    pub key: Option<PathBuf>,
    /// Whether the engine's certificate is not verified.
    pub skip_verify: bool,
}

/// Why a docker context cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// There is none of that name.
    #[error("there is no docker context `{name}` in {folder}", folder = folder.display())]
    Unknown {
        /// The name.
        name: String,
        /// The folder of contexts.
        folder: PathBuf,
    },
    /// It is not in the form that docker writes.
    #[error("the docker context `{name}` cannot be read: {path}: {reason}", path = path.display())]
    Format {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    name: String,
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: Endpoint,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(default)]
    host: String,
    #[serde(default, rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

/// The engine address of the context `name` below Docker's configuration folder: docker/cli keeps it in
/// `contexts/meta/SHA256(name)/meta.json` (`cli/context/store/metadatastore.go`). `None` if there is none of that name;
/// the context `default` has no file, and buildx never stores it as an endpoint.
pub(super) fn host(docker: &Path, name: &str) -> Option<String> {
    let id = hex::encode(Sha256::digest(name));
    Some(read(&docker.join("contexts/meta").join(id))?.host)
}

/// The engine of the context `name`, with its files of TLS, which docker/cli keeps in `contexts/tls/SHA256(name)/docker`
/// (`cli/context/store/tlsstore.go`, `cli/context/tlsdata.go`).
pub(super) fn endpoint(docker: &Path, name: &str) -> Result<DockerEndpoint, ContextError> {
    let id = hex::encode(Sha256::digest(name));
    let path = docker.join("contexts/meta").join(&id).join("meta.json");
    let shown = || name.escape_debug().to_string();
    let text = plain_file::read(&path, super::MAX_BYTES).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ContextError::Unknown { name: shown(), folder: docker.join("contexts") },
        _ => ContextError::Format { name: shown(), path: path.clone(), reason: error.to_string() },
    })?;
    let format = |reason: String| ContextError::Format { name: shown(), path: path.clone(), reason };
    let meta: Meta = serde_json::from_slice(&text).map_err(|error| format(error.to_string()))?;
    let Endpoint { host, skip_tls_verify: skip_verify } = meta.endpoints.docker;
    if host.is_empty() {
        return Err(format("it names no engine".to_owned()));
    }
    let folder = docker.join("contexts/tls").join(id).join("docker");
    let file = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let is_given = skip_verify || [&ca, &cert, &key].into_iter().any(Option::is_some);
    let tls = is_given.then_some(ContextTls { ca, cert, key, skip_verify });
    Ok(DockerEndpoint { host, tls })
}

/// All contexts, by name.
pub(super) fn all(docker: &Path) -> Vec<Context> {
    let folders = docker.join("contexts/meta").read_dir().into_iter().flatten().take(MAX_CONTEXTS);
    let mut contexts: Vec<_> = folders.filter_map(|folder| read(&folder.ok()?.path())).collect();
    contexts.sort_by(|one, other| one.name.cmp(&other.name));
    contexts
}

/// The context that docker's configuration file names.
pub(super) fn current(docker: &Path) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Settings {
        current_context: Option<String>,
    }
    serde_json::from_slice::<Settings>(&text(&docker.join("config.json"))?).ok()?.current_context
}

fn read(folder: &Path) -> Option<Context> {
    let meta: Meta = serde_json::from_slice(&text(&folder.join("meta.json"))?).ok()?;
    Some(Context { name: meta.name, host: meta.endpoints.docker.host })
}

fn text(path: &Path) -> Option<Vec<u8>> {
    plain_file::read(path, super::MAX_BYTES).ok()
}
