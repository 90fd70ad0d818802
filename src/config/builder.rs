//! Checks the builders: how each is reached, and where its door listens.

use std::collections::HashSet;
use std::path::PathBuf;

use super::listen::{self, Listener};
use super::parse::{boolean, invalid, load_compression, outputs};
use super::{BuilderEndpoint, ConfigError, Given, Layer, Setting, UsualDoors};
use crate::build_outputs::OutputOptions;
use crate::engine::select::DEFAULT_DOCKER_HOST;
use crate::net::{Address, Tls};
use crate::tunnel::Container;

/// The most builders; each costs a socket and a lock.
const MAX_BUILDERS: usize = 64;

/// One builder and its door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Builder {
    /// How it is reached.
    pub endpoint: BuilderEndpoint,
    /// TLS towards it; only with a `tcp://` address.
    pub tls: Option<Tls>,
    /// Where its door listens: a unix socket or a loopback address, or with clients' certificates any other.
    pub listen: Address,
    /// How the outputs of its builds are treated.
    pub outputs: OutputOptions,
}

impl Builder {
    /// Whether the connection to it crosses the network without TLS.
    pub fn is_exposed(&self) -> bool {
        matches!(&self.endpoint, BuilderEndpoint::Socket(address) if self.tls.is_none() && !address.is_local())
    }
}

/// An unchecked builder.
#[derive(Debug)]
pub(super) struct Draft {
    pub address: Given,
    pub listen: Option<Given>,
    pub plain_is_load: Option<Given>,
    pub load_compression: Option<Given>,
    pub ca: Option<Given>,
    pub cert: Option<Given>,
    pub key: Option<Given>,
    pub server_name: Option<Given>,
}

impl From<Given> for Draft {
    fn from(address: Given) -> Self {
        Self {
            address,
            listen: None,
            plain_is_load: None,
            load_compression: None,
            ca: None,
            cert: None,
            key: None,
            server_name: None,
        }
    }
}

/// Checks the builders in `settings`, else those in the file's `tables`. A single one has its usual door.
pub(super) fn check(settings: &Layer, tables: Vec<Draft>, usual: &UsualDoors) -> Result<Vec<Builder>, ConfigError> {
    let named = settings.all(Setting::Builder);
    let mut drafts = if named.is_empty() { tables } else { named.iter().cloned().map(Draft::from).collect() };
    if drafts.len() > MAX_BUILDERS {
        let count = drafts.len();
        return Err(ConfigError::Contradiction(format!(
            "{count} builders are configured; at most {MAX_BUILDERS} can be"
        )));
    }
    pair(&mut drafts, settings.all(Setting::BuildkitListen), usual)?;
    secure(&mut drafts, settings)?;
    let outputs = outputs(settings)?;
    let builders: Vec<_> =
        drafts.iter().map(|draft| builder(draft, outputs, settings, &usual.buildkit)).collect::<Result<_, _>>()?;
    let mut taken = HashSet::new();
    for Builder { listen, .. } in &builders {
        // Port 0 means any free port, so two doors can share it.
        let any_port = matches!(listen, Address::Tcp { port: 0, .. });
        if !any_port && !taken.insert(listen) {
            return Err(ConfigError::Contradiction(format!(
                "two builders would listen on {listen}; give each its own --{}",
                Setting::BuildkitListen.name()
            )));
        }
        if let Some(builder) =
            builders.iter().find(|builder| builder.endpoint == BuilderEndpoint::Socket(listen.clone()))
        {
            return Err(ConfigError::Contradiction(format!(
                "the builder {} is itself the address to listen on; a door needs an address of its own",
                builder.endpoint
            )));
        }
    }
    Ok(builders)
}

/// Pairs drafts and listen addresses by position.
fn pair(drafts: &mut [Draft], listens: &[Given], usual: &UsualDoors) -> Result<(), ConfigError> {
    if drafts.is_empty() && !listens.is_empty() {
        return Err(ConfigError::NoBuilder { usual: Box::new(usual.clone()) });
    }
    if !listens.is_empty() && listens.len() != drafts.len() {
        return Err(ConfigError::Contradiction(format!(
            "{} but {}: they are paired in order, so give one --{} for each --{}",
            count(drafts.len(), "builder"),
            count(listens.len(), "listen address"),
            Setting::BuildkitListen.name(),
            Setting::Builder.name(),
        )));
    }
    for (draft, listen) in drafts.iter_mut().zip(listens) {
        draft.listen = Some(listen.clone());
    }
    if let [_, _, ..] = drafts
        && let Some(draft) = drafts.iter().find(|draft| draft.listen.is_none())
    {
        return Err(ConfigError::Contradiction(format!(
            "the builder {} has no address to listen on: with several builders give one --{} for each --{}",
            draft.address.text,
            Setting::BuildkitListen.name(),
            Setting::Builder.name(),
        )));
    }
    Ok(())
}

/// Applies the TLS settings outside of tables to the only draft.
fn secure(drafts: &mut [Draft], settings: &Layer) -> Result<(), ConfigError> {
    let tls = [Setting::TlsCa, Setting::TlsCert, Setting::TlsKey, Setting::TlsServerName];
    let Some(first) = tls.iter().find_map(|setting| settings.last(*setting)) else { return Ok(()) };
    let [draft] = drafts else {
        return Err(ConfigError::Contradiction(format!(
            "{} needs exactly one builder, and there are {}; with several, give each its own `tls` in a [[builder]] \
             table of the configuration file",
            first.origin,
            drafts.len(),
        )));
    };
    for (setting, slot) in tls.into_iter().zip([&mut draft.ca, &mut draft.cert, &mut draft.key, &mut draft.server_name])
    {
        if let Some(given) = settings.last(setting) {
            *slot = Some(given.clone());
        }
    }
    Ok(())
}

fn builder(draft: &Draft, mut outputs: OutputOptions, settings: &Layer, usual: &str) -> Result<Builder, ConfigError> {
    let endpoint = endpoint(&draft.address, settings)?;
    let listen = match &draft.listen {
        Some(given) => listen::address(given, settings, Listener::Buildkit)?,
        None => usual.parse().map_err(|error| ConfigError::Contradiction(format!("{error}")))?,
    };
    if let Some(given) = &draft.plain_is_load {
        outputs.plain_is_load = boolean(given)?;
    }
    if let Some(given) = &draft.load_compression {
        outputs.load_compression = load_compression(given)?;
    }
    let tls = tls(draft, &endpoint)?;
    Ok(Builder { endpoint, tls, listen, outputs })
}

fn endpoint(given: &Given, settings: &Layer) -> Result<BuilderEndpoint, ConfigError> {
    if Container::is_meant(&given.text) {
        let container = given.text.parse().map_err(|expected| invalid(given, format!("is no address: {expected}")))?;
        return Ok(BuilderEndpoint::Container { container, docker: docker_socket(given, settings)? });
    }
    match given.text.split_once(':') {
        None | Some(("unix" | "tcp", _)) => address(given).map(BuilderEndpoint::Socket),
        Some(_) => given.text.parse().map(BuilderEndpoint::Socket).map_err(|_: crate::net::AddressError| {
            invalid(
                given,
                "is no address: expected `unix:///path`, a path that begins with `/` or `.`, `tcp://host:port` or `docker-container://NAME`",
            )
        }),
    }
}

/// The socket of the dockerd that runs the builder's container, whatever the engine is.
fn docker_socket(given: &Given, settings: &Layer) -> Result<PathBuf, ConfigError> {
    // A DOCKER_HOST that points to our own docker door was set for clients.
    let parsed = |text: &str| text.parse::<Address>().ok();
    let door = settings.last(Setting::DockerListen).and_then(|door| parsed(&door.text));
    let is_other = |host: &&str| door.is_none() || parsed(host) != door;
    let host = settings.last(Setting::DockerHost).map(|host| host.text.as_str()).filter(is_other);
    let host = host.unwrap_or(DEFAULT_DOCKER_HOST);
    match host.parse() {
        Ok(Address::Unix(path)) => Ok(path),
        _ => Err(ConfigError::Contradiction(format!(
            "{}: the builder {} is reached through docker's socket, and `{host}` is none of this machine; expected \
             `unix:///path` for --{}",
            given.origin,
            given.text,
            Setting::DockerHost.name(),
        ))),
    }
}

fn address(given: &Given) -> Result<Address, ConfigError> {
    given
        .text
        .parse()
        .map_err(|error: crate::net::AddressError| invalid(given, format!("is no address: {}", error.reason)))
}

fn tls(draft: &Draft, endpoint: &BuilderEndpoint) -> Result<Option<Tls>, ConfigError> {
    let Some(first) = [&draft.ca, &draft.cert, &draft.key, &draft.server_name].into_iter().flatten().next() else {
        return Ok(None);
    };
    let wrong = |reason: &str| ConfigError::Contradiction(format!("{}: {reason}", first.origin));
    match endpoint {
        BuilderEndpoint::Socket(Address::Tcp { .. }) => {}
        BuilderEndpoint::Socket(Address::Unix(_)) => {
            return Err(wrong("TLS needs a `tcp://` builder, and this one is a unix socket"));
        }
        BuilderEndpoint::Container { .. } => {
            return Err(wrong("TLS needs a `tcp://` builder, and this one is in a container"));
        }
    }
    if draft.ca.is_none() {
        return Err(wrong("the certificate authority that signed the builder's certificate is missing (tls-ca)"));
    }
    if draft.cert.is_some() != draft.key.is_some() {
        return Err(wrong("a certificate and its key go together, and one is missing (tls-cert, tls-key)"));
    }
    let path = |given: &Option<Given>| given.as_ref().map(|given| given.text.clone().into());
    Ok(Some(Tls {
        ca: path(&draft.ca),
        cert: path(&draft.cert),
        key: path(&draft.key),
        server_name: draft.server_name.as_ref().map(|given| given.text.clone()),
        skip_verify: false,
    }))
}

fn count(number: usize, thing: &str) -> String {
    let plural = if thing.ends_with('s') { "es" } else { "s" };
    format!("{number} {thing}{}", if number == 1 { "" } else { plural })
}
