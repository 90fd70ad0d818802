//! Docker contexts: names for endpoints.

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The engine address of the context `name` below Docker's configuration folder: docker/cli keeps it in
/// `contexts/meta/SHA256(name)/meta.json` (`cli/context/store/metadatastore.go`). `None` if there is none of that name;
/// the context `default` has no file, and buildx never stores it as an endpoint.
pub(super) fn host(docker: &Path, name: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Meta {
        endpoints: Endpoints,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Endpoint,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        host: String,
    }
    let id = hex::encode(Sha256::digest(name));
    let path = docker.join("contexts/meta").join(id).join("meta.json");
    let text = super::owned::read_at(&path, super::MAX_BYTES).ok()?;
    Some(serde_json::from_slice::<Meta>(&text).ok()?.endpoints.docker.host)
}
