//! Docker contexts.

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

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
}

/// The engine address of the context `name` below Docker's configuration folder: docker/cli keeps it in
/// `contexts/meta/SHA256(name)/meta.json` (`cli/context/store/metadatastore.go`). `None` if there is none of that name;
/// the context `default` has no file, and buildx never stores it as an endpoint.
pub(super) fn host(docker: &Path, name: &str) -> Option<String> {
    let id = hex::encode(Sha256::digest(name));
    Some(read(&docker.join("contexts/meta").join(id))?.host)
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
    super::owned::read_at(path, super::MAX_BYTES).ok()
}
