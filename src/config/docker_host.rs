//! Which dockerd is meant, as docker's client chooses it (docker/cli `cli/command/cli.go`, `cli/flags/options.go`): an address,
//! else the context in `DOCKER_CONTEXT`, else the current one of docker's configuration file.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{ConfigError, Environment, Layer, Origin, Setting};
use crate::buildx::{ContextTls, DockerEndpoint, Store};
use crate::net::Tls;

/// Where docker's client looks for dockerd if it is asked for TLS, and for no address (docker/cli `opts/hosts.go`).
const TLS_HOST: &str = "tcp://localhost:2376";
/// The variables that ask for TLS: the first one with a server that is verified.
const TLS_VERIFY: &str = "DOCKER_TLS_VERIFY";
const TLS: &str = "DOCKER_TLS";

/// What the environment and docker's files say of dockerd beside its address.
#[derive(Debug, Default)]
pub(super) struct DockerClient {
    /// TLS towards it.
    pub(super) tls: Option<Tls>,
    /// Why the context that is meant cannot be used. An error only where docker has a part in the engine.
    pub(super) broken: Option<ConfigError>,
}

/// Adds the address of the current context to `ambient` if neither this nor `configured` names one. An address has the TLS
/// of the environment, a context its own.
pub(super) fn add(
    configured: &Layer,
    ambient: &mut Layer,
    environment: &dyn Environment,
) -> Result<DockerClient, ConfigError> {
    let store = Store::find(|name| environment.get(name));
    let is_named = [configured, &*ambient].into_iter().any(|layer| layer.last(Setting::DockerHost).is_some());
    let name = match (&store, is_named) {
        (Some(store), false) => store.current_context(|name| text(environment.get(name))),
        _ => None,
    };
    let (Some(store), Some(name)) = (&store, name) else {
        let tls = tls(store.as_ref(), environment);
        if let Some(tls) = tls.as_ref().filter(|_| !is_named) {
            let asks = if tls.skip_verify { TLS } else { TLS_VERIFY };
            ambient.add(Setting::DockerHost, TLS_HOST, Origin::Variable(asks.to_owned()));
        }
        return Ok(DockerClient { tls, broken: None });
    };
    match store.docker_endpoint(&name) {
        Ok(DockerEndpoint { host, tls }) => {
            ambient.add(Setting::DockerHost, host, Origin::Context(name));
            let tls = tls.map(|ContextTls { ca, cert, key, skip_verify }| Tls {
                ca,
                cert,
                key,
                server_name: None,
                skip_verify,
            });
            Ok(DockerClient { tls, broken: None })
        }
        Err(source) => {
            let is_variable = text(environment.get("DOCKER_CONTEXT")).is_some();
            let origin = if is_variable { "DOCKER_CONTEXT" } else { "currentContext of docker's config.json" };
            Ok(DockerClient { tls: None, broken: Some(ConfigError::Context { origin, source }) })
        }
    }
}

fn text(value: Option<OsString>) -> Option<String> {
    value?.into_string().ok().filter(|value| !value.is_empty())
}

/// `DOCKER_TLS_VERIFY`, or `DOCKER_TLS` without a verified server, and the files in `DOCKER_CERT_PATH`.
fn tls(store: Option<&Store>, environment: &dyn Environment) -> Option<Tls> {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let is_verified = variable(TLS_VERIFY).is_some();
    if !is_verified && variable(TLS).is_none() {
        return None;
    }
    let folder = variable("DOCKER_CERT_PATH").map(PathBuf::from);
    let folder = folder.or_else(|| Some(store?.docker_folder().to_owned()))?;
    let file = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    Some(Tls {
        // Its absence is an error that names it; a certificate and its key may both be absent.
        ca: is_verified.then(|| folder.join("ca.pem")),
        cert: file("cert.pem"),
        key: file("key.pem"),
        server_name: None,
        skip_verify: !is_verified,
    })
}
