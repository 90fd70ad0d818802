//! The credentials of `docker login`: docker's configuration, its credential stores and helpers.

use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError as Failure, DockerCredential, get_credential};
use oci_client::secrets::RegistryAuth;
use tokio::task::spawn_blocking;

use super::RegistryError;

/// The key of Docker Hub's credentials in docker's configuration (docker/cli `registry/config.go`, `IndexServer`).
const HUB: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");

/// The credentials that docker's client has for `registry`; anonymous if it has none.
pub(super) async fn of(registry: &str) -> Result<RegistryAuth, RegistryError> {
    let server = if registry == HUB.0 { HUB.1 } else { registry }.to_owned();
    let failed = |reason: String| RegistryError::Credentials { registry: registry.to_owned(), reason };
    // A credential helper is a program, which blocks.
    let found = spawn_blocking(move || get_credential(&server)).await;
    match found.map_err(|error| failed(error.to_string()))? {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => Err(failed(
            "it has an identity token, which is not supported; log in with a user name and a password".into(),
        )),
        Err(Failure::NoCredentialConfigured | Failure::ConfigNotFound) => Ok(RegistryAuth::Anonymous),
        // The helper's message for an unknown registry (docker-credential-helpers `credentials/error.go`).
        Err(Failure::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            Ok(RegistryAuth::Anonymous)
        }
        Err(Failure::ConfigReadError) if !is_configured() => Ok(RegistryAuth::Anonymous),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Whether docker's client has a configuration file.
fn is_configured() -> bool {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    folder.or_else(home).is_some_and(|folder| folder.join("config.json").exists())
}
