//! The credentials of `docker login`: docker's configuration, its credential stores and helpers.

mod config;
mod helper;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use oci_client::secrets::RegistryAuth;
use tokio::task::spawn_blocking;

use super::RegistryError;
use crate::plain_file;
use config::{Config, Found};

/// The key of Docker Hub's credentials in docker's configuration (docker/cli `registry/config.go`, `IndexServer`).
const HUB: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");
/// The largest configuration.
const MAX_BYTES: u64 = 4 << 20;

/// The credentials that docker's client has for `registry`; anonymous if it has none.
pub(super) async fn of(registry: &str) -> Result<RegistryAuth, RegistryError> {
    let Some(path) = path(|name| std::env::var_os(name)) else { return Ok(RegistryAuth::Anonymous) };
    let failed = |reason: String| RegistryError::Credentials { registry: registry.to_owned(), reason };
    in_file(path, registry).await.map_err(failed)
}

/// docker's configuration file, with this environment (docker/cli `cli/config/config.go`).
fn path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// The credentials for `registry` that the configuration at `path` has or leads to. An error is the reason, and names the file.
async fn in_file(path: PathBuf, registry: &str) -> Result<RegistryAuth, String> {
    let of_file = |reason: String| format!("{}: {reason}", path.display());
    let read = path.clone();
    let read = spawn_blocking(move || plain_file::read(&read, MAX_BYTES)).await;
    let text = match read.map_err(io::Error::other).flatten() {
        Ok(text) => text,
        Err(error) if is_absent(&error) => return Ok(RegistryAuth::Anonymous),
        Err(error) => return Err(of_file(error.to_string())),
    };
    let config = Config::parse(&text).map_err(of_file)?;
    let server = if registry == HUB.0 { HUB.1 } else { registry };
    let found = match config.find(server).map_err(of_file)? {
        Found::Helper { name, key } => {
            let program = format!("docker-credential-{name}");
            let answer = helper::get(Path::new(&program), server).await;
            answer.map_err(|reason| {
                format!("the credential helper `{program}` (`{key}` in {}) {reason}", path.display())
            })?
        }
        found => Some(found),
    };
    match found {
        Some(Found::Password { user, password }) => Ok(RegistryAuth::Basic(user, password)),
        Some(Found::IdentityToken) => Err(of_file(
            "it leads to an identity token, which is not supported; log in with a user name and a password".to_owned(),
        )),
        Some(Found::Helper { .. } | Found::Nothing) | None => Ok(RegistryAuth::Anonymous),
    }
}

/// Whether there is no file, for want of the file or of a folder on its way.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(text: &str) -> Result<RegistryAuth, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let found = in_file(path.clone(), "r.test:5000").await;
        found.map_err(|error| {
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            error
        })
    }

    #[test]
    fn docker_s_file_is_found_as_by_docker() {
        let with = |set: &'static [(&'static str, &'static str)]| {
            path(move |name| set.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("DOCKER_CONFIG", "/d"), ("HOME", "/h")]), Some("/d/config.json".into()));
        assert_eq!(with(&[("DOCKER_CONFIG", ""), ("HOME", "/h")]), Some("/h/.docker/config.json".into()));
        assert_eq!(with(&[]), None);
    }

    #[tokio::test]
    async fn every_error_names_the_file_and_no_secret() {
        let anonymous = RegistryAuth::Anonymous;
        assert_eq!(found("{}").await, Ok(anonymous.clone()));
        assert_eq!(found(r#"{"auths": {"r.test:5000": {}}}"#).await, Ok(anonymous.clone()));
        let basic = RegistryAuth::Basic("user".to_owned(), "se:cret".to_owned());
        assert_eq!(found(r#"{"auths": {"r.test:5000": {"auth": "dXNlcjpzZTpjcmV0"}}}"#).await, Ok(basic));
        for (text, reason) in [
            ("{", "line 1"),
            (r#"{"auths": "dXNlcjpzZWNyZXQ="}"#, "line 1"),
            (r#"{"auths": {"r.test:5000": {"auth": "***"}}}"#, "`auth` for r.test:5000"),
            (r#"{"auths": {"r.test:5000": {"identitytoken": "t0ken"}}}"#, "identity token"),
            (r#"{"credsStore": "absent-here"}"#, "`docker-credential-absent-here` (`credsStore` in "),
            (r#"{"credHelpers": {"r.test:5000": "absent-here"}}"#, "(`credHelpers` in "),
        ] {
            let error = found(text).await.unwrap_err();
            assert!(error.contains(reason) && !error.contains("dXNlcjpz") && !error.contains("t0ken"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(in_file(folder.path().join("config.json"), "r").await, Ok(anonymous.clone()));
        assert!(in_file(folder.path().to_owned(), "r").await.unwrap_err().contains("it is a folder"));
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(in_file(pipe, "r").await.unwrap_err().contains("it is a pipe"));
    }
}
