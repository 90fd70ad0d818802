//! Checks the docker door: where it listens, and that its engine is not the door itself.

use std::path::Path;

use super::listen;
use super::parse::{invalid, outputs};
use super::{Builder, ConfigError, Given, Layer, Origin, Setting};
use crate::build_outputs::OutputOptions;
use crate::engine::EngineKind;
use crate::engine::select::Selection;
use crate::net::Address;

/// The docker door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerDoor {
    /// Where it listens.
    pub listen: Address,
    /// How the outputs of builders behind it are treated.
    pub outputs: OutputOptions,
    /// Whether it is the default; a default door is left out if the engine is not Docker.
    pub is_default: bool,
}

/// Whether docker's clients are told this: by `DOCKER_HOST` or their context.
fn is_of_clients(origin: &Origin) -> bool {
    matches!(origin, Origin::Context(_)) || *origin == Origin::Variable("DOCKER_HOST".to_owned())
}

/// Whether two addresses are one, also by links among the folders of a socket, as `/var/run` is one to `/run`. The socket itself
/// need not be there yet.
fn is_same_socket(one: &Address, other: &Address) -> bool {
    let (Address::Unix(one), Address::Unix(other)) = (one, other) else { return one == other };
    let folder = |path: &Path| path.parent()?.canonicalize().ok();
    one == other || (one.file_name() == other.file_name() && folder(one).is_some() && folder(one) == folder(other))
}

/// Removes a `DOCKER_HOST` variable, or a docker context, from `engine` that points to the docker door in `settings` (without one,
/// to the `usual` one): it was set for clients. Returns it.
pub(super) fn take_own(settings: &Layer, engine: &mut Selection, usual: &str) -> Option<Given> {
    let parsed = |text: &str| text.parse::<Address>().ok();
    let ours = parsed(settings.last(Setting::DockerListen).map_or(usual, |given| &given.text))?;
    let docker_host = settings.last(Setting::DockerHost).filter(|given| is_of_clients(&given.origin))?;
    if !is_same_socket(&ours, &parsed(&docker_host.text)?) {
        return None;
    }
    engine.docker_host = None;
    Some(docker_host.clone())
}

/// Checks the docker door in `settings`, if there is one.
pub(super) fn check(
    settings: &Layer,
    engine: &Selection,
    builders: &[Builder],
) -> Result<Option<DockerDoor>, ConfigError> {
    let Some(given) = settings.last(Setting::DockerListen) else { return Ok(None) };
    let listen = listen::parsed(given)?;
    if !matches!(listen, Address::Unix(_)) {
        return Err(invalid(
            given,
            "is no unix socket: whoever reaches Docker's API is root here, and over TCP that is every user of this \
             machine and every page in their browsers; expected `unix:///path`",
        ));
    }
    let is_default = given.origin == Origin::Default(Setting::DockerListen);
    if let Some(kind @ (EngineKind::Containerd | EngineKind::Cluster)) = engine.kind {
        if is_default {
            return Ok(None);
        }
        return Err(invalid(given, format!("needs Docker as the engine, and the engine is set to `{kind}`")));
    }
    if engine.docker_address().direct().is_some_and(|docker| is_same_socket(&docker, &listen)) {
        let reason = format!(
            "is the address of the engine itself, so that the door would lead to itself; name dockerd's address with \
             --{}, or choose another address",
            Setting::DockerHost.name()
        );
        return Err(invalid(given, reason));
    }
    if let Some(builder) = builders.iter().find(|builder| builder.listen == listen) {
        return Err(ConfigError::Contradiction(format!(
            "the docker door and the door to {} would both listen on {listen}; give each an address of its own",
            builder.endpoint
        )));
    }
    Ok(Some(DockerDoor { listen, outputs: outputs(settings)?, is_default }))
}
