//! Checks TLS and authentication of the TCP listeners.

use std::ffi::OsString;
use std::path::PathBuf;

use super::parse::{boolean, invalid};
use super::{ConfigError, Given, Layer, Setting};
use crate::net::{Address, ServerCertificate, ServerTlsSettings};

/// The folder of generated certificates, with root.
const DEFAULT_TLS_DIR: &str = "/var/lib/linkspan/tls";
/// The most names of a generated certificate.
const MAX_NAMES: usize = 64;

/// How clients of the TCP listeners are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSecurity {
    /// The server's certificate and the authority of its clients.
    pub tls: ServerTlsSettings,
    /// Whether loopback addresses have TLS, too.
    pub tls_on_loopback: bool,
    /// The password file.
    pub htpasswd: Option<PathBuf>,
}

/// What listens at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    Buildkit,
    Export,
    Registry { is_writable: bool },
    Metrics,
}

impl Listener {
    /// Whether its clients can say by a password who they are. By a certificate all can.
    fn takes_passwords(self) -> bool {
        self != Self::Buildkit
    }

    /// What whoever reaches it can do.
    fn reach(self) -> &'static str {
        match self {
            Self::Buildkit => "uses the builder, and can set any image of the engine",
            Self::Export | Self::Registry { is_writable: true } => "reads the engine's images, and can set any of them",
            Self::Registry { is_writable: false } => "reads the engine's images",
            Self::Metrics => "sees how much this daemon does, and what fails",
        }
    }
}

impl ListenerSecurity {
    /// Whether a listener at `address` has TLS.
    pub fn has_tls(&self, address: &Address) -> bool {
        matches!(address, Address::Tcp { .. }) && (self.tls_on_loopback || !address.is_local())
    }
}

/// Checks the settings of all listeners. `variable` reads the environment.
pub(super) fn check(
    settings: &Layer,
    is_root: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<ListenerSecurity, ConfigError> {
    let file = |setting| settings.last(setting).map(path).transpose();
    let (cert, key) = (file(Setting::ListenTlsCert)?, file(Setting::ListenTlsKey)?);
    let names = settings.all(Setting::ListenTlsName).iter().map(name).collect::<Result<Vec<_>, _>>()?;
    if names.len() > MAX_NAMES {
        let (flag, count) = (Setting::ListenTlsName.name(), names.len());
        return Err(ConfigError::Contradiction(format!("{count} times --{flag}; expected at most {MAX_NAMES}")));
    }
    let certificate = match (cert, key) {
        (Some(cert), Some(key)) => ServerCertificate::Files { cert, key },
        (None, None) => {
            let folder = match file(Setting::ListenTlsDir)? {
                Some(folder) => folder,
                None => default_folder(is_root, variable),
            };
            ServerCertificate::Generated { folder, names }
        }
        _ => {
            return Err(ConfigError::Contradiction(format!(
                "a certificate and its key go together, and one is missing (--{}, --{})",
                Setting::ListenTlsCert.name(),
                Setting::ListenTlsKey.name()
            )));
        }
    };
    Ok(ListenerSecurity {
        tls: ServerTlsSettings { certificate, client_ca: file(Setting::ListenTlsClientCa)? },
        tls_on_loopback: settings.last(Setting::ListenTlsLoopback).map(boolean).transpose()?.unwrap_or(false),
        htpasswd: file(Setting::ListenHtpasswd)?,
    })
}

/// An address to listen at, wherever it may be reached from.
pub(super) fn parsed(given: &Given) -> Result<Address, ConfigError> {
    given.text.parse::<Address>().map_err(|error| invalid(given, format!("is no address: {}", error.reason)))
}

/// Where `listener` listens. An address that other machines reach needs clients that can say who they are.
pub(super) fn address(given: &Given, settings: &Layer, listener: Listener) -> Result<Address, ConfigError> {
    let address = parsed(given)?;
    let has = |setting| settings.last(setting).is_some();
    let is_proven = has(Setting::ListenTlsClientCa) || listener.takes_passwords() && has(Setting::ListenHtpasswd);
    if address.is_local() || is_proven {
        return Ok(address);
    }
    let expected = match listener.takes_passwords() {
        false => format!(
            "--{} for clients with certificates (BuildKit's clients send no passwords)",
            Setting::ListenTlsClientCa.name()
        ),
        true => format!(
            "--{} for clients with certificates or --{} for users with passwords",
            Setting::ListenTlsClientCa.name(),
            Setting::ListenHtpasswd.name()
        ),
    };
    Err(invalid(
        given,
        format!(
            "can be reached from other machines, and whoever reaches it {}; expected {expected}, or a unix socket or a loopback \
             address such as `tcp://127.0.0.1:1234`",
            listener.reach()
        ),
    ))
}

fn path(given: &Given) -> Result<PathBuf, ConfigError> {
    if given.text.is_empty() || given.text.contains("://") {
        return Err(invalid(given, "is no path; expected one such as `/etc/linkspan/cert.pem`"));
    }
    Ok(given.text.clone().into())
}

/// A host name or an address, for a certificate.
fn name(given: &Given) -> Result<String, ConfigError> {
    let text = &given.text;
    let is_name = rustls_pki_types::ServerName::try_from(text.as_str()).is_ok();
    if is_name { Ok(text.clone()) } else { Err(invalid(given, "is neither a host name nor an IP address")) }
}

/// XDG Base Directory Specification: state that is kept between restarts.
fn default_folder(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = || absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    match own().filter(|_| !is_root) {
        Some(state) => state.join("linkspan/tls"),
        None => DEFAULT_TLS_DIR.into(),
    }
}
